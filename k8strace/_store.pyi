"""What threads do for a store: append to segments, settle what is done, read what is there.

A segment is a file of fixed size that is filled from the front; `_segment.pxd` says how.
Each class here is a job for a thread (`threads.run`, once); it changes files, and keeps no
file open but one that it has begun. `error` is the number of the error that ended it, or 0.
"""

from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer

from k8strace._threads import Port

FORMAT: int
"""The version of what is written."""
FIRST_RECORD: int
"""Where in a segment the first record stands."""
LARGEST_BODY: int
"""The largest number of bytes of spans in a record."""

# What was found: a record; one whose bytes fail their checksum; what was once a record.
RECORD: int
CORRUPT: int
LOST: int

def crc32c(data: Buffer, crc: int = 0) -> int:
    """The CRC-32C of `data`, going on from that of what comes before it."""

def record_size(meta: int, length: int) -> int:
    """The bytes that a record takes which has so many."""

def read_head(block: bytes) -> tuple[int, int, int] | None:
    """Number, salt and version of the segment whose first FIRST_RECORD bytes these are.

    None: they are no segment's.
    """

def read_extent(block: bytes, salt: int) -> int | None:
    """The length that the segment with this first block has unless it was cut short.

    None: it is not known, as of segments of older versions.
    """

def end_at(fd: int, salt: int, size: int) -> int:
    """Cut a segment to `size`, here and now. Returns the number of an error, or 0."""

@final
class Append:
    """Writes records behind one another, and returns when they are on the disk.

    `rows` are (meta, chunks, spans). All of them are written, or none: then the segment
    ends where it did before, and takes no more. The segment is called `name` in the folder
    `folder`, whose path is `path`: where one of them is not in its place any more, the
    error is ESTALE.
    """

    def __init__(
        self,
        rows: list[tuple[bytes, tuple[bytes, ...], int]],
        first_id: int,
        time: int,
        salt: int,
        fd: int,
        offset: int,
        folder: int,
        path: bytes,
        name: bytes,
    ) -> None: ...
    def begin(
        self,
        number: int,
        capacity: int,
        former: int,
        former_salt: int,
        former_size: int,
    ) -> None:
        """Begin the segment, locked, instead of writing to `fd`.

        The segment before it is cut to what it holds (-1: there is none).
        """

    def submit(self, port: Port, token: object) -> None: ...
    @property
    def fd(self) -> int:
        """The segment, -1 where it could not be begun."""

    @property
    def places(self) -> list[tuple[int, int]]:
        """For each record where it begins, and the mark that says that it is done."""

    @property
    def error(self) -> int: ...
    @property
    def seconds(self) -> float:
        """How long it took."""

@final
class Settle:
    """Marks records as done, and closes segments.

    `marks` are (fd, offset, mark). `closing` are (fd, folder, name, salt, end): a segment
    with a name is removed, another one cut to `end` (-1: as it is) and brought to the disk.
    """

    def __init__(
        self,
        marks: list[tuple[int, int, int]],
        closing: Sequence[tuple[int, int, bytes | None, int, int]],
    ) -> None: ...
    def submit(self, port: Port, token: object) -> None: ...
    @property
    def error(self) -> int: ...

@final
class Locate:
    """Looks whether the folder `folder` is still at `path`; the error is ESTALE if not."""

    def __init__(self, folder: int, path: bytes) -> None: ...
    def submit(self, port: Port, token: object) -> None: ...
    @property
    def error(self) -> int: ...

@final
class SetAside:
    """Copies bytes of a segment into the file `name` in `folder`, which only we may read.

    Where it `wipes`, zeros are left in their place. After an error there is no copy, or the
    bytes are still there.
    """

    def __init__(
        self, fd: int, offset: int, size: int, folder: int, name: bytes, wipes: bool
    ) -> None: ...
    def submit(self, port: Port, token: object) -> None: ...
    @property
    def error(self) -> int: ...

@final
class Scan:
    """Looks for records that are not done, from `offset` to `end`.

    It reads about `most` bytes of them, at least one record, and goes no further; with 0 it
    counts them all. `last_id` is that of the record before. What was never finished is not
    to be read: `torn_at` of what was counted is the `end` then.
    """

    def __init__(
        self,
        fd: int,
        end: int,
        salt: int,
        offset: int = ...,
        last_id: int = 0,
        most: int = 0,
    ) -> None: ...
    def run(self) -> None:
        """Do it here and now."""

    def submit(self, port: Port, token: object) -> None: ...
    @property
    def totals(self) -> tuple[int, int, int]:
        """What was counted: records, their spans, the bytes of those."""

    def found(self) -> list[tuple[int, int, int, int, int, int, int, bytes, bytes]]:
        """What was read: what, offset, size, mark, time, spans, length, meta, bytes."""

    @property
    def torn_at(self) -> int | None:
        """Where a record begins that was never finished; only counting tells."""

    @property
    def offset(self) -> int:
        """Up to where it has looked."""

    @property
    def last_id(self) -> int: ...
    @property
    def error(self) -> int: ...
