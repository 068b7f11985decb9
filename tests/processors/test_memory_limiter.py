from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8strace.budget import Budget, Lease
from k8strace.component import Promise
from k8strace.driver import begin
from k8strace.edges import Edge, FanOut
from k8strace.errors import RefusedError
from k8strace.metrics import Ledger, Metrics, Value
from k8strace.payload import Payload
from k8strace.processors.memory_limiter import Config, MemoryLimiter
from k8strace.units import Duration
from tests.support.memory import Memory
from tests.support.pipeline import (
    MIB,
    Drive,
    Sink,
    assert_at_rest,
    both_drivers,
    cancel,
    context,
    edge_to,
    failure,
    payload,
    until,
)

pytestmark = pytest.mark.usefixtures("memory")

LIMITS = {"check_interval": Duration(3600), "limit_mib": 10, "spike_limit_mib": 2}


class Rig:
    """A limiter of 10 MiB, 8 of them soft, in front of a sink."""

    def __init__(self, **config: Any) -> None:
        self.metrics = Metrics()
        self.budget = Budget(64 * MIB)
        self.sink = Sink(context("exporters", "sink", metrics=self.metrics))
        ctx = context(
            "processors", "memory_limiter", metrics=self.metrics, budget=self.budget
        )
        self.limiter = MemoryLimiter(
            Config(**{**LIMITS, **config}), ctx, Edge(ctx.ledger, self.sink)
        )
        assert self.limiter.hard_limit is not None
        self.budget.limit = self.limiter.hard_limit
        self.ledger = self.limiter.ledger
        self.into, self.source = edge_to(self.limiter)

    def payload(self, mib: int = 0, *, patience: float = 0) -> Payload:
        """One span, and a lease of so many MiB."""
        one = payload(1, budget=self.budget)
        lease = Lease(self.budget, mib * MIB, "peer") if mib else one.lease
        loop = asyncio.get_running_loop()
        wait_until = loop.time() + patience if patience else 0.0
        return msgspec.structs.replace(one, lease=lease, wait_until=wait_until)

    def metric(self, name: str) -> float:
        for family in self.metrics.collect():
            for sample in family.samples:
                if sample.name == f"otelcol_processor_memory_limiter_{name}_spans_total":
                    assert sample.labels == {"processor": "memory_limiter"}
                    return float(sample.value)
        raise AssertionError(f"no series {name}")

    def assert_at_rest(self) -> None:
        assert_at_rest(self.ledger)
        self.sink.payloads.clear()
        assert self.budget.used == 0


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    await rig.limiter.start()
    yield rig
    await rig.limiter.stop(0)


@both_drivers
async def test_below_the_soft_limit_all_pass(rig: Rig, drive: Drive) -> None:
    for _ in range(8):
        await drive(rig.into(rig.payload(1)))
    assert rig.sink.spans == 8
    assert rig.metric("accepted") == 8
    assert rig.metric("refused") == 0
    rig.assert_at_rest()


@both_drivers
async def test_it_refuses_drains_and_accepts_again(rig: Rig, drive: Drive) -> None:
    for _ in range(8):
        await drive(rig.into(rig.payload(1)))
    refused = await failure(drive(rig.into(rig.payload(1))))
    assert isinstance(refused, RefusedError)
    assert "too much memory" in str(refused)
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 2
    assert (rig.ledger.refused, rig.sink.spans) == (1, 8)
    assert rig.metric("refused") == 1
    rig.sink.payloads.clear()
    await drive(rig.into(rig.payload(1)))
    assert rig.metric("accepted") == 9
    rig.assert_at_rest()


