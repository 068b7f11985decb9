"""Tasks and timers that run beside requests. None of them ends without a word.

A task of asyncio that fails says so when it is collected, if at all, and what it did stays
undone. So each task that nobody awaits is started here:

- `keep_running` for work that goes on: where it fails that is logged, and it starts again;
- `spawn` for work that ends by itself: where it fails that is logged;
- `Ticker` for a function that is called again and again.

`wake` ends the wait of many who wait for one thing, and `Turn` is for work that takes long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from threading import Thread
from time import monotonic
from typing import Any, TypeVar

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds before work that failed starts again
TURN = 0.005  # seconds
WOKEN_AT_ONCE = 256  # waiters; each of them may answer a request, in some 20 µs
LIVED = 60.0  # seconds after which a failure is not one of a row

T = TypeVar("T")
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


def keep_running(
    work: Callable[[], Coroutine[Any, Any, None]], what: str, log: Log
) -> asyncio.Task[None]:
    """Run `work` until it returns or the task is cancelled.

    If it fails, the log says that `what` did, and `work` is called again after a pause.
    """
    return asyncio.get_running_loop().create_task(_repeat(work, what, log), name=what)


def spawn(
    coro: Coroutine[Any, Any, T], what: str, log: Log, tasks: set[asyncio.Task[T]]
) -> asyncio.Task[T]:
    """Run `coro` in a task that is in `tasks` until it ends; log it if `what` fails."""
    task = asyncio.get_running_loop().create_task(coro, name=what)
    tasks.add(task)

    def ended(task: asyncio.Task[T]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", what, exc_info=error)

    task.add_done_callback(ended)
    return task


async def ended(task: asyncio.Task[Any], timeout: float | None = None) -> None:
    """Wait until `task` has ended, or for `timeout` seconds; it goes on either way.

    In place of `asyncio.wait`, whose frame refers to the task that waits from Python 3.14
    on. One that is cancelled there would refer to itself, and what it holds, payloads
    perhaps, would stay until the garbage collector comes.
    """
    if task.done():
        return
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    task.add_done_callback(wake)
    timer = None if timeout is None else loop.call_later(timeout, wake)
    try:
        await waiter
    finally:
        task.remove_done_callback(wake)
        if timer is not None:
            timer.cancel()


class Turn:
    """The time for which work in many small steps may hold the event loop.

    `await turn.end()` between the steps lets others go on when `TURN` is over.
    """

    __slots__ = ("_over",)

    def __init__(self) -> None:
        self._over = monotonic() + TURN

    async def end(self) -> None:
        if monotonic() >= self._over:
            await asyncio.sleep(0)
            self._over = monotonic() + TURN


def wake(waiters: Sequence[asyncio.Future[None]], first: int = 0) -> None:
    """Give `waiters` from the `first` on their result, so many in a turn of the event loop.

    All that wake in the same turn are run before anything else, which has to wait for them.
    """
    end = first + WOKEN_AT_ONCE
    for waiter in waiters[first:end]:
        if not waiter.done():
            waiter.set_result(None)
    if end < len(waiters):
        asyncio.get_running_loop().call_soon(wake, waiters, end)


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """What `function` returns or raises, called on a thread that may hang.

    For what is rare and touches files of others. Nothing waits for the thread at the end
    of the process, as it would for those of `asyncio.to_thread`.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = function(*arguments)
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    Thread(target=run, name="background", daemon=True).start()
    return await done


class Ticker:
    """Calls `function` every `interval` seconds from `start` to `stop`.

    If it fails, the log says that `what` did, and the next call comes in its time.
    """

    def __init__(
        self, interval: float, function: Callable[[], None], what: str, log: Log
    ) -> None:
        self._interval = interval
        self._function = function
        self._what = what
        self._log = log
        self._timer: asyncio.TimerHandle | None = None
        self._failed_at = float("-inf")

    def start(self) -> None:
        """Begin in the running loop; one that runs goes on."""
        if self._timer is None:
            self._wait(asyncio.get_running_loop())

    def stop(self) -> None:
        """Call it no more; may be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._interval, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._wait(loop)
        try:
            self._function()
        except Exception:
            if monotonic() - self._failed_at >= LIVED:
                self._failed_at = monotonic()
                self._log.exception("%s failed; it is tried again", self._what)


async def _repeat(
    work: Callable[[], Coroutine[Any, Any, None]], what: str, log: Log
) -> None:
    task = asyncio.current_task()
    assert task is not None
    pause = 0.0
    while True:
        began = monotonic()
        try:
            return await work()
        except asyncio.CancelledError as error:
            if task.cancelling():
                raise
            failure: BaseException = error  # what it waited for was cancelled, not it
        except Exception as error:
            failure = error
        if not pause or monotonic() - began >= LIVED:
            pause = FIRST_PAUSE
        else:
            pause = min(2 * pause, LONGEST_PAUSE)
        log.error("%s failed; it starts again in %g s", what, pause, exc_info=failure)
        del failure  # its frames would live as long as the pause
        await asyncio.sleep(pause)
