"""Has C threads do what would hold up the event loop, and waits for it.

For what is neither short nor Python's: work on large bodies, system calls that block. A
Python executor would be no help: while the loop is busy, its threads wait for the GIL.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from typing import Any, Protocol

from k8strace import _threads
from k8strace._threads import Port

AT_A_TIME = 2 * _threads.THREADS
DISK_AT_A_TIME = 2 * _threads.DISK_THREADS
"""Jobs of a loop that threads have or will have next; more would only hold memory."""


class Job(Protocol):
    """A step of work; compiled code submits it."""

    def submit(self, port: Port, token: object) -> None: ...


class _Way:
    """The way to the threads from an event loop, and back."""

    def __init__(self, loop: asyncio.AbstractEventLoop, for_disk: bool) -> None:
        self.port = Port(for_disk)
        self.turns = asyncio.Semaphore(DISK_AT_A_TIME if for_disk else AT_A_TIME)
        loop.add_reader(self.port.fileno(), self.deliver)

    def deliver(self) -> None:
        for done, _ in self.port.finished():
            self.turns.release()
            if not done.done():
                done.set_result(None)


_ways: dict[tuple[asyncio.AbstractEventLoop, bool], _Way] = {}


async def run(job: Job, *holds: Any, for_disk: bool = False) -> None:
    """Return when a thread has done `job`; `for_disk` says that it will wait for one.

    Once it is submitted, job and `holds` are kept until then, also where the caller is
    cancelled before.
    """
    loop = asyncio.get_running_loop()
    way = _ways.get((loop, for_disk)) or _open(loop, for_disk)
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


def _open(loop: asyncio.AbstractEventLoop, for_disk: bool) -> _Way:
    """A way for `loop`; those of loops that are closed are given up."""
    for key, way in tuple(_ways.items()):
        if key[0].is_closed():
            way.port.finished()
            if not way.port.running:
                del _ways[key]
    way = _ways[loop, for_disk] = _Way(loop, for_disk)
    return way


def _forget() -> None:
    _threads.forget()
    _ways.clear()


atexit.register(close)
os.register_at_fork(after_in_child=_forget)
