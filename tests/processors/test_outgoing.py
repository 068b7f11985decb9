"""Batches in front of what stores or waits: the senders' answers are held.

What batches do in front of memory stands in test_batch.py.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.component import Promise
from k8strace.driver import Rest, begin
from k8strace.errors import PartlyRejectedError, RefusedError, RejectedError
from k8strace.payload import Payload
from k8strace.processors._outgoing import Answering, culprit_of
from tests.support.batch import Rig
from tests.support.pipeline import (
    Drive,
    both_drivers,
    cancel,
    payload,
    unreadable,
    until,
    without_a_task,
)
from tests.support.requests import parse, span_ids

held_modes = pytest.mark.parametrize("promise", [Promise.STORED, Promise.DELIVERED])


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def senders(
    rig: Rig, *spans: int, drive: Drive = without_a_task
) -> list[asyncio.Task[None]]:
    """Tasks that hand on payloads of so many spans, begun in this order."""

    async def send(payload: Payload) -> None:
        await drive(rig.into(payload))

    return [asyncio.create_task(send(rig.payload(number))) for number in spans]


async def outcomes(tasks: list[asyncio.Task[None]]) -> list[BaseException | None]:
    """What each task ended with; neither the tasks nor errors' frames are kept."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()
    await asyncio.sleep(0)  # the loop holds the task that woke us until its next turn
    return [one and one.with_traceback(None) for one in results]


@held_modes
@both_drivers
async def test_answers_come_when_the_batch_is_taken(drive: Drive, promise: Promise) -> None:
    rig = Rig(promise, send_batch_size=5)
    rig.sink.gate = asyncio.Event()
    tasks = senders(rig, 2, 3, drive=drive)
    await until(lambda: rig.sink.calls == 1)
    assert not any(task.done() for task in tasks)
    assert rig.ledger.parked == 5
    rig.sink.gate.set()
    assert await outcomes(tasks) == [None, None]
    assert rig.sizes == [5]
    assert rig.source.sent == 5
    rig.assert_at_rest()


async def test_who_fills_the_batch_does_not_suspend() -> None:
    rig = Rig(Promise.DELIVERED, send_batch_size=3)
    waiting = begin(rig.into(rig.payload(1)))
    assert isinstance(waiting, Rest)
    assert not isinstance(begin(rig.into(rig.payload(2))), Rest)
    assert rig.sizes == [3]
    await waiting
    del waiting
    rig.assert_at_rest()


@both_drivers
async def test_a_batch_goes_on_when_its_time_is_over(drive: Drive) -> None:
    rig = Rig(Promise.DELIVERED, timeout=0.002)
    assert await outcomes(senders(rig, 2, 3, drive=drive)) == [None, None]
    assert rig.sizes == [5]
    rig.assert_at_rest()


@both_drivers
@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_refusal_goes_to_all_senders_and_nothing_is_kept(drive: Drive) -> None:
    rig = Rig(Promise.DELIVERED, send_batch_size=3)
    rig.sink.failures = [RefusedError("backend is away", 0.7)]
    for error in await outcomes(senders(rig, 1, 2, drive=drive)):
        assert isinstance(error, RefusedError)
        assert (str(error), error.retry_after) == ("backend is away", 0.7)
    assert rig.sink.calls == 1
    assert rig.ledger.refused == 3
    rig.assert_at_rest()


@both_drivers
async def test_a_rejection_goes_to_all_senders(drive: Drive) -> None:
    rig = Rig(Promise.DELIVERED, send_batch_size=3)
    rig.sink.failures = [RejectedError("no", "decode_error", about_data=False)]
    for error in await outcomes(senders(rig, 1, 2, drive=drive)):
        assert isinstance(error, RejectedError)
        assert (str(error), error.reason, error.about_data) == (
            "no",
            "decode_error",
            False,
        )
    assert rig.ledger.rejected == 3
    assert rig.ledger.dropped == {}
    rig.assert_at_rest()


@held_modes
@both_drivers
async def test_a_sender_whose_request_alone_is_rejected_is_told(
    drive: Drive, promise: Promise
) -> None:
    rig = Rig(promise, send_batch_size=6)
    rig.sink.verdicts = ["partly"]
    bad, *good = await outcomes(senders(rig, 1, 2, 3, drive=drive))
    assert isinstance(bad, RejectedError)
    assert (str(bad), bad.reason) == ("bad", "decode_error")
    assert good == [None, None]
    assert rig.source.sent == rig.ledger.sent == 5
    assert (rig.ledger.rejected, rig.ledger.dropped) == (1, {})
    rig.assert_at_rest()


