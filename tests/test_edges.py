"""The ways between components: what is counted, and what senders are told."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.budget import Budget, Room
from k8strace.component import Blocked, Promise
from k8strace.driver import Rest, begin
from k8strace.edges import Edge, FanOut
from k8strace.errors import (
    MalformedPayloadError,
    PartlyRejectedError,
    RefusedError,
    RejectedError,
)
from k8strace.metrics import Ledger, Value
from tests.support.pipeline import (
    MIB,
    Drive,
    Sink,
    assert_at_rest,
    both_drivers,
    context,
    edge_to,
    payload,
    until,
)


@pytest.fixture
def budget() -> Iterator[Budget]:
    """Every byte is given back when the last payload goes, without a collector."""
    gc.collect()
    gc.disable()
    budget = Budget(MIB)
    yield budget
    try:
        assert budget.used == 0
    finally:
        gc.enable()


@both_drivers
async def test_what_is_taken_counts_on_both_sides(drive: Drive, budget: Budget) -> None:
    sink = Sink()
    edge, source = edge_to(sink)
    await drive(edge(payload(3, budget=budget)))
    assert (source.sent, sink.ledger.received) == (3, 3)
    assert edge.promise == Promise.DELIVERED
    assert_at_rest(sink.ledger)
    sink.payloads.clear()


@both_drivers
@pytest.mark.parametrize(
    "fault",
    [MemoryError(), OSError(28, "No space left on device")],
    ids=repr,
)
async def test_a_fault_of_the_machine_is_a_refusal(
    drive: Drive, budget: Budget, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    edge, source = edge_to(sink)
    sink.failures = [fault]
    with pytest.raises(RefusedError, match="cannot take it now") as caught:
        await drive(edge(payload(3, budget=budget)))
    assert caught.value.retry_after
    del caught
    fault.__traceback__ = None
    assert (sink.ledger.refused, sink.ledger.rejected, source.sent) == (3, 0, 0)
    (line,) = caplog.messages
    assert line.startswith("cannot take a payload of 3 spans now: ")


@both_drivers
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("error", "outcome"),
    [(RefusedError("full", 0.5), "refused"), (RejectedError("bad"), "rejected")],
)
async def test_what_is_sent_back_is_counted_and_told(
    drive: Drive, budget: Budget, late: bool, error: Exception, outcome: str
) -> None:
    sink = Sink()
    edge, source = edge_to(sink)
    sink.failures = [error]
    if late:
        sink.gate = asyncio.Event()
        asyncio.get_running_loop().call_soon(sink.gate.set)
    with pytest.raises(type(error), match=str(error)):
        await drive(edge(payload(3, budget=budget)))
    error.__traceback__ = None
    assert getattr(sink.ledger, outcome) == 3
    assert source.sent == 0
    assert_at_rest(sink.ledger)


@both_drivers
async def test_a_bug_is_a_rejection_and_a_log_line(
    drive: Drive, budget: Budget, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    edge, _ = edge_to(sink)
    sink.failures = [ZeroDivisionError("oops")]
    with pytest.raises(RejectedError, match="internal error in sink") as caught:
        await drive(edge(payload(3, budget=budget)))
    assert caught.value.reason == "internal_error"
    assert "failed on a payload of 3 spans" in caplog.text
    assert "oops" in caplog.text
    assert sink.ledger.rejected == 3
    assert_at_rest(sink.ledger)
    caplog.clear()
    del caught


async def test_bytes_that_only_a_deep_look_finds_bad_are_the_senders_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink()
    edge, _ = edge_to(sink)
    sink.failures = [MalformedPayloadError("not UTF-8", 17)]
    with pytest.raises(RejectedError, match="not UTF-8 at byte 17") as caught:
        await edge(payload(2))
    assert caught.value.reason == "decode_error"
    assert sink.ledger.rejected == 2
    assert caplog.text == ""
    assert_at_rest(sink.ledger)


async def test_a_sender_that_goes_away_was_refused(budget: Budget) -> None:
    sink = Sink()
    sink.gate = asyncio.Event()
    edge, source = edge_to(sink)
    task = asyncio.create_task(edge(payload(3, budget=budget)))
    await until(lambda: sink.calls == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (sink.ledger.refused, source.sent) == (3, 0)
    assert_at_rest(sink.ledger)


async def test_a_sender_that_is_forgotten_was_refused(budget: Budget) -> None:
    sink = Sink()
    sink.gate = asyncio.Event()
    edge, _ = edge_to(sink)
    rest = begin(edge(payload(3, budget=budget)))
    assert isinstance(rest, Rest)
    del rest
    assert sink.ledger.refused == 3
    assert_at_rest(sink.ledger)


class Fan:
    """A fan-out to sinks."""

    def __init__(self, branches: int = 3) -> None:
        self.sinks = [
            Sink(context("exporters", f"sink/{number}")) for number in range(branches)
        ]
        self.source = Ledger()
        self.resent = Value()
        edges = [Edge(Ledger(), sink) for sink in self.sinks]
        self.outlet = FanOut(self.source, edges, self.resent)

    def assert_at_rest(self) -> None:
        for sink in self.sinks:
            assert_at_rest(sink.ledger)
            sink.payloads.clear()


@both_drivers
async def test_all_branches_get_the_same_payload(drive: Drive, budget: Budget) -> None:
    fan = Fan()
    one = payload(2, budget=budget)
    await drive(fan.outlet(one))
    assert all(sink.payloads == [one] for sink in fan.sinks)
    assert (fan.source.sent, fan.resent.value) == (2, 0)
    fan.assert_at_rest()


def test_the_promise_is_the_weakest() -> None:
    sinks = [Sink(), Sink()]
    sinks[1].promised = Promise.MEMORY
    edges = [Edge(Ledger(), sink) for sink in sinks]
    assert FanOut(Ledger(), edges, Value()).promise == Promise.MEMORY


@both_drivers
async def test_without_room_in_one_branch_none_is_asked(
    drive: Drive, budget: Budget
) -> None:
    fan = Fan()
    room = Room(1)
    room.force(1)
    fan.sinks[2].blocked = Blocked(room, 1)
    with pytest.raises(RefusedError) as caught:
        await drive(fan.outlet(payload(2, budget=budget)))
    assert str(caught.value) == f"{fan.sinks[2].context.label} has no room"
    assert caught.value.retry_after is not None
    del caught
    assert [sink.calls for sink in fan.sinks] == [0, 0, 0]
    assert (fan.source.sent, fan.resent.value) == (0, 0)
    fan.assert_at_rest()


@both_drivers
async def test_room_is_waited_for(drive: Drive, budget: Budget) -> None:
    fan = Fan()
    room = Room(1)
    room.force(1)
    fan.sinks[2].blocked = Blocked(room, 1)

    def free() -> None:
        fan.sinks[2].blocked = None
        room.give(1)

    loop = asyncio.get_running_loop()
    loop.call_soon(free)
    await drive(fan.outlet(payload(2, budget=budget, wait_until=loop.time() + 30)))
    assert [sink.spans for sink in fan.sinks] == [2, 2, 2]
    assert room.used == 0
    fan.assert_at_rest()


@both_drivers
@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("late", [(), (0,), (1,), (0, 1, 2)])
async def test_a_branch_that_refuses_makes_the_sender_retry(
    drive: Drive, budget: Budget, failing: int, late: tuple[int, ...]
) -> None:
    fan = Fan()
    gate = asyncio.Event()
    for number in late:
        fan.sinks[number].gate = gate
    fan.sinks[failing].failures = [RefusedError("full", 0.7)]
    asyncio.get_running_loop().call_soon(gate.set)
    with pytest.raises(RefusedError, match="full"):
        await drive(fan.outlet(payload(2, budget=budget)))
    assert [sink.calls for sink in fan.sinks] == [1, 1, 1]
    assert fan.sinks[failing].ledger.refused == 2
    assert (fan.source.sent, fan.resent.value) == (0, 4)
    fan.assert_at_rest()


@both_drivers
@pytest.mark.parametrize("late", [(), (0,), (1,), (0, 1, 2)])
async def test_a_refusal_wins_over_a_rejection(
    drive: Drive, budget: Budget, late: tuple[int, ...]
) -> None:
    fan = Fan()
    gate = asyncio.Event()
    for number in late:
        fan.sinks[number].gate = gate
    fan.sinks[0].failures = [RejectedError("bad")]
    fan.sinks[1].failures = [RefusedError("full")]
    asyncio.get_running_loop().call_soon(gate.set)
    with pytest.raises(RefusedError, match="full"):
        await drive(fan.outlet(payload(2, budget=budget)))
    assert fan.sinks[0].ledger.rejected == 2
    assert fan.resent.value == 2
    fan.assert_at_rest()


@both_drivers
async def test_a_rejection_alone_is_told(drive: Drive, budget: Budget) -> None:
    fan = Fan()
    fan.sinks[1].failures = [RejectedError("bad")]
    with pytest.raises(RejectedError, match="bad"):
        await drive(fan.outlet(payload(2, budget=budget)))
    assert (fan.source.sent, fan.resent.value) == (0, 0)
    fan.assert_at_rest()


@both_drivers
async def test_what_any_branch_rejects_is_told(drive: Drive, budget: Budget) -> None:
    fan = Fan()
    fan.sinks[0].failures = [PartlyRejectedError("bad", "decode_error", ("first",))]
    fan.sinks[2].failures = [PartlyRejectedError("worse", "decode_error", ("third",))]
    with pytest.raises(PartlyRejectedError, match="bad") as caught:
        await drive(fan.outlet(payload(2, budget=budget)))
    assert caught.value.culprits == ("first", "third")
    fan.sinks[0].failures = [PartlyRejectedError("bad", "decode_error", ("first",))]
    fan.sinks[1].failures = [RejectedError("all of it")]
    with pytest.raises(RejectedError, match="all of it"):
        await drive(fan.outlet(payload(2, budget=budget)))
    del caught


async def test_cancelled_branches_have_ended_when_the_sender_has(budget: Budget) -> None:
    fan = Fan()
    fan.sinks[1].gate = asyncio.Event()
    task = asyncio.create_task(fan.outlet(payload(2, budget=budget)))
    await until(lambda: fan.sinks[2].calls == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fan.sinks[1].ledger.refused == 2
    assert [sink.spans for sink in fan.sinks] == [2, 0, 2]
    assert (fan.source.sent, fan.resent.value) == (0, 4)
    del task
    fan.assert_at_rest()


_results = st.sampled_from(["take", "refuse", "reject", "break"])


@given(st.lists(st.tuples(_results, st.booleans()), min_size=1, max_size=5), st.booleans())
def test_whatever_branches_do_the_sums_hold(
    branches: list[tuple[str, bool]], cancel: bool
) -> None:
    failures: dict[str, list[Exception]] = {
        "take": [],
        "refuse": [RefusedError("no")],
        "reject": [RejectedError("never")],
        "break": [KeyError("oops")],
    }

    async def main() -> None:
        budget = Budget(MIB)
        fan = Fan(len(branches))
        gate = asyncio.Event()
        for sink, (result, late) in zip(fan.sinks, branches, strict=True):
            sink.failures = failures[result].copy()
            sink.gate = gate if late else None
        one = payload(2, budget=budget)
        task = asyncio.create_task(fan.outlet(one))
        await asyncio.sleep(0)
        if cancel:
            task.cancel()
        gate.set()
        await asyncio.wait([task])
        taken = sum(sink.spans == 2 for sink in fan.sinks)
        results = [result for result, _ in branches]
        if task.cancelled():
            assert fan.source.sent == 0
        elif set(results) == {"take"}:
            assert task.exception() is None
            assert fan.source.sent == 2
        elif "refuse" in results:
            assert isinstance(task.exception(), RefusedError)
            assert fan.resent.value == 2 * taken
        else:
            assert isinstance(task.exception(), RejectedError)
            assert fan.resent.value == 0
        fan.assert_at_rest()

    asyncio.run(main())
