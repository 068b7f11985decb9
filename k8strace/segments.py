"""The files of a store: segments, found, locked, opened, set aside."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from k8strace._store import FIRST_RECORD, FORMAT, Scan, read_head

SUFFIX, UNFINISHED, DAMAGED = ".segment", ".new", ".damaged"


class Totals(NamedTuple):
    """What was found to be stored."""

    records: int = 0
    spans: int = 0
    size: int = 0


class Place:
    """Where a record stands, and the mark that says that it is done."""

    __slots__ = ("mark", "offset", "segment")

    def __init__(self, segment: Segment, offset: int, mark: int) -> None:
        self.segment = segment
        self.offset = offset
        self.mark = mark


class Folder:
    """A folder of segments, open."""

    __slots__ = ("fd", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Segment:
    """A file of records. `live` of them are not done; up to `read_to` they were read.

    `used` is where its records end, `size` what it takes on the disk.
    """

    __slots__ = (
        *("fd", "folder", "is_sealed", "is_used", "last_id", "live", "name", "number"),
        *("read_to", "salt", "size", "used"),
    )

    def __init__(
        self, folder: Folder, name: str, fd: int, number: int, salt: int, size: int
    ) -> None:
        self.folder = folder
        self.name = name
        self.fd = fd
        self.number = number
        self.salt = salt
        self.size = size
        self.used = FIRST_RECORD
        self.read_to = FIRST_RECORD
        self.last_id = 0  # of what was read
        self.live = 0
        self.is_sealed = False  # nothing more is written to it
        self.is_used = 0  # by how many jobs

    @property
    def path(self) -> Path:
        return self.folder.path / self.name

    @property
    def is_read(self) -> bool:
        return self.read_to >= self.used

    @property
    def is_over(self) -> bool:
        return self.is_sealed and self.is_read and not self.live and not self.is_used

    def cut_to(self, size: int) -> None:
        """Have the file end there. Raises OSError."""
        os.ftruncate(self.fd, size)
        self.size = size

    def set_aside(self, offset: int, size: int, *, wipe: bool) -> Path:
        """Copy damaged bytes into a file of their own; `wipe` leaves zeros in their place.

        Raises OSError.
        """
        aside = self.path.with_suffix(f".{offset}{DAMAGED}")
        aside.write_bytes(os.pread(self.fd, size, offset))
        if wipe:
            os.pwrite(self.fd, bytes(size), offset)
        return aside


def open_segment(folder: Folder, name: str, fd: int) -> Segment | None:
    """The segment that `fd` is; None for what has no whole head, which is set aside.

    Raises OSError for one of another version.
    """
    path = folder.path / name
    block = os.pread(fd, FIRST_RECORD, 0)
    head = read_head(block)
    if head is None:
        if any(block):
            path.rename(path.with_name(name + DAMAGED))
        else:
            path.unlink()
        return None
    number, salt, version = head
    if version != FORMAT:
        raise other_version(path, version)
    return Segment(folder, name, fd, number, salt, os.fstat(fd).st_size)


def other_version(path: Path, version: int | str) -> OSError:
    return OSError(
        errno.EINVAL,
        f"written by another version of k8strace (store {version}, this one has {FORMAT}): "
        "let that one deliver what is stored, or move it away",
        str(path),
    )


def segments(base: Path) -> Iterator[Path]:
    """All segments below an exporter's folder."""
    for slot in base.iterdir():
        if slot.name.isdigit() and slot.is_dir():
            yield from (one for one in sorted(slot.iterdir()) if one.name.endswith(SUFFIX))


def count(path: Path) -> Totals:
    """What a segment holds, as far as it can be read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = read_head(os.pread(fd, FIRST_RECORD, 0))
        if head is None:
            return Totals()
        scan = Scan(fd, os.fstat(fd).st_size, head[1])
        scan.run()
        return Totals(*scan.totals)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def claim(path: Path) -> int | None:
    """The file, locked; None where another process holds it, or has just removed it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def remove_unfinished(path: Path) -> None:
    fd = claim(path)
    if fd is not None:
        path.unlink(missing_ok=True)
        os.close(fd)