@both_drivers
async def test_a_patient_payload_waits_for_bytes_to_come_free(
    rig: Rig, drive: Drive
) -> None:
    for _ in range(8):
        await drive(rig.into(rig.payload(1)))
    waiting = asyncio.ensure_future(drive(rig.into(rig.payload(1, patience=10))))
    second = asyncio.ensure_future(drive(rig.into(rig.payload(1, patience=10))))
    await until(lambda: rig.limiter._room._waiting == 2 * MIB)
    assert rig.sink.calls == 8
    del rig.sink.payloads[0]
    await waiting
    assert not second.done()
    del rig.sink.payloads[0]
    await second
    del waiting, second
    rig.assert_at_rest()


async def test_who_comes_later_does_not_overtake(rig: Rig) -> None:
    for _ in range(8):
        await rig.into(rig.payload(1))
    first = asyncio.create_task(rig.into(rig.payload(1, patience=10)))
    await until(lambda: rig.limiter._room.waiting == 1)
    del rig.sink.payloads[0]
    with pytest.raises(RefusedError):
        begin(rig.into(rig.payload(1)))
    await first
    del first
    await asyncio.sleep(0)
    rig.assert_at_rest()


async def test_who_waits_does_not_block_the_others(rig: Rig) -> None:
    """Requests that come at once fill the budget; nothing behind them holds a byte."""
    tasks = [asyncio.create_task(rig.into(rig.payload(1, patience=10))) for _ in range(10)]
    await until(lambda: rig.sink.calls >= 8)
    assert rig.sink.calls == 8
    rig.sink.payloads.clear()
    await asyncio.gather(*tasks)
    assert rig.sink.calls == 10
    tasks.clear()
    rig.assert_at_rest()


async def test_a_payload_above_the_soft_limit_goes_alone(rig: Rig) -> None:
    await rig.into(rig.payload(9))
    assert isinstance(await failure(rig.into(rig.payload())), RefusedError)
    rig.sink.payloads.clear()
    await rig.into(rig.payload())
    assert isinstance(await failure(rig.into(rig.payload(9))), RefusedError)
    rig.assert_at_rest()


class Slow(Sink):
    """Holds payloads for some turns of the loop; `most` is what it ever held at a time."""

    def __init__(self, turns: list[int]) -> None:
        super().__init__()
        self.turns = turns
        self.held: list[int] = []
        self.most: list[int] = []

    async def consume(self, payload: Payload) -> None:
        assert isinstance(payload.lease, Lease)
        self.calls += 1
        self.held.append(payload.lease.size)
        if sum(self.held) > sum(self.most):
            self.most = list(self.held)
        for _ in range(self.turns.pop() if self.turns else 0):
            await asyncio.sleep(0)
        self.held.remove(payload.lease.size)
        self.ledger.sent += 1


@given(
    sizes=st.lists(st.integers(1, 10), max_size=25),
    turns=st.lists(st.integers(0, 5), max_size=25),
)
@settings(
    suppress_health_check=[
        *settings().suppress_health_check,
        HealthCheck.function_scoped_fixture,
    ]
)
def test_all_get_through_and_never_too_many_at_once(
    sizes: list[int], turns: list[int]
) -> None:
    async def run() -> None:
        rig = Rig(limit_mib=1000, spike_limit_mib=992)
        sink = Slow(turns)
        rig.limiter.downstream = Edge(rig.ledger, sink)
        await rig.limiter.start()
        tasks = [
            asyncio.create_task(rig.into(rig.payload(size, patience=60))) for size in sizes
        ]
        await asyncio.gather(*tasks)
        await rig.limiter.stop(0)
        assert sink.calls == len(sizes)
        assert sum(sink.most) <= 8 * MIB or len(sink.most) == 1
        tasks.clear()
        await asyncio.sleep(0)
        rig.assert_at_rest()

    asyncio.run(run())


async def test_time_is_over_before_there_is_room(rig: Rig) -> None:
    await rig.into(rig.payload(8))
    assert isinstance(await failure(rig.into(rig.payload(1, patience=0.005))), RefusedError)
    rig.assert_at_rest()


