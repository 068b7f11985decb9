"""Attempts, the time between them, and what becomes of each span."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from k8strace.errors import PartlyRejectedError, RefusedError, RejectedError
from k8strace.exporters._delivery import MAX_GROUPS
from k8strace.exporters._sending import Sent, TooLargeError
from k8strace.payload import Payload
from k8strace.pieces import Pieces
from tests.support.pipeline import unreadable
from tests.support.requests import parse, span_ids
from tests.support.sending import (
    BRIEF_RETRY,
    Scripted,
    Small,
    running,
    running_as,
    scripted,
)

NO_RETRY = {"enabled": False}
BATCH = {"batch": {"flush_timeout": "1h", "min_size": 50}}
MODES = pytest.mark.parametrize(
    "queue", [{}, {"enabled": False}, {"wait_for_result": True}], ids=str
)


def ids(one: Payload) -> list[bytes]:
    return span_ids(parse(one.chunks))


@MODES
async def test_a_refused_request_is_tried_until_it_is_taken(queue: dict[str, Any]) -> None:
    async with running(sending_queue=queue) as rig:
        rig.exporter.failures = [RefusedError("busy"), RefusedError("busy", 0.001)]
        await rig.send(3)
        await rig.settled()
        assert len(rig.exporter.attempts) == 3
        assert rig.exporter.taken.total() == 3
        assert rig.ledger.sent == 3
        assert rig.value("k8strace_exporter_retries_total") == 2
        assert rig.value("otelcol_exporter_send_failed_spans_total") == 0


async def test_what_is_refused_for_too_long_is_dropped_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(retry_on_failure=BRIEF_RETRY) as rig:
        rig.exporter.failures = [RefusedError("still busy") for _ in range(1000)]
        await rig.send(3)
        await rig.settled()
        assert len(rig.exporter.attempts) > 1
        assert rig.ledger.dropped == {"retry_exhausted": 3}
        assert rig.value("otelcol_exporter_send_failed_spans_total") == 3
    (line,) = [r.__dict__ for r in caplog.records if r.levelno == logging.ERROR]
    assert line["message"] == (
        "dropped spans: not taken in time by backend:4317: still busy"
    )
    assert (line["reason"], line["spans"], line["peer"], line["service"]) == (
        *("retry_exhausted", 3, "10.0.0.1:1", "apiserver"),
    )


async def test_a_throttle_that_is_longer_than_the_time_left_ends_it() -> None:
    async with running() as rig:
        rig.exporter.failures = [RefusedError("come back tomorrow", 86_400)]
        await rig.send(3)
        await rig.settled()
        assert len(rig.exporter.attempts) == 1
        assert rig.ledger.dropped == {"retry_exhausted": 3}


async def test_without_retry_the_first_failure_is_final() -> None:
    async with running(retry_on_failure=NO_RETRY) as rig:
        rig.exporter.failures = [RefusedError("busy")]
        await rig.send(3)
        await rig.settled()
        assert rig.ledger.dropped == {"retry_exhausted": 3}
        assert len(rig.exporter.attempts) == 1


@MODES
async def test_an_attempt_that_takes_too_long_is_ended_and_retried(
    queue: dict[str, Any],
) -> None:
    async with running(sending_queue=queue, timeout="10ms") as rig:
        rig.exporter.gate.clear()
        sender = rig.sender(3)
        await rig.exporter.attempted(2)
        assert rig.exporter.at_once <= 1
        rig.exporter.gate.set()
        await sender
        await rig.settled()
        assert rig.ledger.sent == 3
        assert rig.exporter.taken.total() == 3


async def test_what_a_rate_limit_outlasts_has_a_reason_of_its_own() -> None:
    async with running(retry_on_failure=BRIEF_RETRY) as rig:
        rig.exporter.failures = [
            RefusedError("quota", reason="rate_limited") for _ in range(1000)
        ]
        await rig.send(1000)
        await rig.settled()
        assert {len(attempt) for attempt in rig.exporter.attempts} == {1000}
        assert rig.ledger.dropped == {"rate_limited": 1000}


@MODES
@pytest.mark.parametrize(
    "fault",
    [MemoryError(), OSError(28, "No space left on device"), BlockingIOError()],
    ids=repr,
)
async def test_a_fault_of_the_machine_is_tried_again(
    queue: dict[str, Any], fault: Exception
) -> None:
    async with running(sending_queue=queue) as rig:
        rig.exporter.failures = [fault, fault]
        await rig.send(3)
        await rig.settled()
        assert (rig.ledger.sent, rig.ledger.dropped) == (3, {})
        fault.__traceback__ = None


async def test_no_memory_for_pieces_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    following, failures = Pieces.next, 2

    async def short(pieces: Pieces) -> Payload | None:
        nonlocal failures
        if failures:
            failures -= 1
            raise MemoryError
        return await following(pieces)

    monkeypatch.setattr(Pieces, "next", short)
    async with running_as(Small) as rig:
        await rig.send(40)
        await rig.settled()
        assert (rig.ledger.sent, rig.ledger.dropped) == (40, {})


async def test_without_a_timeout_an_attempt_may_take_for_ever() -> None:
    async with running(timeout="0s") as rig:
        rig.exporter.gate.clear()
        await rig.send(3)
        await rig.exporter.attempted(1)
        assert rig.value("otelcol_exporter_in_flight_requests", data_type="traces") == 1
        await asyncio.sleep(0.02)
        rig.exporter.gate.set()
        await rig.settled()
        assert len(rig.exporter.attempts) == 1
        assert rig.value("otelcol_exporter_in_flight_requests", data_type="traces") == 0


class Picky(Scripted):
    """Refuses for good what holds a span in `poison`, or is over `limit` bytes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.poison: set[bytes] = set()
        self.limit = 0
        self.about_data = True

    async def send(self, payload: Payload) -> Sent:
        self.attempts.append(ids(payload))
        if self.limit and payload.size > self.limit:
            raise TooLargeError("over the limit")
        if self.poison & set(ids(payload)):
            raise RejectedError("invalid span", about_data=self.about_data)
        self.taken.update(ids(payload))
        return Sent()


