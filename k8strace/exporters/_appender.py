"""A regular file that threads append records to, in order, each whole or not at all.

The disk may be slow, or its mount may never answer: the event loop waits for neither. What
waits for its turn is a payload, which its lease counts; its record is made when the turn
comes, and those whose turn comes together are one write, if the budget has room for them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from k8strace import threads
from k8strace._files import Append, Sync
from k8strace._threads import Port
from k8strace.background import in_thread, spawn
from k8strace.errors import RefusedError
from k8strace.exporters._output import open_to_append
from k8strace.exporters._rotation import Rotation
from k8strace.passes import Loan
from k8strace.units import MIB

MOST = MIB  # bytes of records that one write is made of, unless one is larger
OPEN_TIMEOUT = 10.0  # seconds for a mount to answer at the start
CLOSE_TIMEOUT = 2.0  # seconds for what is being written at the end, which is due by then

Record = tuple[bytes, ...]
"""Bytes that are written one after the other, whole or not at all."""

Make = Callable[[float], Awaitable[tuple[Record, Loan]]]
"""Makes a record, and says what holds it until it is written.

Raises RefusedError where the budget has no room for it up to a time of the loop.
"""

Log = logging.LoggerAdapter[logging.Logger]


class _Waiting(NamedTuple):
    make: Make
    holds: Any  # what has to be there until it is written
    written: asyncio.Future[None]


class _Made(NamedTuple):
    waiting: _Waiting
    record: Record
    size: int
    loan: Loan


class Appender:
    """Appends to an open `file` at `path`, which it closes."""

    def __init__(self, path: Path, file: int, rotation: Rotation | None, log: Log) -> None:
        self._path = path
        self._file = file
        self._rotation = rotation
        self._log = log
        self._size = os.fstat(file).st_size
        self._torn_at: int | None = None
        self._dirty = False
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.Task[None] | None = None

    async def write(self, make: Make, holds: Any) -> None:
        """Append the record that `make` makes, and return when the system has it.

        Raises OSError, or what `make` raises. When it is cancelled, the record is not
        written if its turn has not come.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(make, holds, written))
        if self._writer is None:
            self._writer = spawn(self._write(), "writing records", self._log, self._tasks)
        await written

    async def sync(self) -> None:
        """Bring to the disk what was written since the last time. Raises OSError."""
        if not self._dirty:
            return
        self._dirty = False
        try:
            await _sync(lambda: os.dup(self._file))
        except BaseException:
            self._dirty = True
            raise

    async def close(self) -> None:
        """Close the file when what is being written is, if that is soon."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=CLOSE_TIMEOUT)
        if self._writer is not None:
            # A thread still writes: to a descriptor that is closed it might be elsewhere.
            self._log.error("%s is given up: its mount does not answer", self._path)
        elif self._file >= 0:
            os.close(self._file)
            self._file = -1

    async def _write(self) -> None:
        try:
            while self._waiting:
                group = await self._take()
                try:
                    await self._append(group)
                except Exception as error:
                    for one in group:
                        if not one.waiting.written.done():
                            one.waiting.written.set_exception(_copy(error))
                finally:
                    for one in group:
                        one.loan.end()
        finally:
            self._writer = None

    async def _take(self) -> list[_Made]:
        """Those whose turn it is, and their records: what fits into one write."""
        group: list[_Made] = []
        size = 0
        while self._waiting and size < MOST:
            one = self._waiting.popleft()
            if one.written.done():  # nobody waits for it
                continue
            try:
                # Those in front let go of what they hold when they are written, not before.
                record, loan = await one.make(0.0 if group else inf)
            except Exception as error:
                if group and isinstance(error, RefusedError):
                    self._waiting.appendleft(one)
                    break
                if not one.written.done():
                    one.written.set_exception(error)
                continue
            made = _Made(one, record, sum(map(len, record)), loan)
            group.append(made)
            size += made.size
            await asyncio.sleep(0)  # making them takes time
        return group

    async def _append(self, group: list[_Made]) -> None:
        """Write a group; where a file is full, the rest goes to the next one."""
        group = list(group)
        while group:
            size, count = self._size, 0
            most = None if self._rotation is None else self._rotation.max_bytes
            for one in group:
                if most is not None and size and size + one.size > most:
                    break
                size += one.size
                count += 1
            if not count:
                await self._rotate()
                continue
            await self._append_whole(group[:count])
            for one in group[:count]:
                if not one.waiting.written.done():
                    one.waiting.written.set_result(None)
            del group[:count]

    async def _append_whole(self, group: list[_Made]) -> None:
        if self._torn_at is not None:
            await in_thread(os.ftruncate, self._file, self._torn_at)
            self._torn_at = None
        job = Append(self._file, tuple(part for one in group for part in one.record))
        self._dirty = True
        await threads.run(job, [one.waiting.holds for one in group], may_hang=True)
        self._size = job.end
        if job.error:
            self._torn_at = job.end if job.is_torn else None
            raise OSError(job.error, os.strerror(job.error), str(self._path))

    async def _rotate(self) -> None:
        """Set the file aside and begin a new one; on failure all is as before."""
        assert self._rotation is not None
        former = self._file
        self._file = await in_thread(_next_file, self._path, self._rotation)
        self._size, self._dirty, self._torn_at = 0, False, None
        spawn(self._end(former, self._rotation), "rotating", self._log, self._tasks)

    async def _end(self, former: int, rotation: Rotation) -> None:
        """Bring what was set aside to the disk, and remove what is too much of it."""
        try:
            await _sync(lambda: former)
        except OSError as error:
            self._log.error("cannot bring %s to the disk: %s", self._path, error.strerror)
        await in_thread(prune, self._path, rotation, self._log)


async def opened(function: Callable[..., Any], path: Path, *arguments: object) -> Any:
    """What `function` returns of `path`. Raises OSError, also where its mount hangs."""
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            return await in_thread(function, path, *arguments)
    except TimeoutError as error:
        text = f"no answer within {OPEN_TIMEOUT:g} s: does its mount hang?"
        raise OSError(errno.ETIMEDOUT, text, str(path)) from error


def prune(path: Path, rotation: Rotation, log: Log) -> None:
    """Remove what was set aside and is too much or too old."""
    try:
        rotation.prune(path)
    except OSError as error:
        log.warning("cannot remove an old file: %s", error)


def _next_file(path: Path, rotation: Rotation) -> int:
    backup = rotation.set_aside(path)
    try:
        return open_to_append(path)
    except OSError:
        backup.rename(path)
        raise


class Syncing:
    """Brings a file to the disk, and closes it.

    `file` is asked for when a thread takes it: who is cancelled before leaves none open.
    """

    def __init__(self, file: Callable[[], int]) -> None:
        self._file = file
        self._job: Sync | None = None

    def submit(self, port: Port, token: object) -> None:
        self._job = Sync(self._file())
        self._job.submit(port, token)

    @property
    def error(self) -> int:
        return 0 if self._job is None else self._job.error


async def _sync(file: Callable[[], int]) -> None:
    """Bring a file to the disk, and close it. Raises OSError."""
    job = Syncing(file)
    await threads.run(job, may_hang=True)
    if job.error:
        raise OSError(job.error, os.strerror(job.error))


def _copy(error: Exception) -> Exception:
    """An error for each that waits: a shared one would gather their frames."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    return error
