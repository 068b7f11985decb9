"""The line of payloads that wait, and what is taken out of it together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.budget import Budget
from k8strace.config import decode
from k8strace.errors import ConfigError
from k8strace.exporters import _queue as module
from k8strace.exporters._parcel import Parcel, Ticket
from k8strace.exporters._queue import Queue, QueueConfig
from k8strace.payload import MOST_JOINED, Payload
from tests.support.pipeline import payload


def config(**values: Any) -> QueueConfig:
    return decode(QueueConfig, values)


def test_the_defaults_are_the_collectors() -> None:
    options = config()
    assert options == QueueConfig()
    assert options.enabled
    assert (options.num_consumers, options.queue_size) == (10, 1000)
    assert options.sizer == "requests"
    assert not options.block_on_overflow
    assert not options.wait_for_result
    assert options.batch is None


@pytest.mark.parametrize("batch", [{}, None])
def test_an_empty_batch_turns_it_on(batch: dict[str, Any] | None) -> None:
    options = config(batch=batch).batch
    assert options is not None
    assert options.flush_timeout == 0.2
    assert (options.min_size, options.max_size, options.sizer) == (8192, 0, "items")


@pytest.mark.parametrize(
    ("values", "sizer"),
    [
        ({"sizer": "requests"}, "items"),
        ({"sizer": "items", "queue_size": 9000}, "items"),
        ({"sizer": "bytes", "queue_size": 9000}, "bytes"),
        ({"sizer": "bytes", "batch": {"sizer": "items"}}, "items"),
    ],
)
def test_the_batch_counts_as_the_queue_does(values: dict[str, Any], sizer: str) -> None:
    batch = config(**{"batch": {}, **values}).batch
    assert batch is not None
    assert batch.sizer == sizer


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"num_consumers": 0}, "`num_consumers` must be positive, found 0"),
        ({"queue_size": -1}, "`queue_size` must be positive, found -1"),
        ({"batch": {"flush_timeout": "0s"}}, "`flush_timeout` must be positive"),
        ({"batch": {"min_size": -1}}, "`min_size` must be non-negative, found -1"),
        ({"batch": {"max_size": -1}}, "`max_size` must be non-negative, found -1"),
        (
            {"batch": {"min_size": 10, "max_size": 9}},
            "`max_size` (9) must be greater than or equal to `min_size` (10)",
        ),
        (
            {"sizer": "items", "queue_size": 99, "batch": {"min_size": 100}},
            "`min_size` (100) must be less than or equal to `queue_size` (99)",
        ),
        ({"batch": {"sizer": "requests"}}, "items, bytes"),
    ],
)
def test_what_cannot_work_is_an_error(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(**values)
    assert text in str(error.value)


def test_what_is_off_is_not_checked() -> None:
    assert not config(enabled=False, queue_size=0).enabled


def put(queue: Queue, one: Payload) -> Ticket:
    ticket = Ticket(one, queue.amount(one))
    assert queue.room.take(ticket.amount)
    queue.put(ticket)
    return ticket


def spans_of(parcel: Parcel | None) -> list[int]:
    """The spans of each of the requests in a parcel."""
    assert parcel is not None
    return [one.spans for one in parcel.payload.sources] or [parcel.payload.spans]


@pytest.mark.parametrize("sizer", ["requests", "items", "bytes"])
def test_room_counts_in_the_unit_of_the_sizer(sizer: str) -> None:
    one = payload(3)
    queue = Queue(config(sizer=sizer, queue_size=10_000), Budget(1 << 30))
    put(queue, one)
    assert queue.room.used == {"requests": 1, "items": 3, "bytes": one.size}[sizer]
    assert queue.bytes == one.size


def test_what_waits_and_what_is_sent_is_a_backlog() -> None:
    budget = Budget(1 << 30)
    queue, other = Queue(config(), budget), Queue(config(), budget)
    first, second, third = (put(one, payload(3)) for one in (queue, queue, other))
    size = first.size + second.size + third.size
    assert budget.backlog == size
    queue.take()
    assert budget.backlog == size
    queue.settle(first)
    queue.withdraw(second)
    assert budget.backlog == third.size


def test_without_batch_payloads_come_out_one_by_one() -> None:
    queue = Queue(config(), Budget(1 << 30))
    first, second = put(queue, payload(1)), put(queue, payload(2))
    assert spans_of(queue.take()) == [1]
    assert spans_of(queue.take()) == [2]
    assert queue.take() is None
    assert queue.is_empty
    assert queue.room.used == 2
    queue.settle(first)
    queue.settle(second)
    assert (queue.room.used, queue.bytes) == (0, 0)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    return clock


def batching(**batch: Any) -> Queue:
    return Queue(config(batch=batch), Budget(1 << 30))


def test_a_batch_is_ready_when_it_is_large_enough(now: list[float]) -> None:
    now[0] = 0.0
    queue = batching(min_size=5)
    for spans in (2, 2):
        put(queue, payload(spans))
        assert queue.take() is None
    put(queue, payload(2))
    put(queue, payload(9))
    assert spans_of(queue.take()) == [2, 2, 2]
    assert spans_of(queue.take()) == [9]


def test_a_batch_is_ready_when_the_first_has_waited(now: list[float]) -> None:
    now[0] = 0.0
    queue = batching(min_size=5, flush_timeout="1s")
    assert queue.due() is None
    ticket = put(queue, payload(1))
    put(queue, payload(2))
    assert queue.due() == ticket.since + 1
    now[0] = ticket.since + 0.999
    assert queue.take() is None
    now[0] = ticket.since + 1
    assert spans_of(queue.take()) == [1, 2]
    assert queue.due() is None


def test_a_batch_is_ready_when_its_room_is_needed(now: list[float]) -> None:
    now[0] = 0.0
    queue = batching()
    queue.press()
    put(queue, payload(1))
    assert queue.take() is None
    queue.press()
    assert spans_of(queue.take()) == [1]
    put(queue, payload(1))
    assert queue.take() is None
    queue.drain()
    assert spans_of(queue.take()) == [1]
    put(queue, payload(2))
    assert spans_of(queue.take()) == [2]


def test_a_minimum_of_zero_waits_for_nobody(now: list[float]) -> None:
    now[0] = 0.0
    queue = batching(min_size=0)
    put(queue, payload(1))
    put(queue, payload(2))
    assert spans_of(queue.take()) == [1]
    assert spans_of(queue.take()) == [2]


def test_a_batch_does_not_pass_its_maximum(now: list[float]) -> None:
    now[0] = 0.0
    queue = batching(min_size=5, max_size=6)
    for spans in (3, 4, 9, 1):
        put(queue, payload(spans))
    assert spans_of(queue.take()) == [3]
    assert spans_of(queue.take()) == [4]
    # Cut when it is delivered: it is one request, which nobody else's is joined to.
    assert spans_of(queue.take()) == [9]
    assert queue.take() is None


def test_a_batch_can_be_measured_in_bytes(now: list[float]) -> None:
    now[0] = 0.0
    one = payload(1)
    queue = batching(sizer="bytes", min_size=one.size + 1)
    put(queue, one)
    assert queue.take() is None
    put(queue, payload(1))
    assert spans_of(queue.take()) == [1, 1]


def test_a_batch_has_so_many_requests_at_most(now: list[float]) -> None:
    queue = Queue(config(queue_size=2**20, batch={"min_size": 2**20}), Budget(1 << 30))
    one = payload()
    for _ in range(MOST_JOINED - 1):
        put(queue, one)
    assert queue.take() is None
    put(queue, one)
    put(queue, one)
    parcel = queue.take()
    assert parcel is not None
    assert parcel.payload.request_count == len(parcel.tickets) == MOST_JOINED
    assert queue.take() is None
    queue.press()
    assert spans_of(queue.take()) == [one.spans]


def test_joined_requests_count_one_by_one(now: list[float]) -> None:
    queue = batching(min_size=2**20)
    most = Payload.join([payload()] * (MOST_JOINED - 1))
    for one in (most, payload(), most, most):
        put(queue, one)
    for count in (MOST_JOINED, MOST_JOINED - 1):
        parcel = queue.take()
        assert parcel is not None
        assert parcel.payload.request_count == len(parcel.tickets) == count
    assert queue.take() is None


def test_a_payload_can_be_withdrawn_while_it_waits(now: list[float]) -> None:
    now[0] = 0.0
    queue = batching(min_size=4)
    first, second = put(queue, payload(2)), put(queue, payload(1))
    assert queue.withdraw(first)
    assert first.payload is None
    assert not queue.withdraw(first)
    assert queue.room.used == 1
    put(queue, payload(2))
    assert queue.take() is None
    put(queue, payload(1))
    assert spans_of(queue.take()) == [1, 2, 1]
    assert not queue.withdraw(second)


@given(
    st.lists(st.integers(1, 9), max_size=30),
    st.integers(0, 12),
    st.integers(0, 12),
    st.sampled_from(["items", "bytes"]),
)
def test_what_goes_in_comes_out_in_order(
    spans: list[int], min_size: int, more: int, sizer: str
) -> None:
    scale = 1 if sizer == "items" else 200
    max_size = (min_size + more) * scale
    batch = {"min_size": min_size * scale, "max_size": max_size, "sizer": sizer}
    queue = Queue(config(batch=batch), Budget(1 << 30))
    for count in spans:
        put(queue, payload(count))
    queue.drain()
    out: list[int] = []
    while (parcel := queue.take()) is not None:
        out += spans_of(parcel)
        size = parcel.payload.spans if sizer == "items" else parcel.payload.size
        assert not max_size or size <= max_size or len(parcel.tickets) == 1
        for ticket in parcel.owners():
            queue.settle(ticket)
    assert out == spans
    assert (queue.room.used, queue.bytes) == (0, 0)
