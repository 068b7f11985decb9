"""A durable line of records: put at one end, read at the other, gone when they are done.

Records stand in segments, files of a fixed size that belong to one process: it holds the
lock on each. They are named by the time they were begun at, so that names are in order.

1. A record counts as stored when the group that it was written with is on the disk. There
   is one group at a time; what comes meanwhile is the next one.
2. A record that is done is marked in its place. A segment of which all are done is removed.
   Neither needs space.
3. What is in no memory is read back. A record that fails its checksum is set aside, in a
   file of its own, and is done with; the next one follows.
4. Nothing that waits for the disk is done on the event loop, but at the start, and when a
   folder was replaced.
5. A record is stored where the next process will look for it: when a folder is removed,
   renamed or replaced, requests are refused until there is one at its path again.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, Protocol

from k8strace import threads
from k8strace._store import (
    FIRST_RECORD,
    LARGEST_BODY,
    LOST,
    RECORD,
    Append,
    Locate,
    Scan,
    SetAside,
    Settle,
    record_size,
)
from k8strace.background import ended, spawn
from k8strace.segments import (
    DAMAGED,
    SUFFIX,
    UNFINISHED,
    Folder,
    NotAFileError,
    OtherVersionError,
    Place,
    Segment,
    Totals,
    claim,
    make_folder,
    open_segment,
    remove_unfinished,
)

SEGMENT_SIZE = 16 * 1024 * 1024
"""Bytes that a segment takes, however little is stored; larger if a record needs that."""

READ_SIZE = 1024 * 1024  # bytes that are read at once


class Stored(NamedTuple):
    """A record that was read. Of one that is not `intact` there is no `meta` and no `body`;
    0 spans where nobody can say how many it had. `is_kept` says that its bytes could not be
    set aside: they stay in the segment. `time` is in seconds since 1970."""

    place: Place
    intact: bool
    is_kept: bool
    time: float
    spans: int
    size: int
    meta: bytes = b""
    body: bytes = b""


class Committed(Protocol):
    """Told what became of a record: its place, or why it is not stored.

    `is_next` says that all before it was read or kept; returns whether its record is kept
    in memory, so that it isn't to be read.
    """

    def __call__(self, stored: Place | OSError, is_next: bool) -> bool: ...


class _Waiting(NamedTuple):
    row: tuple[bytes, tuple[bytes, ...], int]
    size: int
    committed: Committed


class Store:
    """The records below `base`, of one of several workers that share it.

    A worker's segments are in the folder of its slot; those in folders of slots that there
    are no more are divided among the workers. `on_commit` is told how many seconds each
    commit took.
    """

    def __init__(
        self,
        base: Path,
        log: logging.LoggerAdapter[logging.Logger],
        *,
        slot: int = 0,
        workers: int = 1,
        segment_size: int = SEGMENT_SIZE,
        on_commit: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.base = base
        self.foreign = 0
        """Segments that another process holds, which has been told to end."""
        self.damaged = 0
        """Segments that were found to be damaged as a whole, or shorter than they were."""
        self._log = log
        self._slot = slot
        self._workers = workers
        self._segment_size = segment_size
        self._on_commit = on_commit
        self._folders: dict[Path, Folder] = {}
        self._replaced: list[Folder] = []  # others are at their paths by now
        self._passed_over: set[Path] = set()  # what cannot be used, and was told of
        self._is_lost = False  # our folder is not at its path any more
        self._segments: dict[Path, Segment] = {}
        self._unread: list[Segment] = []  # the oldest first
        self._current: Segment | None = None
        self._next_id = 1
        self._last_number = 0
        self._waiting: deque[_Waiting] = deque()
        self._marks: list[Place] = []
        self._over: list[Segment] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._committer: asyncio.Task[None] | None = None
        self._settler: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes on the disk."""
        return sum(segment.size for segment in self._segments.values())

    @property
    def records(self) -> int:
        """Records that are not done."""
        return sum(segment.live for segment in self._segments.values())

    @property
    def has_unread(self) -> bool:
        return self._first_unread() is not None

    async def open(self) -> Totals:
        """Find what is stored. Raises OSError that names the file."""
        own = self.base / str(self._slot)
        for folder in (self.base, own):
            make_folder(folder)
        self._folder(own)
        return await self.adopt()

    async def adopt(self) -> Totals:
        """Take over what no process holds any more; `foreign` is what is left then."""
        found = Totals()
        self.foreign = 0
        for folder in [self._folder(path) for path in self._paths()]:
            for name in sorted(os.listdir(folder.path)):
                path = folder.path / name
                if path in self._segments or path in self._passed_over:
                    continue
                try:
                    if name.endswith(SUFFIX + UNFINISHED):
                        remove_unfinished(path)
                    elif name.endswith(SUFFIX):
                        counted = await self._adopt(folder, name)
                        found = Totals(*map(sum, zip(found, counted, strict=True)))
                except NotAFileError:
                    self._passed_over.add(path)
                    self._log.error("%s is not a regular file: it is passed over", path)
        self._unread.sort(key=attrgetter("number"))
        return found

    async def look_after(self) -> Totals:
        """Periodic: find out whether our folder is in its place, adopt what others leave.

        Returns what was found to be stored. Raises OSError.
        """
        own = self._folders[self.base / str(self._slot)]
        if not self._is_lost:
            await self._locate(own)
        if self._is_lost:
            self._take_back()
        elif not self.foreign:
            return Totals()
        return await self.adopt()

    def put(
        self, meta: bytes, chunks: tuple[bytes, ...], spans: int, committed: Committed
    ) -> None:
        """Store a record; `committed` is called when it is, or cannot be."""
        length = sum(map(len, chunks))
        if length > LARGEST_BODY:
            text = f"a request of {length} bytes is larger than a record can be"
            committed(OSError(errno.EFBIG, text, str(self.base)), False)
            return
        size = record_size(len(meta), length)
        self._waiting.append(_Waiting((meta, chunks, spans), size, committed))
        if self._committer is None:
            self._committer = spawn(
                self._commit(), "storing requests", self._log, self._tasks
            )

    def finish(self, place: Place) -> None:
        """Say that a record is done: it is never handed out again."""
        segment = place.segment
        segment.live -= 1
        if place.mark:
            self._marks.append(place)
        self._look_at(segment)
        self._settle_soon()

    async def read(self, most: int = READ_SIZE) -> list[Stored]:
        """The next records, about `most` bytes of them; empty when there are none."""
        while (segment := self._first_unread()) is not None:
            scan = Scan(
                segment.fd,
                segment.used,
                segment.salt,
                segment.read_to,
                segment.last_id,
                most,
            )
            segment.is_used += 1
            try:
                await threads.run(scan, for_disk=True)
                if scan.error:
                    self._log.error(
                        "cannot read %s, what is in it stays there: %s",
                        *(segment.path, os.strerror(scan.error)),
                    )
                    segment.read_to = segment.used
                    continue
                segment.read_to, segment.last_id = scan.offset, scan.last_id
                records = [await self._stored(segment, *row) for row in scan.found()]
            finally:
                segment.is_used -= 1
            self._look_at(segment)
            self._settle_soon()
            if records:
                return records
        return []

    async def quarantine(self, record: Stored, why: str) -> bool:
        """Set an intact record aside that cannot be used; False: it stays where it is."""
        size = record_size(len(record.meta), record.size)
        return await self._set_aside(record.place, size, f"cannot be used: {why}")

    async def flush(self) -> None:
        """Return when nothing waits to be stored."""
        while self._committer is not None:
            await ended(self._committer)

    async def close(self) -> Totals:
        """Bring everything to the disk, and let go of it.

        Returns what was stored in files that somebody has removed meanwhile.
        """
        await self.flush()
        current, self._current = self._current, None
        if current is not None:
            self._seal(current)
        while self._settler is not None:
            await ended(self._settler)
        rest, self._segments = list(self._segments.values()), {}
        self._unread.clear()
        lost = Totals()
        for one in rest:
            if one.live and not os.fstat(one.fd).st_nlink:
                counted = Totals(*(await _scanned(one)).totals)
                lost = Totals(*map(sum, zip(lost, counted, strict=True)))
        closing = [
            (one.fd, one.folder.fd, None, one.salt, one.size if one is current else -1)
            for one in rest
        ]
        await self._settled(Settle([], closing))
        for folder in (*self._folders.values(), *self._replaced):
            os.close(folder.fd)
            if folder.path.name != str(self._slot):
                with suppress(OSError):  # it isn't empty
                    folder.path.rmdir()
        self._folders.clear()
        self._replaced.clear()
        return lost

    def _first_unread(self) -> Segment | None:
        while self._unread and self._unread[0].is_read and self._unread[0].is_sealed:
            del self._unread[0]
        return next((one for one in self._unread if not one.is_read), None)

    def _paths(self) -> list[Path]:
        """The folders of this worker: its slot's, and some of slots that are no more."""
        found = [self.base / str(self._slot)]
        for path in sorted(self.base.iterdir()):
            slot = int(path.name) if path.name.isdecimal() and path.name.isascii() else -1
            ours = slot >= self._workers and slot % self._workers == self._slot
            if ours and path.is_dir():
                found.append(path)
        return found

    def _folder(self, path: Path) -> Folder:
        if path not in self._folders:
            self._folders[path] = Folder(path)
        return self._folders[path]

    async def _adopt(self, folder: Folder, name: str) -> Totals:
        """Lock a segment and count its live records; empty if another process holds it."""
        path = folder.path / name
        fd = claim(path)
        if fd is None:
            self.foreign += path.exists()
            return Totals()
        try:
            segment = open_segment(folder, name, fd)
            if segment is None:
                os.close(fd)
                self._log.error("%s is no segment of a store: it is set aside", path)
                self.damaged += 1
                return Totals()
            scan = await _scanned(segment)
            self._cut(segment, scan.torn_at)
        except OSError as error:
            os.close(fd)
            if isinstance(error, OtherVersionError):
                raise
            # The others can be delivered all the same.
            self._passed_over.add(path)
            self.damaged += 1
            self._log.error("cannot read %s, what is in it stays there: %s", path, error)
            return Totals()
        except BaseException:
            os.close(fd)
            raise
        totals = Totals(*scan.totals)
        segment.used = segment.size
        segment.live = totals.records
        segment.is_sealed = True
        self._segments[path] = segment
        self._last_number = max(self._last_number, segment.number)
        if totals.records:
            self._unread.append(segment)
        else:
            segment.read_to = segment.used
            self._look_at(segment)
            self._settle_soon()
        return totals

    def _cut(self, segment: Segment, torn_at: int | None) -> None:
        """Cut off what was never finished, and say what is missing. Raises OSError."""
        if segment.missing:
            self.damaged += 1
            self._log.error(
                "%s was cut short by %d bytes: what was stored in them is lost",
                *(segment.path, segment.missing),
            )
        if torn_at is not None:
            self._log.info(
                "%s ends in a request that was being written when its process ended",
                segment.path,
            )
        if segment.missing or torn_at is not None:
            segment.end_at(segment.size if torn_at is None else torn_at)

    async def _commit(self) -> None:
        try:
            while self._waiting:
                group: list[_Waiting] = []
                try:
                    await self._commit_group(group)
                except Exception as error:
                    self._log.exception("committing failed")
                    why = OSError(errno.EIO, repr(error), str(self.base))
                    if not group and self._waiting:
                        group = self._take_group(self._segment_size)
                    for one in group:
                        self._tell(one, why, False)
        finally:
            self._committer = None

    async def _commit_group(self, group: list[_Waiting]) -> None:
        """Store as much of what waits as goes into one segment: that is the `group`."""
        if self._is_lost:
            try:
                self._take_back()
            except OSError as error:
                for one in self._take_group(self._segment_size):
                    self._tell(one, error, False)
                return
        first, former = self._waiting[0], self._current
        segment = former
        if segment is None or segment.used + first.size > segment.size:
            segment = self._begun(max(self._segment_size, FIRST_RECORD + first.size))
        group += self._take_group(segment.size - segment.used)
        append = Append(
            [one.row for one in group],
            self._next_id,
            time.time_ns(),
            segment.salt,
            segment.fd,
            segment.used,
            segment.folder.fd,
            os.fsencode(segment.folder.path),
            segment.name.encode(),
        )
        if segment is not former:
            ending = (-1, 0, 0)
            if former is not None:
                ending = (former.fd, former.salt, former.used)
            append.begin(segment.number, segment.size, *ending)
        self._next_id += len(group)
        segment.is_used += 1
        try:
            await threads.run(append, for_disk=True)
        finally:
            segment.is_used -= 1
        if append.error:
            if segment is former:
                self._seal(segment)
                self._current = None
            if append.error == errno.ESTALE:
                await self._locate(segment.folder)
            why = OSError(append.error, _why(append.error), str(segment.path))
            failed, group[:] = group[:], []
            for one in failed:
                self._tell(one, why, False)
            return
        if segment is not former:
            if former is not None:
                self._seal(former)
            segment.fd = append.fd
            self._current = self._segments[segment.path] = segment
            self._unread.append(segment)
        self._on_commit(append.seconds)
        committed, group[:] = group[:], []
        self._hand_out(segment, committed, append.places)

    def _take_group(self, room: int) -> list[_Waiting]:
        """The first that wait, as many as `room` bytes hold, at least one."""
        group = [self._waiting.popleft()]
        room -= group[0].size
        while self._waiting and self._waiting[0].size <= room:
            group.append(self._waiting.popleft())
            room -= group[-1].size
        return group

    def _hand_out(
        self, segment: Segment, group: list[_Waiting], places: list[tuple[int, int]]
    ) -> None:
        is_next = not self.has_unread
        segment.used += sum(one.size for one in group)
        segment.live += len(group)
        for one, (offset, mark) in zip(group, places, strict=True):
            is_next = self._tell(one, Place(segment, offset, mark), is_next) and is_next
            if is_next:
                segment.read_to = offset + one.size

    def _tell(self, one: _Waiting, stored: Place | OSError, is_next: bool) -> bool:
        """What `committed` returns; where it fails the others are told all the same."""
        try:
            return one.committed(stored, is_next)
        except Exception:
            self._log.exception("a request could not be told what became of it")
            return False

    async def _locate(self, folder: Folder) -> None:
        """Look whether our folder is in its place, and say if it is not."""
        look = Locate(folder.fd, os.fsencode(folder.path))
        await threads.run(look, for_disk=True)
        if look.error == errno.ESTALE and not self._is_lost:
            self._is_lost = True
            self._log.error(
                "%s was removed, renamed or replaced: requests are refused until it is "
                "back; %d that were stored there are lost if this process ends before it "
                "has delivered them",
                *(folder.path, self.records),
            )

    def _take_back(self) -> None:
        """Go on in the folder that is at our path now. Raises OSError.

        The directory of all stores is its operator's to make; folders below it are ours.
        """
        own = self.base / str(self._slot)
        for path in (self.base, own):
            make_folder(path)
        folder, former = Folder(own), self._folders[own]
        if os.path.sameopenfile(folder.fd, former.fd):
            os.close(folder.fd)
        else:
            self._replaced.append(former)
            self._folders[own] = folder
            if self._current is not None:
                self._seal(self._current)
                self._current = None
        self._is_lost = False
        self._log.warning("%s is there again: requests are stored", own)

    def _begun(self, size: int) -> Segment:
        """A segment that is not there yet."""
        number = max(self._last_number + 1, time.time_ns())
        self._last_number = number
        salt = int.from_bytes(os.urandom(4), "little")
        folder = self._folder(self.base / str(self._slot))
        return Segment(folder, f"{number:016x}{SUFFIX}", -1, number, salt, size)

    def _seal(self, segment: Segment) -> None:
        segment.is_sealed = True
        segment.size = segment.used
        self._look_at(segment)
        self._settle_soon()

    def _look_at(self, segment: Segment) -> None:
        """Have a segment removed of which nothing is left to do."""
        if segment.is_over and self._segments.pop(segment.path, None) is not None:
            self._over.append(segment)

    def _settle_soon(self) -> None:
        if self._settler is None and (self._marks or self._over):
            self._settler = spawn(
                self._settle(), "noting what is done", self._log, self._tasks
            )

    async def _settle(self) -> None:
        try:
            while self._marks or self._over:
                over, self._over = self._over, []
                gone = set(over)
                marks = [one for one in self._marks if one.segment not in gone]
                self._marks = []
                settle = Settle(
                    [(one.segment.fd, one.offset, one.mark) for one in marks],
                    [(one.fd, one.folder.fd, one.name.encode(), 0, -1) for one in over],
                )
                await self._settled(settle)
        finally:
            self._settler = None

    async def _settled(self, settle: Settle) -> None:
        await threads.run(settle, for_disk=True)
        if settle.error:
            self._log.error(
                "cannot note in %s what is done, it will come again: %s",
                *(self.base, os.strerror(settle.error)),
            )

    async def _stored(
        self,
        segment: Segment,
        what: int,
        offset: int,
        total: int,
        mark: int,
        stored_at: int,
        spans: int,
        size: int,
        meta: bytes,
        body: bytes,
    ) -> Stored:
        place = Place(segment, offset, mark)
        is_kept = what != RECORD and not await self._set_aside(
            place, total, "fail their checksum", wipes=what == LOST
        )
        return Stored(
            place, what == RECORD, is_kept, stored_at / 1e9, spans, size, meta, body
        )

    async def _set_aside(
        self, place: Place, size: int, why: str, *, wipes: bool = False
    ) -> bool:
        """Copy bytes that are of no use into a file of their own; returns whether it is."""
        segment = place.segment
        name = f"{segment.name.removesuffix(SUFFIX)}.{place.offset}{DAMAGED}"
        copy = SetAside(
            segment.fd, place.offset, size, segment.folder.fd, name.encode(), wipes
        )
        segment.is_used += 1
        try:
            await threads.run(copy, for_disk=True)
        finally:
            segment.is_used -= 1
        where = f"they are set aside as {name}"
        if copy.error:
            where = f"they stay there, as they cannot be set aside: {_why(copy.error)}"
        self._log.error(
            "%d bytes at %d in %s %s; %s", size, place.offset, segment.path, why, where
        )
        return not copy.error


async def _scanned(segment: Segment) -> Scan:
    """Count what a segment holds. Raises OSError."""
    scan = Scan(segment.fd, segment.size, segment.salt)
    await threads.run(scan, for_disk=True)
    if scan.error:
        raise OSError(scan.error, os.strerror(scan.error), str(segment.path))
    return scan


def _why(number: int) -> str:
    if number == errno.ESTALE:
        return (
            "the file was cut short, or it or its folder was removed, renamed or replaced, "
            "while it was in use"
        )
    return os.strerror(number)