@both_drivers
async def test_a_sender_that_goes_away_leaves_nothing(rig: Rig, drive: Drive) -> None:
    await rig.into(rig.payload(8))
    gone = asyncio.create_task(rig.into(rig.payload(1, patience=10)))
    await until(lambda: rig.limiter._room._waiting == MIB)
    await cancel(gone)
    del gone
    assert rig.ledger.refused == 1
    assert rig.budget.used == 8 * MIB
    rig.sink.payloads.clear()
    await drive(rig.into(rig.payload(8)))
    rig.assert_at_rest()


def test_it_sets_the_budget_of_the_process(memory: Memory) -> None:
    assert Rig().limiter.hard_limit == 10 * MIB
    memory.own = 3 * MIB
    assert Rig().limiter.hard_limit == 7 * MIB


async def test_what_the_process_itself_has_is_not_for_spans(memory: Memory) -> None:
    memory.own = 3 * MIB
    rig = Rig()
    await rig.limiter.start()
    for _ in range(5):
        await rig.into(rig.payload(1))
    assert isinstance(await failure(rig.into(rig.payload(1))), RefusedError)
    await rig.limiter.stop(0)
    rig.assert_at_rest()


async def test_where_the_process_has_less_the_soft_limit_keeps_its_part() -> None:
    rig = Rig()
    rig.budget.limit = 5 * MIB
    await rig.limiter.start()
    for _ in range(4):
        await rig.into(rig.payload(1))
    assert isinstance(await failure(rig.into(rig.payload(1))), RefusedError)
    await rig.limiter.stop(0)
    rig.assert_at_rest()


async def test_other_budgets_do_not_count(rig: Rig) -> None:
    elsewhere = Budget(MIB)
    one = msgspec.structs.replace(
        rig.payload(),
        lease=(Budget(MIB).lease(1, "a"), elsewhere.lease(1000, "a")),
    )
    await rig.into(one)
    await rig.into(msgspec.structs.replace(one, lease=elsewhere.lease(5, "b")))
    await rig.into(msgspec.structs.replace(one, lease=None))
    assert rig.sink.spans == 3
    del one
    rig.assert_at_rest()


async def test_a_fan_out_waits_for_it(rig: Rig) -> None:
    other = Sink(context("exporters", "other"))
    source = Ledger()
    fan_out = FanOut(source, [Edge(Ledger(), rig.limiter), Edge(Ledger(), other)], Value())
    await fan_out(rig.payload(8))
    assert isinstance(await failure(fan_out(rig.payload(1))), RefusedError)
    waiting = asyncio.create_task(fan_out(rig.payload(1, patience=10)))
    await until(lambda: rig.budget.used == 9 * MIB)
    await asyncio.sleep(0)
    assert (rig.sink.calls, other.calls) == (1, 1)
    rig.sink.payloads.clear()
    other.payloads.clear()
    await waiting
    assert (rig.sink.calls, other.calls) == (2, 2)
    del waiting
    other.payloads.clear()
    rig.assert_at_rest()


def test_it_asks_who_stands_behind_it() -> None:
    rig = Rig()
    assert rig.limiter.blocked_by(payload()) is None
    assert rig.limiter.promise == Promise.DELIVERED


@both_drivers
async def test_while_resident_memory_is_high_nobody_waits(
    rig: Rig, memory: Memory, drive: Drive
) -> None:
    memory.resident = 10 * MIB
    await rig.limiter.guard.check()
    refused = await failure(drive(rig.into(rig.payload(patience=10))))
    assert isinstance(refused, RefusedError)
    assert refused.retry_after
    assert rig.limiter.blocked_by(rig.payload()) is not None
    memory.resident = 0
    await rig.limiter.guard.check()
    await drive(rig.into(rig.payload()))
    rig.assert_at_rest()


async def test_stop_without_start_and_twice() -> None:
    rig = Rig()
    await rig.limiter.stop(0)
    await rig.limiter.start()
    await rig.limiter.stop(0)
    await rig.limiter.stop(0)
    rig.assert_at_rest()
