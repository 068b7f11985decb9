"""Has C threads do what would hold up the event loop, and waits for it.

For what is neither short nor Python's: work on large bodies, system calls that block. A
Python executor would be no help: while the loop is busy, its threads wait for the GIL.

There are threads for what computes, for what waits for our disk, and for what touches the
files of others: a mount that never answers holds up nothing but who reads from it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import select
from typing import Any, Protocol

from k8strace import _threads
from k8strace._threads import COMPUTING, DISK, HANGING, Port

AT_A_TIME = 2 * _threads.THREADS
DISK_AT_A_TIME = 2 * _threads.DISK_THREADS
HANGING_AT_A_TIME = 2 * _threads.HANGING_THREADS
"""Jobs of a loop that threads have or will have next; more would only hold memory."""


class Job(Protocol):
    """A step of work; compiled code submits it."""

    def submit(self, port: Port, token: object) -> None: ...


class _Way:
    """The way to the threads from an event loop, and back."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: int) -> None:
        self.port = Port(pool)
        self.turns = asyncio.Semaphore(_AT_A_TIME[pool])
        loop.add_reader(self.port.fileno(), self.deliver)

    def deliver(self) -> None:
        for done, _ in self.port.finished():
            self.turns.release()
            if not done.done():
                done.set_result(None)


_AT_A_TIME = {COMPUTING: AT_A_TIME, DISK: DISK_AT_A_TIME, HANGING: HANGING_AT_A_TIME}
_ways: dict[tuple[asyncio.AbstractEventLoop, int], _Way] = {}


async def run(
    job: Job, *holds: Any, for_disk: bool = False, may_hang: bool = False
) -> None:
    """Return when a thread has done `job`; `for_disk` says that it will wait for our disk,
    `may_hang` that it will wait for somebody else's.

    Once it is submitted, job and `holds` are kept until then, also where the caller is
    cancelled before.
    """
    loop = asyncio.get_running_loop()
    pool = HANGING if may_hang else DISK if for_disk else COMPUTING
    way = _ways.get((loop, pool)) or _open(loop, pool)
    await way.turns.acquire()
    done: asyncio.Future[None] = loop.create_future()
    try:
        job.submit(way.port, (done, holds))
    except BaseException:
        way.turns.release()
        raise
    del holds
    await done


def close() -> None:
    """Wait for what threads do, and end them."""
    _threads.close()


class Begun:
    """A job that may hang, begun; for callers that cannot await its end."""

    def __init__(self, job: Job) -> None:
        self._port = Port(HANGING)
        self._is_done = False
        job.submit(self._port, None)

    def wait(self, seconds: float) -> bool:
        """Whether it is done within so many seconds, for which the caller blocks."""
        if not self._is_done:
            poll = select.poll()
            poll.register(self._port.fileno(), select.POLLIN)
            self._is_done = bool(poll.poll(seconds * 1000))
            if self._is_done:
                self._port.finished()
        return self._is_done


def _open(loop: asyncio.AbstractEventLoop, pool: int) -> _Way:
    """A way for `loop`; those of loops that are closed are given up."""
    for key, way in tuple(_ways.items()):
        if key[0].is_closed():
            way.port.finished()
            if not way.port.running:
                del _ways[key]
    way = _ways[loop, pool] = _Way(loop, pool)
    return way


def _forget() -> None:
    _threads.forget()
    _ways.clear()


atexit.register(close)
os.register_at_fork(after_in_child=_forget)
