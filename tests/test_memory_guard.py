"""The limits are the process's: what it holds itself and doesn't count is in them."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import Any

import msgspec
import pytest

from k8strace import memory_guard
from k8strace.budget import Budget, Lease
from k8strace.component import Worker
from k8strace.config import decode
from k8strace.errors import ConfigError
from k8strace.memory_guard import LimiterConfig, MemoryGuard
from k8strace.units import Duration
from tests.support.memory import Memory
from tests.support.pipeline import MIB, context, until

GIB = 1024 * MIB
LIMITS: dict[str, Any] = {
    "check_interval": Duration(3600),
    "limit_mib": 10,
    "spike_limit_mib": 2,
}


def guard(*, workers: int = 1, budget: Budget | None = None, **config: Any) -> MemoryGuard:
    """One of 10 MiB, 8 of them soft."""
    ctx = context("processors", "memory_limiter", budget=budget)
    ctx = msgspec.structs.replace(ctx, worker=Worker(workers=workers))
    return MemoryGuard(LimiterConfig(**{**LIMITS, **config}), ctx)


# Configuration


def test_defaults_are_the_collectors() -> None:
    config = decode(LimiterConfig, {"check_interval": "1s", "limit_mib": 100})
    assert float(config.min_gc_interval_when_soft_limited) == 10
    assert float(config.min_gc_interval_when_hard_limited) == 0
    assert float(config.max_gc_interval_when_soft_limited) == 30
    assert float(config.max_gc_interval_when_hard_limited) == 30
    assert config.limits() == (80 * MIB, 100 * MIB)


def test_the_helm_charts_configuration() -> None:
    config = decode(
        LimiterConfig,
        {"check_interval": "5s", "limit_percentage": 80, "spike_limit_percentage": 25},
    )
    assert config.limits(lambda: 100 * GIB) == (55 * GIB, 80 * GIB)


def test_a_spike_limit_of_its_own_and_percentages_without() -> None:
    fixed = LimiterConfig(check_interval=Duration(1), limit_mib=100, spike_limit_mib=30)
    assert fixed.limits() == (70 * MIB, 100 * MIB)
    share = LimiterConfig(check_interval=Duration(1), limit_percentage=50)
    assert share.limits(lambda: 100 * GIB) == (40 * GIB, 50 * GIB)


def test_mebibytes_win_over_percentages() -> None:
    config = LimiterConfig(check_interval=Duration(1), limit_mib=100, limit_percentage=50)
    assert config.limits(lambda: 100 * GIB)[1] == 100 * MIB


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"limit_mib": 100}, "check_interval must be greater than zero"),
        ({"check_interval": "0", "limit_mib": 1}, "check_interval"),
        ({"check_interval": "1s"}, "limit_mib or limit_percentage"),
        ({"check_interval": "1s", "limit_mib": -1}, "limit_mib"),
        ({"check_interval": "1s", "limit_percentage": 101}, "101"),
        (
            {"check_interval": "1s", "limit_mib": 1, "spike_limit_percentage": 101},
            "101",
        ),
        (
            {"check_interval": "1s", "limit_mib": 10, "spike_limit_mib": 10},
            r"spike_limit_mib \(10\) must be smaller",
        ),
        (
            {"check_interval": "1s", "limit_percentage": 10, "spike_limit_percentage": 10},
            r"spike_limit_percentage \(10\) must be smaller",
        ),
        (
            {
                "check_interval": "1s",
                "limit_mib": 10,
                "min_gc_interval_when_soft_limited": "1s",
                "min_gc_interval_when_hard_limited": "2s",
            },
            "min_gc_interval_when_soft_limited",
        ),
        ({"check_interval": "1s", "limit_mib": 10, "ballast": 1}, "ballast"),
    ],
)
def test_mistakes(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        decode(LimiterConfig, values)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"check_interval.*; limit_mib or"):
        LimiterConfig()


# Limits


@pytest.mark.usefixtures("memory")
def test_workers_share_the_limits() -> None:
    one = guard(workers=4)
    assert (one.soft, one.hard_limit) == (2 * MIB, 10 * MIB // 4)


def test_what_the_process_holds_itself_is_in_the_limit(memory: Memory) -> None:
    memory.own = 3 * MIB
    one = guard()
    assert one.hard_limit == 7 * MIB
    assert one.room.limit == 5 * MIB


async def test_of_a_budget_that_is_smaller_it_has_its_part(memory: Memory) -> None:
    memory.own = 3 * MIB
    one = guard(budget=Budget(5 * MIB))
    one.start()
    assert one.room.limit == 4 * MIB
    await one.stop()


def test_a_limit_that_has_no_room_for_spans_is_an_error(memory: Memory) -> None:
    memory.own = 7 * MIB
    guard()
    memory.own += 1
    with pytest.raises(ValueError, match=r"of 8 MiB leaves no room for spans: .* 7 MiB"):
        guard()
    memory.own = 2 * MIB
    with pytest.raises(ValueError, match="of 2 MiB for each of 4 workers leaves no room"):
        guard(workers=4)


async def test_a_limit_that_leaves_little_room_says_so(
    memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    for own, says in ((4 * MIB, False), (5 * MIB, True)):
        memory.own = own
        one = guard()
        one.start()
        await one.stop()
        assert ("larger requests are taken one at a time" in caplog.text) is says
    assert "of 8.0 MiB leaves 3.0 MiB for spans, as the gateway itself holds 5.0" in (
        caplog.text
    )
    assert "a limit of 23 MiB leaves enough" in caplog.text
    config = {**LIMITS, "limit_mib": 100, "spike_limit_mib": 0}
    assert "a limit of 525 MiB" in LimiterConfig(**config).little_room(20)


async def test_what_arrives_blocks_nobody(memory: Memory) -> None:
    """Else many that come at once are refused, although nothing behind is held."""
    memory.own = 7 * MIB
    budget = Budget(64 * MIB)
    one = guard(budget=budget)
    one.start()
    assert one.room.limit == MIB
    here = Lease(budget, MIB // 2, "a")
    coming = [(Lease(budget, MIB, "b"), Lease(budget.coming, MIB, "b")) for _ in range(3)]
    assert not one.room.blocks(here.size)
    whole, rest = coming.pop()
    del rest  # it is here
    assert one.room.blocks(here.size)
    waiting = asyncio.ensure_future(one.room.wait(here.size, inf))
    await asyncio.sleep(0)
    assert not waiting.done()
    del whole
    assert await waiting
    assert not one.room.blocks(here.size)
    await one.stop()


async def test_what_connections_hold_blocks_nobody(memory: Memory) -> None:
    """It does not become less when payloads go, so that nothing would ever pass."""
    memory.own = 7 * MIB
    budget = Budget(64 * MIB)
    one = guard(budget=budget)
    one.start()
    assert one.room.limit == MIB
    assert budget.upkeep.take(8 * MIB)
    assert budget.used == budget.upkeep.charged == 4 * MIB
    here = Lease(budget, MIB // 2, "a")
    assert not one.room.blocks(here.size)
    other = Lease(budget, MIB, "b")
    assert one.room.blocks(here.size)
    waiting = asyncio.ensure_future(one.room.wait(here.size, inf))
    await asyncio.sleep(0)
    assert not waiting.done()
    del other
    assert await waiting
    budget.upkeep.give(8 * MIB)
    await one.stop()


# Resident memory


async def test_resident_memory_closes_the_room_until_it_is_low_again(
    memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "k8strace")
    one = guard()
    memory.resident = 10 * MIB
    await one.check()
    assert one.room.blocks(1)
    assert (
        "resident memory of 10 MiB, of which spans are 0 MiB, is above the limit of "
        "10 MiB: refusing spans until it is below 8 MiB"
    ) in caplog.text
    memory.resident = 9 * MIB
    await one.check()
    assert one.room.blocks(1)
    memory.resident = 7 * MIB
    await one.check()
    assert not one.room.blocks(1)
    assert "taking spans" in caplog.text


async def test_no_more_is_granted_than_memory_has_left(memory: Memory) -> None:
    budget = Budget(64 * MIB)
    one = guard(budget=budget)
    one.start()
    memory.resident = 7 * MIB
    held = Lease(budget, 9 * MIB, "b")
    assert budget.lease(2 * MIB, "a") is not None
    assert budget.lease(2 * MIB, "a") is not None, "memory is read again"
    memory.resident = 9 * MIB
    assert budget.lease(2 * MIB, "a") is None
    memory.resident, coming = 5 * MIB, Lease(budget.coming, 4 * MIB, "c")
    assert budget.lease(2 * MIB, "a") is None, "what is to come is not resident yet"
    del coming
    assert memory.trims == 0, "not on the way of a request"
    memory.after_trim = 2 * MIB
    await until(lambda: memory.trims == 1)
    assert budget.lease(2 * MIB, "a") is not None
    await one.stop()
    assert budget.guard is None
    del held


async def test_the_slack_is_no_bodys(memory: Memory, monkeypatch: Any) -> None:
    monkeypatch.setattr(memory_guard, "slack", lambda free: free // 6)
    memory.own = 4 * MIB
    one = guard()
    assert one.hard_limit == 5 * MIB
    memory.resident = 4 * MIB
    assert one.headroom(1) == 6 * MIB - MIB // 3


async def test_of_several_the_last_that_stops_leaves_no_guard(memory: Memory) -> None:
    budget = Budget(64 * MIB)
    first, second = guard(budget=budget), guard(budget=budget)
    first.start()
    second.start()
    await first.stop()
    assert budget.guard is not None
    await second.stop()
    assert budget.guard is None


async def test_free_memory_is_given_back_before_spans_are_refused(memory: Memory) -> None:
    one = guard()
    memory.resident, memory.after_trim = 20 * MIB, 5 * MIB
    await one.check()
    assert memory.trims == 1
    assert not one.room.blocks(1)


async def test_how_often_memory_is_trimmed(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    clock = [loop.time()]
    monkeypatch.setattr(loop, "time", lambda: clock[0])
    one = guard()
    memory.resident = 7 * MIB
    await one.check()
    assert memory.trims == 0
    memory.resident = 9 * MIB
    await one.check()
    await one.check()
    assert memory.trims == 1, "above the soft limit: every 10 s"
    memory.resident = 11 * MIB
    await one.check()
    assert memory.trims == 1, "and never more than once a second"
    clock[0] += memory_guard.TRIM_INTERVAL
    await one.check()
    await one.check()
    assert memory.trims == 2, "above the hard limit: each second"


async def test_memory_is_checked_again_and_again(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_guard, "TRIM_INTERVAL", 0.0)
    one = guard(check_interval=Duration(0.001))
    one.start()
    memory.resident = 20 * MIB
    await until(lambda: memory.trims >= 2)
    await one.stop()
    trims = memory.trims
    await asyncio.sleep(0)
    assert memory.trims == trims


async def test_memory_that_cannot_be_read_is_logged(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> int:
        raise OSError("no /proc")

    monkeypatch.setattr(memory_guard, "resident_memory", fail)
    one = guard(check_interval=Duration(0.001))
    one.start()
    await until(lambda: caplog.text.count("no /proc") >= 2)
    assert not one.room.blocks(memory.own)
    await one.stop()


async def test_the_real_memory_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_guard, "own_memory", lambda: 0)
    large = guard(limit_mib=1024 * 1024)
    await large.check()
    assert not large.room.blocks(1)
    small = guard(limit_mib=2, spike_limit_mib=0)
    await small.check()
    assert small.room.blocks(1)