@held_modes
@both_drivers
async def test_a_sender_whose_request_cannot_be_cut_is_told(
    drive: Drive, promise: Promise
) -> None:
    """The others of the payload that it came in were joined by somebody in front."""
    rig = Rig(promise, send_batch_size=4, send_batch_max_size=4)
    requests = [rig.payload(2), unreadable(5, budget=rig.budget), rig.payload(3)]
    joined = Payload.join(requests)
    requests.clear()
    sources = joined.sources

    async def send(payload: Payload) -> None:
        await drive(rig.into(payload))

    tasks = [asyncio.create_task(send(joined))]
    del joined
    (error,) = await outcomes(tasks)
    assert isinstance(error, PartlyRejectedError)
    assert "cannot read it" in str(error)
    assert error.reason == "decode_error"
    (culprit,) = error.culprits
    assert culprit is sources[1]
    assert rig.sizes == [2, 3]
    # All ten are handed back; the five that went on count as received once more.
    assert (rig.ledger.sent, rig.ledger.rejected, rig.ledger.dropped) == (5, 10, {})
    rig.assert_at_rest()


async def test_several_batches_are_on_their_way() -> None:
    rig = Rig(Promise.DELIVERED, timeout=0)
    rig.sink.gate = asyncio.Event()
    tasks = senders(rig, *[1] * (Answering.at_once + 2))
    await until(lambda: rig.ledger.parked == len(tasks))
    assert rig.sink.calls == Answering.at_once
    rig.sink.gate.set()
    assert set(await outcomes(tasks)) == {None}
    assert rig.sink.calls == Answering.at_once + 2
    rig.assert_at_rest()


async def test_nobody_is_held_longer_than_it_allows() -> None:
    rig = Rig(Promise.DELIVERED, send_batch_size=3)
    now = asyncio.get_running_loop().time()
    tasks = [
        asyncio.create_task(
            rig.into(msgspec.structs.replace(rig.payload(), wait_until=now + patience))
        )
        for patience in (5, 2, 9)
    ]
    assert await outcomes(tasks) == [None] * 3
    assert rig.sink.payloads[0].wait_until == now + 2


# A payload that lies in two pieces


async def test_both_pieces_of_a_payload_must_be_taken() -> None:
    rig = Rig(Promise.DELIVERED, send_batch_size=4, send_batch_max_size=4)
    rig.sink.failures = [RejectedError("bad")]
    (error,) = await outcomes(senders(rig, 6))
    assert isinstance(error, RejectedError)
    assert rig.sizes == [2]
    assert (rig.ledger.received, rig.ledger.rejected, rig.ledger.sent) == (8, 6, 2)
    rig.assert_at_rest()


async def test_after_a_refusal_no_piece_is_tried() -> None:
    rig = Rig(Promise.DELIVERED, send_batch_size=4, send_batch_max_size=4)
    rig.sink.failures = [RejectedError("bad"), RefusedError("full", 1)]
    (error,) = await outcomes(senders(rig, 20))
    assert isinstance(error, RefusedError)
    assert rig.sink.calls == 2
    rig.assert_at_rest()


@given(
    spans=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    limit=st.integers(1, 12),
    verdicts=st.lists(st.sampled_from(["take", "refuse", "reject"]), max_size=12),
)
def test_each_sender_learns_of_its_own_spans(
    spans: list[int], limit: int, verdicts: list[str]
) -> None:
    """Told "taken" exactly when all its spans were; the sums hold whatever happens."""

    async def run() -> None:
        rig = Rig(Promise.DELIVERED, send_batch_size=limit, send_batch_max_size=limit)
        rig.sink.verdicts = list(verdicts)
        payloads = [rig.payload(number) for number in spans]
        wanted = [set(span_ids(parse(one.chunks))) for one in payloads]
        tasks = [asyncio.create_task(rig.into(one)) for one in payloads]
        payloads.clear()
        await asyncio.sleep(0)
        await rig.stop()
        results = await outcomes(tasks)
        arrived = rig.sink.span_ids()
        assert len(arrived) == len(set(arrived))
        for ids, result in zip(wanted, results, strict=True):
            assert (result is None) == (ids <= set(arrived))
            assert result is None or isinstance(result, RefusedError | RejectedError)
        rig.assert_at_rest()

    asyncio.run(run())


# Senders that go away


@both_drivers
async def test_what_is_parked_goes_with_its_sender(drive: Drive) -> None:
    rig = Rig(Promise.DELIVERED, send_batch_size=10)
    gone, stays = senders(rig, 3, 2, drive=drive)
    await until(lambda: rig.ledger.parked == 5)
    await cancel(gone)
    del gone
    assert (rig.ledger.parked, rig.ledger.refused) == (2, 3)
    await rig.stop()
    await stays
    assert rig.sizes == [2]
    rig.assert_at_rest()


