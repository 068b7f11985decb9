"""What signals ask of a process: to reload, to stop, to stop at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

from k8strace.background import ended

T = TypeVar("T")

ENDED = 130  # the exit status after a second signal: 128 and SIGINT


class Signals:
    """The first SIGTERM or SIGINT asks to stop, the second to end; SIGHUP to reload.

    `asked` is set whenever something is asked; who has seen it clears it.
    """

    def __init__(self) -> None:
        self.reload_asked = False
        self.stop_asked = asyncio.Event()
        self.end_asked = asyncio.Event()  # to stop without draining
        self.asked = asyncio.Event()  # any of them

    def catch(self) -> None:
        """Before there is a loop: end on SIGTERM and SIGINT, remember SIGHUP."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        signal.signal(signal.SIGHUP, lambda number, _: self.note(number))

    def follow(self) -> None:
        """Note signals from now on, in the running loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.note, number)

    def note(self, number: int) -> None:
        """A signal came."""
        if number == signal.SIGHUP:
            self.reload_asked = True
            self.asked.set()
        else:
            self.stop(at_once=self.stop_asked.is_set())

    def stop(self, *, at_once: bool = False) -> None:
        """Ask to stop, with or without draining."""
        self.stop_asked.set()
        if at_once:
            self.end_asked.set()
        self.asked.set()

    async def unless_stopped(self, coro: Coroutine[Any, Any, T]) -> T | None:
        """What `coro` returns, or None where a signal to stop came before its end."""
        task = asyncio.ensure_future(coro)
        if await ends_before(task, self.stop_asked):
            return task.result()
        task.cancel()
        await ended(task)
        return None if task.cancelled() else task.result()


async def ends_before(
    task: asyncio.Future[Any], asked: asyncio.Event, timeout: float | None = None
) -> bool:
    """Wait until `task` is done, something is asked, or time is over; is the task done?"""
    signalled = asyncio.ensure_future(asked.wait())
    await asyncio.wait(
        (task, signalled), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
    )
    signalled.cancel()
    return task.done()


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
