"""What is sent at once, and how it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from k8strace.errors import RefusedError
from k8strace.exporters import _delivery
from k8strace.payload import Payload
from tests.support.pipeline import (
    assert_at_rest,
    told,
    until,
)
from tests.support.requests import parse, span_ids
from tests.support.sending import (
    FAST_RETRY,
    FULL,
    direct,
    fill,
    running,
    scripted,
)

WAITING = {"wait_for_result": True}


async def test_payloads_are_joined_until_they_are_enough() -> None:
    queue = {"batch": {"min_size": 10, "flush_timeout": "1h"}}
    async with running(sending_queue=queue) as rig:
        for _ in range(7):
            await rig.send(3)
        await until(lambda: rig.ledger.sent == 12)
        assert [len(ids) for ids in rig.exporter.attempts] == [12]
        assert rig.ledger.parked == 9
        await rig.stop()
        assert [len(ids) for ids in rig.exporter.attempts] == [12, 9]


async def test_a_batch_leaves_when_its_time_is_over() -> None:
    queue = {"batch": {"flush_timeout": "5ms"}}
    async with running(sending_queue=queue) as rig:
        for _ in range(2):
            await rig.send(3)
            await rig.send(2)
            await rig.settled()
        assert [len(ids) for ids in rig.exporter.attempts] == [5, 5]


async def test_a_batch_leaves_when_the_queue_is_full() -> None:
    queue = {"queue_size": 2, "batch": {"flush_timeout": "1h"}}
    async with running(sending_queue=queue) as rig:
        later = asyncio.get_running_loop().time() + 30
        for _ in range(5):
            await rig.send(1, wait_until=later)
        await until(lambda: rig.ledger.sent == 4)
        assert [len(ids) for ids in rig.exporter.attempts] == [2, 2]


async def test_no_more_is_sent_at_once_than_there_are_consumers() -> None:
    queue = {"num_consumers": 3, "batch": {"min_size": 2, "flush_timeout": "1ms"}}
    async with running(sending_queue=queue) as rig:
        rig.exporter.gate.clear()
        for _ in range(20):
            await rig.send(1)
        await rig.exporter.attempted(3)
        await asyncio.sleep(0.01)
        assert len(rig.exporter.attempts) == rig.exporter.at_once == 3
        rig.exporter.gate.set()
        await rig.settled()
        assert rig.exporter.most_at_once == 3
        assert rig.ledger.sent == 20


async def test_order_is_kept_with_one_consumer() -> None:
    async with running(sending_queue={"num_consumers": 1}) as rig:
        wanted = []
        for _ in range(20):
            one = rig.payload(2)
            wanted.append(span_ids(parse(one.chunks)))
            await rig.edge(one)
            del one
        await rig.settled()
        assert rig.exporter.attempts == wanted


async def test_stopping_sends_what_is_parked() -> None:
    queue = {"num_consumers": 2, "batch": {"flush_timeout": "1h", "min_size": 5}}
    async with running(sending_queue=queue) as rig:
        rig.exporter.gate.clear()
        for _ in range(33):
            await rig.send(1)
        stopping = asyncio.create_task(rig.stop())
        await rig.exporter.attempted(2)
        rig.exporter.gate.set()
        await stopping
        assert rig.ledger.sent == rig.exporter.taken.total() == 33
        assert rig.exporter.closed == 1
        assert rig.ledger.dropped == {}


async def test_stopping_ends_long_pauses_and_goes_on_with_short_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_delivery, "HURRIED_PAUSE", 0.001)
    slow = {"initial_interval": "1h", "max_interval": "1h", "max_elapsed_time": "0s"}
    async with running(retry_on_failure=slow) as rig:
        rig.exporter.failures = [RefusedError("busy", 3600.0) for _ in range(9)]
        for _ in range(2):
            await rig.send(3)
        await rig.exporter.attempted(2)
        await asyncio.sleep(0)
        await rig.stop()
        assert len(rig.exporter.attempts) == 11
        assert rig.ledger.sent == 6
        assert rig.ledger.dropped == {}


async def test_stopping_gives_nothing_up_for_a_pause_that_is_cut_short(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_delivery, "HURRIED_PAUSE", 0.001)
    async with running() as rig:
        rig.exporter.failures = [RefusedError("come back tomorrow", 86_400)]
        rig.exporter.gate.clear()
        await rig.send(3)
        await rig.exporter.attempted(1)
        stopping = asyncio.create_task(rig.stop())
        await asyncio.sleep(0)
        rig.exporter.gate.set()
        await stopping
        assert (rig.ledger.sent, rig.ledger.dropped) == (3, {})
    assert "next attempt in 0.001 s" in caplog.text


async def test_stopping_with_a_dead_destination_tries_until_the_deadline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_delivery, "HURRIED_PAUSE", 0.001)
    async with running(sending_queue={"num_consumers": 2}) as rig:

        async def dead(_: Payload) -> None:
            raise RefusedError("connection refused")

        rig.exporter.answer = dead
        for _ in range(20):
            await rig.send(1)
        await rig.stop(0.2)
        assert rig.ledger.dropped == {"shutdown": 20}
        assert len(rig.exporter.attempts) > 4
    assert told(rig.exporter, caplog.records) == {"shutdown": 20}
    assert "not taken in time by backend:4317: not sent before the end" in caplog.text


@pytest.mark.parametrize("timeout", ["0s", "1h"])
async def test_stopping_ends_at_the_deadline(
    timeout: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(timeout=timeout, sending_queue={"num_consumers": 2}) as rig:
        rig.exporter.gate.clear()
        for _ in range(5):
            await rig.send(2)
        await rig.exporter.attempted(2)
        await rig.stop(0.01)
        assert rig.ledger.dropped == {"shutdown": 10}
        assert rig.exporter.at_once == 0
        assert rig.exporter.closed == 1
    assert told(rig.exporter, caplog.records) == {"shutdown": 10}


async def test_who_waits_when_it_stops_is_refused() -> None:
    async with running(sending_queue={**WAITING, "num_consumers": 1}) as rig:
        rig.exporter.gate.clear()
        senders = [rig.sender(2) for _ in range(3)]
        await rig.exporter.attempted(1)
        await rig.stop(0.01)
        await asyncio.wait(senders)
        assert all(isinstance(one.exception(), RefusedError) for one in senders)
        senders.clear()
        assert (rig.ledger.refused, rig.ledger.dropped) == (6, {})


async def test_who_waits_for_room_when_it_stops_is_refused() -> None:
    async with running(sending_queue={**FULL, "block_on_overflow": True}) as rig:
        await fill(rig)
        sender = rig.sender(1)
        await until(lambda: rig.ledger.received == 7)
        stopping = asyncio.create_task(rig.stop())
        await asyncio.sleep(0)
        rig.exporter.gate.set()
        await stopping
        await asyncio.wait([sender])
        assert isinstance(sender.exception(), RefusedError)
        del sender
        assert (rig.ledger.sent, rig.ledger.refused) == (6, 1)


@pytest.mark.parametrize("values", [{}, direct()], ids=["queue", "direct"])
async def test_after_the_stop_nothing_is_taken(values: dict[str, Any]) -> None:
    async with running(**values) as rig:
        await rig.stop()
        await rig.stop()
        with pytest.raises(RefusedError, match="shutting down"):
            await rig.send(1)
        assert rig.exporter.closed == 1


async def test_stopping_what_was_never_started() -> None:
    rig = scripted({})
    await rig.stop()
    assert (rig.exporter.opened, rig.exporter.closed) == (0, 1)
    assert_at_rest(rig.ledger)


async def test_stopping_waits_for_senders_without_a_queue() -> None:
    async with running(**direct(retry_on_failure=FAST_RETRY)) as rig:
        rig.exporter.gate.clear()
        sender = rig.sender(3)
        await rig.exporter.attempted(1)
        stopping = asyncio.create_task(rig.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        rig.exporter.gate.set()
        await stopping
        await sender
        assert rig.ledger.sent == 3


async def test_a_cancelled_stop_leaves_nothing_behind() -> None:
    async with running() as rig:
        rig.exporter.gate.clear()
        await rig.send(3)
        await rig.exporter.attempted(1)
        stopping = asyncio.create_task(rig.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait([stopping])
        assert stopping.cancelled()
        assert rig.ledger.dropped == {"shutdown": 3}
        assert rig.exporter.closed == 1


async def test_a_stop_ends_what_waits_for_room_to_be_cut() -> None:
    """One piece is past the limit, and on its way for ever; others wait until it is not."""
    queue = {"num_consumers": 3, "batch": {"min_size": 1, "max_size": 3}}
    async with running(sending_queue=queue) as rig:
        rig.exporter.gate.clear()
        payloads = [rig.payload(7) for _ in range(3)]
        rig.budget.limit = rig.budget.used
        for one in payloads:
            await rig.edge(one)
        payloads.clear()
        del one
        await rig.exporter.attempted(1)
        await asyncio.sleep(0)
        assert len(rig.exporter.attempts) == 1
        await asyncio.wait_for(rig.stop(0.05), 20)
        assert rig.ledger.parked == 0
        assert rig.ledger.dropped["shutdown"] == 21
        rig.exporter.gate.set()
