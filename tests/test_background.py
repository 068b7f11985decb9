"""Tasks and timers that run beside requests."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref

import pytest

from k8strace import background
from k8strace.background import (
    WOKEN_AT_ONCE,
    Ticker,
    Turn,
    ended,
    in_thread,
    keep_running,
    spawn,
    wake,
)

log = logging.getLogger("k8strace")


class Work:
    """Fails as often as it has errors, and then waits for `go`."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.waits = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        self.waits.set()
        await self.go.wait()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, none of which is waited for."""
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return pauses


async def test_what_fails_is_logged_and_starts_again(
    at_once: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    # A future that it waits for may be cancelled: that is no reason to end, either.
    work = Work(UnicodeError("label empty"), MemoryError(), asyncio.CancelledError())
    task = keep_running(work, "resolving", log)
    await work.waits.wait()
    assert (work.calls, at_once) == (4, [0.1, 0.2, 0.4])
    first, second, third = caplog.records
    assert first.getMessage() == "resolving failed; it starts again in 0.1 s"
    assert first.exc_info is not None
    assert "label empty" in str(first.exc_info[1])
    assert second.levelno == third.levelno == logging.ERROR
    work.go.set()
    await task
    assert work.calls == 4


async def test_pauses_have_an_end(
    at_once: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Work(*[ValueError("again") for _ in range(12)])
    task = keep_running(work, "it", log)
    await work.waits.wait()
    assert at_once[-1] == at_once[-2] == background.LONGEST_PAUSE
    monkeypatch.setattr(background, "LIVED", 0.0)  # each failure is the first of a row
    later = Work(ValueError("1"), ValueError("2"))
    other = keep_running(later, "it", log)
    await later.waits.wait()
    assert at_once[-2:] == [background.FIRST_PAUSE] * 2
    assert len(caplog.records) == 14
    for one in (task, other):
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one


@pytest.mark.parametrize("errors", [(), (ValueError("before"),)])
async def test_a_cancelled_task_ends(errors: tuple[Exception, ...]) -> None:
    work = Work(*errors)
    task = keep_running(work, "it", log)
    await asyncio.sleep(0)
    task.cancel()  # while it works, and while it pauses
    await asyncio.wait((task,))
    assert task.cancelled()
    assert work.calls == 1


async def test_a_spawned_task_is_kept_and_its_failure_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks: set[asyncio.Task[None]] = set()
    works = [Work(ValueError("wrong")), Work(), Work()]
    ran = [spawn(work(), "connecting", log, tasks) for work in works]
    assert tasks == set(ran)
    works[1].go.set()
    await asyncio.wait(ran[:2])
    ran[2].cancel()
    await asyncio.wait(ran)
    await asyncio.sleep(0)
    assert not tasks
    (record,) = caplog.records
    assert record.getMessage() == "connecting failed"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "wrong"


async def test_a_ticker_outlives_what_fails(caplog: pytest.LogCaptureFixture) -> None:
    ticks = 0
    third = asyncio.Event()

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            third.set()
        raise ValueError("again")

    ticker = Ticker(0.001, tick, "housekeeping", log)
    ticker.stop()  # not started: nothing to stop
    ticker.start()
    ticker.start()
    await third.wait()
    ticker.stop()
    ticker.stop()
    seen = ticks
    await asyncio.sleep(0.01)
    assert ticks == seen
    # The first of them is logged; more would be a line for each tick.
    assert [one.getMessage() for one in caplog.records] == [
        "housekeeping failed; it is tried again"
    ]


async def test_a_function_on_a_thread_that_may_hang() -> None:
    assert await in_thread(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)
    go = threading.Event()
    hangs = asyncio.ensure_future(in_thread(go.wait))
    await asyncio.sleep(0)
    hangs.cancel()
    await asyncio.wait((hangs,))
    assert hangs.cancelled()
    go.set()


def test_a_thread_that_hangs_holds_up_no_end() -> None:
    program = (
        "import asyncio, time\n"
        "from k8strace.background import in_thread\n"
        "async def main():\n"
        "    task = asyncio.ensure_future(in_thread(time.sleep, 3600))\n"
        "    await asyncio.sleep(0)\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_waiting_for_a_task_that_goes_on() -> None:
    gate = asyncio.Event()
    task = asyncio.create_task(gate.wait())
    await ended(task, 0)
    assert not task.done()
    waiting = asyncio.create_task(ended(task))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not task.done()
    gate.set()
    await ended(task)
    await ended(task)
    assert task.done()


async def test_who_is_cancelled_while_it_waits_holds_nothing() -> None:
    """Without the garbage collector; on each Python."""

    class Held:
        pass

    async def wait(held: Held) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        try:
            await ended(task)
        finally:
            task.cancel()
            del task

    held = Held()
    gone = weakref.ref(held)
    gc.collect()
    gc.disable()
    try:
        waiting = asyncio.create_task(wait(held))
        del held
        await asyncio.sleep(0)
        waiting.cancel()
        await ended(waiting)
        del waiting
        await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


async def test_of_many_waiters_some_wake_in_each_turn() -> None:
    loop = asyncio.get_running_loop()
    turns: list[int] = []
    woken = 0

    async def wait(waiter: asyncio.Future[None]) -> None:
        nonlocal woken
        await waiter
        woken += 1

    def count() -> None:
        nonlocal woken
        turns.append(woken)
        woken = 0
        if sum(turns) < len(waiters) - 1:
            loop.call_soon(count)

    waiters = [loop.create_future() for _ in range(3 * WOKEN_AT_ONCE + 2)]
    tasks = [asyncio.create_task(wait(waiter)) for waiter in waiters]
    await asyncio.sleep(0)
    tasks[5].cancel()
    await asyncio.sleep(0)
    wake(waiters)
    loop.call_soon(count)
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert sum(turns) == len(waiters) - 1
    assert max(turns) == WOKEN_AT_ONCE
    assert tasks[5].cancelled()


async def test_waking_nobody() -> None:
    wake([])


async def test_work_that_is_over_its_turn_lets_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    others = 0

    def other() -> None:
        nonlocal others
        others += 1

    monkeypatch.setattr(background, "TURN", 3600.0)
    turn = Turn()
    loop.call_soon(other)
    await turn.end()
    assert others == 0
    monkeypatch.setattr(background, "TURN", 0.0)
    turn = Turn()
    for number in range(1, 4):
        await turn.end()
        assert others == number
        loop.call_soon(other)
