"""What is driven without a task behaves as if it had one from the start."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

import pytest
import uvloop

from k8strace.driver import Done, Rest, begin

Main = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Main], None]


def on_asyncio(main: Main) -> None:
    asyncio.run(main(), debug=True)


def on_uvloop(main: Main) -> None:
    uvloop.run(main(), debug=True)


@pytest.fixture(params=[on_asyncio, on_uvloop])
def run(request: pytest.FixtureRequest) -> Run:
    loop: Run = request.param
    return loop


@coroutine
def bare_yield() -> Generator[None, None, None]:
    yield


async def drive(coro: Coroutine[Any, Any, Any]) -> Any:
    """As an engine does it: the rest, if there is one, becomes a task."""
    step = begin(coro)
    if isinstance(step, Done):
        return step.value
    return await asyncio.ensure_future(step)


class BoomError(Exception):
    pass


def test_what_never_waits_needs_no_loop() -> None:
    async def child() -> int:
        return 3

    async def main() -> int:
        return await child() + 1

    step = begin(main())
    assert isinstance(step, Done)
    assert step.value == 4


def test_an_error_before_the_first_suspension_is_raised_at_once() -> None:
    async def main() -> None:
        raise BoomError

    with pytest.raises(BoomError):
        begin(main())


def test_the_result_comes_after_several_suspensions(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(3)]

        async def work() -> list[int]:
            seen = [await future for future in futures]
            await asyncio.sleep(0)
            return seen

        task = asyncio.ensure_future(drive(work()))
        for number, future in enumerate(futures):
            await asyncio.sleep(0)
            assert not task.done()
            future.set_result(number)
        assert await task == [0, 1, 2]

    run(main)


def test_a_future_that_is_done_before_the_rest_is_awaited(run: Run) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def work() -> Any:
            return await future

        step = begin(work())
        assert isinstance(step, Rest)
        future.set_result("early")
        assert await step == "early"

    run(main)


def test_bare_yields(run: Run) -> None:
    async def main() -> None:
        async def work() -> str:
            for _ in range(3):
                await bare_yield()
            return "through"

        assert await drive(work()) == "through"

    run(main)


def test_errors_of_what_is_waited_for_can_be_caught_inside(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        caught: list[str] = []

        async def work() -> None:
            try:
                await first
            except BoomError:
                caught.append("first")
            await second

        step = begin(work())
        assert isinstance(step, Rest)
        first.set_exception(BoomError())
        second.set_exception(BoomError("second"))
        with pytest.raises(BoomError, match="second"):
            await step
        assert caught == ["first"]

    run(main)


def test_cancellation_arrives_at_the_suspension_and_cleans_up(run: Run) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        log: list[str] = []

        async def work() -> None:
            try:
                await future
            except asyncio.CancelledError:
                log.append("cancelled")
                raise
            finally:
                await asyncio.sleep(0)
                log.append("cleaned")

        task = asyncio.ensure_future(drive(work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["cancelled", "cleaned"]
        assert future.cancelled()

    run(main)


def test_cancellation_before_the_task_made_a_step(run: Run) -> None:
    """The coroutine is under way, so it hears of it, and so does what it waits for."""

    async def main() -> None:
        log: list[str] = []

        async def below() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                log.append("below")
                raise

        child = asyncio.ensure_future(below())
        await asyncio.sleep(0)

        async def work(what: Coroutine[Any, Any, None]) -> None:
            try:
                await what
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

        async def wait_for_child() -> None:
            await child

        for what in (wait_for_child(), bare_yield(), asyncio.sleep(9)):
            step = begin(work(what))
            assert isinstance(step, Rest)
            task = asyncio.ensure_future(step)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert log == ["below", "cancelled", "cancelled", "cancelled"]

    run(main)


def test_cancellation_when_what_was_waited_for_is_done_already(run: Run) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def work() -> str:
            try:
                await future
            except asyncio.CancelledError:
                return "cancelled"
            return "done"

        step = begin(work())
        assert isinstance(step, Rest)
        task = asyncio.ensure_future(step)
        future.set_result(None)
        task.cancel()
        assert await task == "cancelled"

    run(main)


def test_closing_closes_the_coroutine() -> None:
    closed: list[bool] = []

    async def work() -> None:
        try:
            await bare_yield()
        finally:
            closed.append(True)

    step = begin(work())
    assert isinstance(step, Rest)
    step.close()
    assert closed == [True]


def test_cancellation_can_be_survived(run: Run) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def work() -> str:
            try:
                await future
            except asyncio.CancelledError:
                return "kept"
            return "not cancelled"

        step = begin(work())
        assert isinstance(step, Rest)
        task = asyncio.ensure_future(step)
        await asyncio.sleep(0)
        task.cancel()
        assert await task == "kept"

    run(main)


def test_a_timeout_after_the_first_suspension_belongs_to_the_task(run: Run) -> None:
    async def main() -> None:
        async def work() -> str:
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout(0):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                return "timed out"
            return "never"

        assert await drive(work()) == "timed out"

    run(main)


def test_tasks_and_groups_after_the_first_suspension(run: Run) -> None:
    async def main() -> None:
        async def work() -> int:
            await asyncio.sleep(0)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(4)]
            return sum(task.result() for task in tasks)

        assert await drive(work()) == 6

    run(main)


def test_what_nobody_goes_on_with_is_closed(run: Run) -> None:
    async def main() -> None:
        closed: list[bool] = []

        async def work() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                closed.append(True)

        step = begin(work())
        assert isinstance(step, Rest)
        del step
        assert closed == [True]

    run(main)


def test_an_error_leaves_no_cycle_behind(run: Run) -> None:
    """What the frames hold goes with the error, not with the next collection."""

    class Held:
        pass

    async def main() -> None:
        alive: list[bool] = []

        class Watched(Held):
            def __del__(self) -> None:
                alive.append(False)

        async def work() -> None:
            held = Watched()
            await asyncio.sleep(0)
            raise BoomError(str(type(held)))

        async def caller() -> None:
            step = begin(work())
            assert isinstance(step, Rest)
            try:
                await step
            except BoomError:
                return

        gc.disable()
        try:
            await caller()
            assert alive == [False]
        finally:
            gc.enable()

    run(main)
