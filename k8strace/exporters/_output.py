"""Writing to what may make us wait: a pipe or a terminal that is read slowly, or not.

A write that blocks would hold up all of the gateway, its health and its end as well. So no
more is written at a time than surely fits, and while nothing does, others go on.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
from collections import deque
from collections.abc import Iterable
from pathlib import Path

SHORTEST_PAUSE = 0.001  # seconds between two looks at whether something fits
LONGEST_PAUSE = 0.1
MOST_AT_ONCE = 256 * 1024  # bytes between two times that others go on

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK


def open_to_append(path: str | Path, *, truncate: bool = False) -> int:
    """A descriptor that writes at the end of `path`; raises OSError that names it."""
    # A named pipe that nobody reads is an error now, instead of a wait without end.
    file = os.open(path, _FLAGS | (os.O_TRUNC if truncate else 0), 0o644)
    os.set_blocking(file, True)
    return file


class Output:
    """An open file descriptor, which it closes; records go out whole, one by one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll: select.poll | None = None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLOUT)
        self._turn = asyncio.Lock()
        self._rest: deque[memoryview] = deque()

    async def write(self, record: Iterable[bytes]) -> None:
        """Write all parts of `record`, one after the other; raises OSError.

        When it is cancelled with some of it written, what is left goes before the next
        record.
        """
        async with self._turn:
            await self._finish()
            self._rest.extend(memoryview(part) for part in record if part)
            size = sum(map(len, self._rest))
            try:
                await self._finish()
            except asyncio.CancelledError:
                if sum(map(len, self._rest)) == size:
                    self._rest.clear()
                raise

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def _finish(self) -> None:
        """Write what is left, waiting for as long as it takes."""
        pause = SHORTEST_PAUSE
        at_once = 0
        while self._rest:
            try:
                written = self._write_some()
            except OSError:
                self._rest.clear()
                raise
            first = self._rest.popleft()
            if written < len(first):
                self._rest.appendleft(first[written:])
            at_once += written
            if at_once >= MOST_AT_ONCE:  # who reads is as fast as we are: others go on, too
                at_once = 0
                await asyncio.sleep(0)
            if written:
                pause = SHORTEST_PAUSE
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _write_some(self) -> int:
        """Write as much as surely fits; returns the number of bytes."""
        if self._poll is None:
            return os.write(self._descriptor, self._rest[0][:MOST_AT_ONCE])
        if not self._poll.poll(0):
            return 0
        try:
            # What can be written to at all takes this much without blocking (pipe(7)).
            return os.write(self._descriptor, self._rest[0][: select.PIPE_BUF])
        except BlockingIOError:  # a terminal that somebody made non-blocking
            return 0
