"""The files of a store: segments, found, locked, opened, set aside."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from k8strace._store import FIRST_RECORD, FORMAT, Scan, end_at, read_extent, read_head

SUFFIX, UNFINISHED, DAMAGED = ".segment", ".new", ".damaged"
FOLDER_MODE = 0o750
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


class OtherVersionError(OSError):
    """A store of another version of k8strace, in a format that this one cannot read."""


class NotAFileError(OSError):
    """What has the name of a segment and is not a regular file."""


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

    `used` is where its records end, `size` what it takes on the disk, `missing` the bytes
    by which it is shorter than it was written.
    """

    __slots__ = (
        *("fd", "folder", "is_sealed", "is_used", "last_id", "live", "missing", "name"),
        *("number", "read_to", "salt", "size", "used"),
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
        self.missing = 0
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

    def end_at(self, size: int) -> None:
        """Cut the file to `size`. Raises OSError."""
        number = end_at(self.fd, self.salt, size)
        if number:
            raise OSError(number, os.strerror(number), str(self.path))
        self.size = size
        self.missing = 0


def open_segment(folder: Folder, name: str, fd: int) -> Segment | None:
    """The segment that `fd` is; None for what has no whole head, which is set aside.

    Raises OSError, and OtherVersionError for one of another version.
    """
    path = folder.path / name
    block = os.pread(fd, FIRST_RECORD, 0)
    head = read_head(block)
    if head is None:
        with suppress(OSError):  # it may be read-only, and is set aside nevertheless
            os.fchmod(fd, 0o600)
        path.rename(path.with_name(name + DAMAGED))
        os.fsync(folder.fd)
        return None
    number, salt, version = head
    if version != FORMAT:
        raise other_version(path, version)
    size = os.fstat(fd).st_size
    extent = read_extent(block, salt)
    if extent is None:
        return Segment(folder, name, fd, number, salt, size)
    segment = Segment(folder, name, fd, number, salt, min(size, extent))
    segment.missing = extent - segment.size
    return segment


def other_version(path: Path, version: int | str) -> OtherVersionError:
    return OtherVersionError(
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
    try:
        fd = open_regular(path, os.O_RDONLY)
    except OSError:
        return Totals()
    try:
        head = read_head(os.pread(fd, FIRST_RECORD, 0))
        if head is None:
            return Totals()
        scan = Scan(fd, os.fstat(fd).st_size, head[1])
        scan.run()
        return Totals(*scan.totals)
    except OSError:
        return Totals()
    finally:
        os.close(fd)


def open_regular(path: Path, flags: int, mode: int = 0) -> int:
    """Open a regular file. Raises OSError; NotAFileError, at once, for anything else."""
    try:
        fd = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_a_file(path) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _not_a_file(path)
    return fd


def _not_a_file(path: Path) -> NotAFileError:
    return NotAFileError(errno.EINVAL, "is not a regular file", str(path))


def make_folder(path: Path) -> None:
    """Make a folder that only we write to, where there is none. Raises OSError."""
    try:
        path.mkdir(FOLDER_MODE)
    except FileExistsError:
        return
    path.chmod(FOLDER_MODE)  # whatever the umask is
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def claim(path: Path) -> int | None:
    """The file, locked; None where another process holds it, or has just removed it.

    Raises OSError, and NotAFileError for what is not a regular file.
    """
    try:
        fd = open_regular(path, os.O_RDWR)
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
    """Remove a segment that a process began and did not finish. Raises OSError."""
    fd = claim(path)
    if fd is not None:
        path.unlink(missing_ok=True)
        os.close(fd)
