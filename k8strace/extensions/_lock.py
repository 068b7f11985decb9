"""The lock on a directory, by which one gateway has it; and who wrote there."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from k8strace._store import FORMAT
from k8strace.segments import open_regular, other_version

NAME = "k8strace.lock"
_TEXT = "k8strace store "


class Lock:
    """A directory that this process has, as often as it takes it."""

    def __init__(self, fd: int, key: tuple[int, int]) -> None:
        self.times = 0
        self.fd = fd
        self._key = key

    @classmethod
    def take(cls, directory: Path) -> Lock | None:
        """None: another process has it. Raises OSError, also for another version's."""
        status = os.stat(directory)
        key = (status.st_dev, status.st_ino)
        path = directory / NAME
        held = _held.get(key)
        if held is not None and held.is_at(path):
            held.times += 1
            return held
        fd = open_regular(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_version(fd, path)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        lock = _held[key] = cls(fd, key)
        lock.times = 1
        return lock

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is the one that is locked."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self.fd))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        self.times -= 1
        if not self.times:
            if _held.get(self._key) is self:
                del _held[self._key]
            os.close(self.fd)


_held: dict[tuple[int, int], Lock] = {}


def _check_version(fd: int, path: Path) -> None:
    text = os.pread(fd, 100, 0).decode(errors="replace")
    if not text:
        # Who has no right to the mode may have one to the file; on a full disk what is
        # stored is to be delivered, which makes space.
        with suppress(PermissionError):
            os.fchmod(fd, 0o600)
        try:
            os.pwrite(fd, f"{_TEXT}{FORMAT}\n".encode(), 0)
            os.fsync(fd)
        except OSError as error:
            os.ftruncate(fd, 0)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, error.strerror, str(path)) from error
    elif text.strip() != f"{_TEXT}{FORMAT}":
        raise other_version(path, text.removeprefix(_TEXT).strip()[:20])