async def test_one_poisoned_request_among_fifty_costs_only_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_as(Picky, sending_queue=BATCH) as rig:
        requests = [rig.payload(1) for _ in range(50)]
        culprit = requests[17].origin
        rig.exporter.poison = {ids(requests[17])[0]}
        wanted = {one for request in requests for one in ids(request)}
        for _ in range(50):
            await rig.edge(requests.pop(0))
        await rig.settled()
        assert set(rig.exporter.taken) == wanted - rig.exporter.poison
        assert max(rig.exporter.taken.values()) == 1
        assert rig.ledger.sent == 49
        assert rig.ledger.dropped == {"permanent_error": 1}
        assert rig.value("otelcol_exporter_send_failed_spans_total") == 1
        # All fifty at once, then each by itself: no more groups than 64 are needed.
        assert len(rig.exporter.attempts) == 51
    assert culprit is not None
    (line,) = [r.__dict__ for r in caplog.records if "invalid span" in r.getMessage()]
    assert line["message"].startswith("dropped spans: refused for good by backend")
    assert (line["spans"], line["peer"]) == (1, culprit.peer)


async def test_a_culprit_among_thousands_is_found_in_few_requests() -> None:
    count = MAX_GROUPS * MAX_GROUPS
    queue = {"queue_size": count, "batch": {"flush_timeout": "1h", "min_size": count}}
    async with running_as(Picky, sending_queue=queue) as rig:
        for number in range(count):
            one = rig.payload(1, attributes=0)
            if number == 1234:
                rig.exporter.poison = set(ids(one))
            await rig.edge(one)
            del one
        await rig.settled()
        assert rig.ledger.sent == count - 1
        assert rig.ledger.dropped == {"permanent_error": 1}
        assert len(rig.exporter.attempts) == 1 + 2 * MAX_GROUPS


@MODES
async def test_a_payload_that_was_joined_before_is_taken_apart(
    queue: dict[str, Any],
) -> None:
    """Who waits is told which request it was; else it is dropped."""
    waits = bool(queue)
    async with running_as(Picky, sending_queue=queue) as rig:
        requests = [rig.payload(spans) for spans in (1, 2, 3, 4)]
        rig.exporter.poison = set(ids(requests[2]))
        joined = Payload.join(requests)
        requests.clear()
        try:
            await rig.edge(joined)
            assert not waits
        except PartlyRejectedError as error:
            assert waits
            (culprit,) = error.culprits
            assert culprit is joined.sources[2]
        del joined
        await rig.settled()
        assert rig.ledger.sent == 7
        assert rig.ledger.dropped == ({} if waits else {"permanent_error": 3})
        assert rig.ledger.rejected == (10 if waits else 0)


async def test_a_culprit_that_is_cut_itself_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Some of its spans went out, and yet its sender must not think that all did."""
    queue = {"wait_for_result": True}
    async with running_as(Picky, sending_queue=queue) as rig:
        small, large = rig.payload(1), rig.payload(40)
        rig.exporter.limit = large.size // 3
        rig.exporter.poison = set(ids(large)[-1:])
        joined = Payload.join([small, large])
        del small, large
        with pytest.raises(PartlyRejectedError) as caught:
            await rig.edge(joined)
        (culprit,) = caught.value.culprits
        assert culprit is joined.sources[1]
        del joined, caught
        await rig.settled()
        assert 1 < rig.ledger.sent < 41
        assert rig.ledger.dropped == {}


BROKEN = 91  # spans, of which the last is not there: larger than Small takes at once


@MODES
async def test_a_request_that_cannot_be_cut_costs_itself(
    queue: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped where its sender does not wait, and the log says whose it was."""
    waits = bool(queue)
    async with running_as(Small, sending_queue=queue) as rig:
        requests = [
            rig.payload(2),
            unreadable(BROKEN, budget=rig.budget),
            rig.payload(40),
            rig.payload(3),
        ]
        good = [one for request in (requests[0], *requests[2:]) for one in ids(request)]
        joined = Payload.join(requests)
        requests.clear()
        culprits: tuple[object, ...] = ()
        try:
            await rig.edge(joined)
        except PartlyRejectedError as error:
            culprits = error.culprits
        assert culprits == ((joined.sources[1],) if waits else ())
        del joined, culprits
        await rig.settled()
        assert sorted(set(rig.exporter.taken) - {b"s" * 8}) == sorted(good)
        assert max(rig.exporter.taken[one] for one in good) == 1
        lost = len(good) + BROKEN - rig.ledger.sent
        assert 0 < lost <= BROKEN
        assert rig.ledger.dropped == ({} if waits else {"decode_error": lost})
    (line,) = [r.__dict__ for r in caplog.records if "cannot be read" in r.getMessage()]
    assert "not sent to backend:4317: it has to be cut" in line["message"]
    if not waits:
        assert (line["reason"], line["peer"]) == ("decode_error", "10.0.0.9:1")


