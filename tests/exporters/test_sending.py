"""The queue and its workers, as senders and metrics see them, from start to stop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from k8strace.component import Blocked, Promise
from k8strace.config import decode
from k8strace.errors import ConfigError, RefusedError, RejectedError
from k8strace.exporters._sending import SendingConfig, Sent
from k8strace.payload import Payload
from k8strace.units import Duration
from tests.support.pipeline import (
    Drive,
    assert_at_rest,
    both_drivers,
    until,
    without_a_task,
)
from tests.support.sending import (
    BRIEF_RETRY,
    FULL,
    direct,
    fill,
    running,
    scripted,
)

NO_RETRY = {"enabled": False}
WAITING = {"wait_for_result": True}
TRACES = {"data_type": "traces"}


def now() -> float:
    return asyncio.get_running_loop().time()


def test_defaults() -> None:
    config = SendingConfig()
    assert config.timeout == Duration(5)
    assert config.sending_queue.enabled
    assert config.retry_on_failure.enabled


def test_a_negative_timeout_is_an_error() -> None:
    with pytest.raises(ConfigError, match="`timeout` must be non-negative, found -1s"):
        decode(SendingConfig, {"timeout": "-1s"})


@pytest.mark.parametrize(
    ("queue", "promise"),
    [
        ({}, Promise.MEMORY),
        ({"enabled": False}, Promise.DELIVERED),
        (WAITING, Promise.DELIVERED),
    ],
)
def test_the_promise(queue: dict[str, Any], promise: Promise) -> None:
    assert scripted({"sending_queue": queue}).exporter.promise == promise


@both_drivers
async def test_a_queue_takes_at_once_and_sends_later(drive: Drive) -> None:
    async with running() as rig:
        rig.exporter.gate.clear()
        await drive(rig.send(3))
        await rig.exporter.attempted(1)
        assert (rig.source.sent, rig.ledger.parked, rig.ledger.sent) == (3, 3, 0)
        assert rig.value("otelcol_exporter_queue_size", **TRACES) == 1
        assert rig.value("otelcol_exporter_queue_capacity", **TRACES) == 1000
        assert rig.value("k8strace_exporter_queue_bytes") == rig.budget.used > 0
        assert rig.value("k8strace_exporter_queue_oldest_seconds") > 0
        assert rig.value("otelcol_exporter_in_flight_requests", **TRACES) == 1
        rig.exporter.gate.set()
        await rig.settled()
        assert rig.ledger.sent == 3
        assert rig.value("otelcol_exporter_queue_size", **TRACES) == 0
        assert rig.value("k8strace_exporter_queue_bytes") == 0
        assert rig.value("otelcol_exporter_in_flight_requests", **TRACES) == 0
        assert rig.value("otelcol_exporter_sent_spans_total") == 3
        assert rig.value("otelcol_exporter_queue_batch_send_size_sum") == 3
        await until(lambda: rig.value("k8strace_exporter_queue_oldest_seconds") == 0)


@both_drivers
async def test_without_a_queue_the_sender_waits_for_the_outcome(drive: Drive) -> None:
    async with running(**direct()) as rig:
        await drive(rig.send(3))
        assert rig.ledger.sent == 3
        rig.exporter.gate.clear()
        sender = asyncio.ensure_future(drive(rig.send(3)))
        await rig.exporter.attempted(2)
        assert not sender.done()
        rig.exporter.gate.set()
        await sender
        assert rig.ledger.sent == 6


FAILURES = pytest.mark.parametrize(
    ("failure", "outcome"),
    [(RefusedError("busy", 0.3), "refused"), (RejectedError("bad"), "rejected")],
)


@both_drivers
@FAILURES
@pytest.mark.parametrize("queue", [{"enabled": False}, WAITING], ids=str)
async def test_who_waits_is_told_what_happened(
    drive: Drive, failure: Exception, outcome: str, queue: dict[str, Any]
) -> None:
    async with running(sending_queue=queue, retry_on_failure=NO_RETRY) as rig:
        rig.exporter.failures = [failure]
        with pytest.raises(type(failure), match=str(failure)) as caught:
            await drive(rig.send(3))
        assert getattr(caught.value, "retry_after", 0.3) == 0.3
        failure.__traceback__ = None
        del caught
        assert getattr(rig.ledger, outcome) == 3
        assert rig.ledger.dropped == {}
        assert rig.value("otelcol_exporter_send_failed_spans_total") == 3


async def test_retries_that_run_out_are_told_to_who_waits() -> None:
    async with running(sending_queue=WAITING, retry_on_failure=BRIEF_RETRY) as rig:
        rig.exporter.failures = [RefusedError("busy") for _ in range(1000)]
        with pytest.raises(RefusedError, match="busy"):
            await rig.send(3)
        assert len(rig.exporter.attempts) > 1
        assert (rig.ledger.refused, rig.ledger.dropped) == (3, {})


async def test_in_a_joined_batch_each_sender_is_told_its_own_outcome() -> None:
    queue = {**WAITING, "batch": {"min_size": 6, "flush_timeout": "1h"}}

    async def refuse_three(payload: Payload) -> None:
        if 3 in [one.spans for one in payload.sources] or payload.spans == 3:
            raise RejectedError("three is bad")

    async with running(sending_queue=queue) as rig:
        rig.exporter.answer = refuse_three
        senders = [rig.sender(spans) for spans in (1, 2, 3)]
        await asyncio.wait(senders)
        assert [sender.exception() is None for sender in senders] == [True, True, False]
        assert isinstance(senders[2].exception(), RejectedError)
        senders.clear()
        assert (rig.ledger.sent, rig.ledger.rejected, rig.ledger.dropped) == (3, 3, {})
        assert len(rig.exporter.attempts) == 4


async def test_a_sender_that_leaves_while_its_request_waits_takes_it_along() -> None:
    async with running(sending_queue={**WAITING, "num_consumers": 1}) as rig:
        rig.exporter.gate.clear()
        first, second, third = rig.sender(1), rig.sender(2), rig.sender(3)
        await until(lambda: rig.ledger.received == 6)
        await rig.exporter.attempted(1)
        second.cancel()
        await asyncio.wait([second])
        del second
        assert rig.ledger.refused == 2
        assert rig.value("otelcol_exporter_queue_size", **TRACES) == 2
        rig.exporter.gate.set()
        await first
        await third
        assert rig.ledger.sent == rig.exporter.taken.total() == 4


@pytest.mark.parametrize(
    ("failure", "dropped"),
    [
        (None, {}),
        (RejectedError("bad"), {"permanent_error": 3}),
        (RefusedError("busy"), {"retry_exhausted": 3}),
    ],
    ids=["taken", "rejected", "refused"],
)
async def test_a_sender_that_leaves_while_its_request_is_sent(
    failure: Exception | None, dropped: dict[str, int]
) -> None:
    async with running(sending_queue=WAITING, retry_on_failure=NO_RETRY) as rig:
        rig.exporter.gate.clear()
        rig.exporter.failures = [failure] if failure is not None else []
        sender = rig.sender(3)
        await rig.exporter.attempted(1)
        sender.cancel()
        await asyncio.wait([sender])
        del sender
        assert (rig.ledger.refused, rig.ledger.in_flight) == (3, 3)
        rig.exporter.gate.set()
        await rig.settled()
        if failure is not None:
            failure.__traceback__ = None
        assert rig.ledger.dropped == dropped
        assert rig.ledger.sent == (0 if dropped else 3)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_sender_that_leaves_just_when_all_is_done(fails: bool) -> None:
    options = {"sending_queue": WAITING, "retry_on_failure": NO_RETRY, "timeout": "0s"}
    async with running(**options) as rig:

        async def leave(_: Payload) -> None:
            asyncio.get_running_loop().call_soon(senders[0].cancel)
            if fails:
                raise RefusedError("busy")

        rig.exporter.answer = leave
        senders = [rig.sender(3)]
        await asyncio.wait(senders)
        assert senders[0].cancelled()
        assert (rig.ledger.refused, rig.ledger.sent) == (3, 0 if fails else 3)
        assert_at_rest(rig.ledger)
        senders.clear()


async def test_a_sender_without_queue_that_leaves_after_a_piece_was_sent() -> None:
    async with running(**direct()) as rig:
        calls: list[int] = []

        async def hang_on_second(payload: Payload) -> None:
            calls.append(payload.spans)
            if len(calls) == 3:
                await asyncio.Event().wait()

        async def refuse_joined(payload: Payload) -> None:
            if len(payload.sources) > 1:
                raise RejectedError("one by one")
            await hang_on_second(payload)

        rig.exporter.answer = refuse_joined
        joined = Payload.join([rig.payload(spans) for spans in (1, 2, 3, 4)])
        sender = asyncio.create_task(rig.edge(joined))
        del joined
        await until(lambda: len(calls) == 3)
        sender.cancel()
        await asyncio.wait([sender])
        del sender
        assert rig.ledger.refused == 10
        assert rig.ledger.sent == 3
        assert rig.value("k8strace_spans_resent_total") == 3


@both_drivers
async def test_a_full_queue_refuses(drive: Drive) -> None:
    async with running(sending_queue=FULL) as rig:
        await fill(rig)
        with pytest.raises(RefusedError, match="queue of scripted is full") as caught:
            await drive(rig.send(3))
        assert caught.value.retry_after is not None
        del caught
        assert rig.value("otelcol_exporter_enqueue_failed_spans_total") == 3
        assert (rig.ledger.refused, rig.ledger.parked) == (3, 6)
        rig.exporter.gate.set()


@both_drivers
async def test_a_full_queue_is_waited_for_as_long_as_the_sender_can(drive: Drive) -> None:
    async with running(sending_queue=FULL) as rig:
        await fill(rig)
        with pytest.raises(RefusedError):
            await drive(rig.send(3, wait_until=now() + 0.01))
        patient = asyncio.ensure_future(drive(rig.send(3, wait_until=now() + 30)))
        await until(lambda: rig.ledger.received == 12)
        rig.exporter.gate.set()
        await patient
        await rig.settled()
        assert rig.ledger.sent == 9


async def test_block_on_overflow_waits_without_end() -> None:
    async with running(sending_queue={**FULL, "block_on_overflow": True}) as rig:
        await fill(rig)
        assert rig.exporter.blocked_by(rig.payload(3)) is None
        patient = rig.sender(3)
        await until(lambda: rig.ledger.received == 9)
        leaving = rig.sender(1)
        await until(lambda: rig.ledger.received == 10)
        leaving.cancel()
        await asyncio.wait([leaving])
        del leaving
        assert not patient.done()
        rig.exporter.gate.set()
        await patient
        await rig.settled()
        assert (rig.ledger.sent, rig.ledger.refused) == (9, 1)


async def test_what_can_never_fit_is_rejected() -> None:
    queue = {"sizer": "items", "queue_size": 5, "block_on_overflow": True}
    async with running(sending_queue=queue) as rig:
        with pytest.raises(RejectedError, match="can never fit") as caught:
            await rig.send(6)
        assert caught.value.reason == "queue_full"
        del caught
        assert rig.exporter.blocked_by(rig.payload(6)) is None
        assert rig.value("otelcol_exporter_enqueue_failed_spans_total") == 6
        await rig.send(5)
        await rig.settled()
        assert (rig.ledger.rejected, rig.ledger.sent) == (6, 5)


@pytest.mark.parametrize("sizer", ["requests", "items", "bytes"])
async def test_the_queue_counts_in_the_unit_of_its_sizer(sizer: str) -> None:
    probe = scripted({}).payload(3)
    unit = {"requests": 1, "items": 3, "bytes": probe.size}[sizer]
    queue = {"sizer": sizer, "queue_size": 2 * unit, "num_consumers": 1}
    async with running(sending_queue=queue) as rig:
        rig.exporter.gate.clear()
        await rig.send(3)
        assert rig.value("otelcol_exporter_queue_size", **TRACES) == unit
        assert rig.value("otelcol_exporter_queue_capacity", **TRACES) == 2 * unit
        await rig.send(3)
        with pytest.raises(RefusedError):
            await rig.send(3)
        rig.exporter.gate.set()


async def test_a_fan_out_is_told_where_there_is_no_room() -> None:
    async with running(sending_queue=FULL) as rig:
        assert rig.exporter.blocked_by(rig.payload(1)) is None
        await fill(rig)
        blocked = rig.exporter.blocked_by(rig.payload(1))
        assert isinstance(blocked, Blocked)
        assert blocked.amount == 1
        waiter = asyncio.create_task(blocked.room.wait(1, now() + 30))
        rig.exporter.gate.set()
        assert await waiter
        assert rig.exporter.blocked_by(rig.payload(1)) is None
    assert scripted(direct()).exporter.blocked_by(rig.payload(1)) is None


async def test_a_payload_of_no_spans_passes() -> None:
    async with running(sending_queue=WAITING) as rig:
        await rig.send(0)
        assert rig.exporter.attempts == [[]]


async def test_a_queue_does_not_suspend_its_sender() -> None:
    async with running() as rig:
        coroutine = rig.edge(rig.payload(1))
        with pytest.raises(StopIteration):
            coroutine.send(None)
        del coroutine
        await rig.settled()


async def test_sent_is_what_a_destination_said() -> None:
    async with running(**direct()) as rig:

        async def some(_: Payload) -> Sent:
            return Sent(1, "one is bad")

        rig.exporter.answer = some
        await without_a_task(rig.send(1))
        assert (rig.ledger.sent, rig.ledger.dropped) == (0, {"partial_success": 1})
