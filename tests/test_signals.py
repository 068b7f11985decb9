"""What signals ask for."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from k8strace.signals import Signals, ends_before


async def test_the_first_asks_to_stop_and_the_second_to_end() -> None:
    signals = Signals()
    signals.note(signal.SIGHUP)
    assert (signals.reload_asked, signals.stop_asked.is_set()) == (True, False)
    assert signals.asked.is_set()
    signals.note(signal.SIGTERM)
    assert (signals.stop_asked.is_set(), signals.end_asked.is_set()) == (True, False)
    signals.note(signal.SIGINT)
    assert signals.end_asked.is_set()


async def test_real_signals_are_followed() -> None:
    signals = Signals()
    signals.follow()
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        await signals.asked.wait()
        assert signals.reload_asked
        os.kill(os.getpid(), signal.SIGTERM)
        await signals.stop_asked.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)


def test_before_there_is_a_loop_a_signal_ends_the_process() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    former = [signal.getsignal(number) for number in numbers]
    signals = Signals()
    try:
        signals.catch()
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.reload_asked
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.code == 128 + signal.SIGTERM
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


async def test_what_is_under_way_ends_when_a_stop_is_asked() -> None:
    signals = Signals()
    assert await signals.unless_stopped(asyncio.sleep(0, 7)) == 7
    waiting = asyncio.ensure_future(signals.unless_stopped(asyncio.Event().wait()))
    await asyncio.sleep(0)
    signals.stop()
    assert await waiting is None


async def test_time_that_is_over() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert not await ends_before(never, asyncio.Event(), 0.001)
    never.set_result(None)
    assert await ends_before(never, asyncio.Event(), 0.001)