async def test_only_the_sender_of_what_cannot_be_cut_is_told() -> None:
    """Of several that wait for the same parcel."""
    queue = {"wait_for_result": True, "batch": {"flush_timeout": "1h", "min_size": 96}}
    async with running_as(Small, sending_queue=queue) as rig:
        requests = [rig.payload(2), unreadable(BROKEN, budget=rig.budget), rig.payload(3)]
        senders = [asyncio.create_task(rig.edge(one)) for one in requests]
        requests.clear()
        done = await asyncio.gather(*senders, return_exceptions=True)
        senders.clear()
        first, told, last = map(repr, done)
        assert (first, last) == ("None", "None")
        assert "RejectedError" in told
        assert "it has to be cut, and cannot be read" in told
        del done


async def test_a_refusal_that_is_not_about_data_is_not_taken_apart() -> None:
    async with running_as(Picky, sending_queue=BATCH) as rig:
        rig.exporter.about_data = False
        for _ in range(50):
            one = rig.payload(1)
            rig.exporter.poison |= set(ids(one))
            await rig.edge(one)
            del one
        await rig.settled()
        assert len(rig.exporter.attempts) == 1
        assert rig.ledger.dropped == {"permanent_error": 50}


@MODES
async def test_a_request_over_the_destinations_limit_is_halved(
    queue: dict[str, Any],
) -> None:
    async with running_as(Picky, sending_queue=queue) as rig:
        one = rig.payload(40, resources=4)
        wanted = ids(one)
        rig.exporter.limit = one.size // 5
        await rig.edge(one)
        del one
        await rig.settled()
        assert sorted(rig.exporter.taken) == sorted(wanted)
        assert (rig.ledger.sent, rig.ledger.dropped) == (40, {})


async def test_only_a_span_that_is_too_large_by_itself_is_dropped() -> None:
    async with running_as(Picky, sending_queue=BATCH) as rig:
        rig.exporter.limit = 2000
        for number in range(50):
            huge = {"service": "x" * (rig.exporter.limit + 1)} if number == 0 else {}
            await rig.send(1, **huge)
        await rig.settled()
        assert rig.ledger.sent == 49
        assert rig.ledger.dropped == {"msg_too_large": 1}


@MODES
async def test_requests_are_cut_to_the_exporters_limit(queue: dict[str, Any]) -> None:
    sizes: list[int] = []

    async def measure(one: Payload) -> None:
        sizes.append(one.size)

    async with running_as(Small, sending_queue=queue) as rig:
        rig.exporter.answer = measure
        await rig.send(40)
        await rig.settled()
        assert rig.ledger.sent == 40
        assert rig.exporter.taken.total() == 40
    assert len(sizes) > 1
    assert max(sizes) <= Small.request_limit


@pytest.mark.parametrize("batch", [{"max_size": 7}, {"max_size": 1500, "sizer": "bytes"}])
async def test_a_batch_never_passes_its_maximum(batch: dict[str, Any]) -> None:
    sizes: list[tuple[int, int]] = []

    async def measure(one: Payload) -> None:
        sizes.append((one.spans, one.size))

    options = {"batch": {"min_size": 5, "flush_timeout": "1ms", **batch}}
    async with running(sending_queue=options) as rig:
        rig.exporter.answer = measure
        for spans in (3, 3, 3, 20, 1, 1):
            await rig.send(spans)
        await rig.settled()
        assert rig.ledger.sent == 31
    limit, index = (batch["max_size"], 1 if "sizer" in batch else 0)
    assert max(size[index] for size in sizes) <= limit


async def test_a_bug_in_send_costs_one_request(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as rig:
        rig.exporter.failures = [ZeroDivisionError("oops")]
        await rig.send(3)
        await rig.send(2)
        await rig.settled()
        assert rig.ledger.dropped == {"internal_error": 3}
        assert rig.ledger.sent == 2
    assert "ZeroDivisionError" in caplog.text


def test_limits_are_none_by_default() -> None:
    assert scripted({}).exporter.max_request_bytes == 0