async def test_an_empty_batch_is_forgotten() -> None:
    rig = Rig(Promise.DELIVERED, send_batch_size=10)
    (gone,) = senders(rig, 3)
    await until(lambda: rig.ledger.parked == 3)
    assert rig.metric("metadata_cardinality") == 1
    await cancel(gone)
    del gone
    assert rig.metric("metadata_cardinality") == 0
    await rig.stop()
    assert rig.sink.calls == 0
    rig.assert_at_rest()


async def test_a_batch_that_waits_for_its_turn_may_lose_all_senders() -> None:
    rig = Rig(Promise.DELIVERED, timeout=0)
    rig.sink.gate = asyncio.Event()
    tasks = senders(rig, *[1] * Answering.at_once)
    await until(lambda: rig.sink.calls == Answering.at_once)
    (gone,) = senders(rig, 5)
    await until(lambda: rig.ledger.parked == Answering.at_once + 5)
    await cancel(gone)
    del gone
    rig.sink.gate.set()
    assert set(await outcomes(tasks)) == {None}
    await rig.stop()
    assert rig.sizes == [1] * Answering.at_once
    rig.assert_at_rest()


@both_drivers
@pytest.mark.parametrize(
    ("failure", "refused", "rejected"),
    [(None, 3, 0), (RefusedError, 3 + 3, 0), (RejectedError, 3, 3)],
)
async def test_a_sender_goes_away_while_its_spans_are_on_their_way(
    drive: Drive, failure: type[Exception] | None, refused: int, rejected: int
) -> None:
    """Its request counts as refused; its spans are counted again, as what they became."""
    rig = Rig(Promise.DELIVERED, timeout=0)
    rig.sink.gate = asyncio.Event()
    if failure is not None:
        rig.sink.failures = [failure("no")]
    (gone,) = senders(rig, 3, drive=drive)
    await until(lambda: rig.sink.calls == 1)
    await cancel(gone)
    del gone
    assert (rig.ledger.received, rig.ledger.refused) == (6, 3)
    assert rig.ledger.in_flight == 0
    rig.sink.gate.set()
    await rig.stop()
    assert (rig.ledger.refused, rig.ledger.rejected) == (refused, rejected)
    assert rig.ledger.sent == (3 if failure is None else 0)
    rig.assert_at_rest()


@pytest.mark.parametrize("failure", [None, RefusedError, RejectedError])
async def test_a_sender_goes_away_when_its_answer_is_there(
    failure: type[Exception] | None,
) -> None:
    """The outcome is known, but the sender was cancelled before it could take it."""
    rig = Rig(Promise.DELIVERED, send_batch_size=4)
    if failure is not None:
        rig.sink.failures = [failure("no")]
    gone = asyncio.create_task(rig.into(rig.payload(3)))
    await until(lambda: rig.ledger.parked == 3)
    filled = begin_and_ignore(rig)
    await cancel(gone)
    del gone
    assert filled == (failure is None)
    assert sum(rig.sizes) == (4 if failure is None else 0)
    assert rig.ledger.refused + rig.ledger.rejected >= 3
    rig.assert_at_rest()


def begin_and_ignore(rig: Rig) -> bool:
    """Fill the batch in this very step; True if it was taken."""
    try:
        begin(rig.into(rig.payload(1)))
    except (RefusedError, RejectedError):
        return False
    return True


# The end


async def test_stop_sends_what_is_parked() -> None:
    rig = Rig(Promise.DELIVERED)
    tasks = senders(rig, 1, 2)
    await until(lambda: rig.ledger.parked == 3)
    await rig.stop()
    assert await outcomes(tasks) == [None, None]
    assert rig.sizes == [3]
    rig.assert_at_rest()


async def test_who_is_not_served_in_time_is_refused() -> None:
    rig = Rig(Promise.DELIVERED, timeout=0)
    rig.sink.gate = asyncio.Event()
    tasks = senders(rig, *[1] * (Answering.at_once + 1))
    await until(lambda: rig.ledger.parked == len(tasks))
    await rig.stop(0)
    for error in await outcomes(tasks):
        assert isinstance(error, RefusedError)
    assert rig.ledger.refused == Answering.at_once + 1
    assert rig.ledger.dropped == {}
    rig.assert_at_rest()


def test_whose_spans_a_rejection_is_about() -> None:
    services = ("etcd", "kubelet", "apiserver")
    parts = [payload(2, peer=f"peer of {one}", service=one) for one in services]
    joined = Payload.join(parts)
    bad = joined.sources[1:2]
    assert culprit_of(joined, bad) == ("peer of kubelet", "kubelet")
    assert culprit_of(joined, ()) == ("peer of etcd", "etcd")
    assert culprit_of(parts[2], bad) == ("peer of apiserver", "apiserver")
