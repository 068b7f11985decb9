"""Payloads: immutable, joined and split without losing a span, a sender or a lease."""

from __future__ import annotations

import gc
import sys

import msgspec
import pytest

from k8strace import _fastpath
from k8strace.budget import Budget, Lease
from k8strace.payload import Origin, Payload, Requests, Source
from tests.support.requests import parse, request, span_ids

A, B = Origin("10.0.0.1:1"), Origin("10.0.0.2:2")
MIB = 1024 * 1024


def payload(
    spans: int,
    origin: Origin | None = A,
    *,
    attributes: int = 3,
    lease: Lease | None = None,
    wait_until: float = 0.0,
) -> Payload:
    chunk = request(spans, attributes=attributes).SerializeToString()
    return Payload((chunk,), spans, len(chunk), origin, (), lease, wait_until)


def ids(*payloads: Payload) -> list[bytes]:
    return span_ids(parse(chunk for one in payloads for chunk in one.chunks))


def check(one: Payload) -> None:
    """Assert that a payload's numbers are those of its chunks."""
    assert one.size == sum(map(len, one.chunks))
    assert one.spans == _fastpath.count(one.chunks).spans
    if one.sources:
        assert sum(source.size for source in one.sources) == one.size
        assert sum(source.spans for source in one.sources) == one.spans


def test_a_payload_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        payload(1).spans = 2  # type: ignore[misc]


# join


def test_one_payload_joined_is_itself() -> None:
    one = payload(2)
    assert Payload.join([one]) is one


def test_joined_payloads_remember_their_senders() -> None:
    first, second, third = payload(2, A), payload(3, B), payload(1, A)
    joined = Payload.join([first, second, third])
    check(joined)
    assert ids(joined) == ids(first, second, third)
    assert joined.origin is None
    assert joined.sources == (
        Source(2, first.size, A),
        Source(3, second.size, B),
        Source(1, third.size, A),
    )
    assert Payload.join([first, third]).origin == A
    again = Payload.join([joined, second])
    assert again.sources == (*joined.sources, Source(3, second.size, B))


def test_joining_copies_nothing() -> None:
    parts = [payload(1), payload(200, attributes=5), Payload((), 0, 0, B), payload(1)]
    joined = Payload.join(parts)
    check(joined)
    chunks = [chunk for part in parts for chunk in part.chunks]
    assert len(joined.chunks) == 3
    assert all(one is other for one, other in zip(joined.chunks, chunks, strict=True))
    assert joined.request_count == 4
    assert parts[0].request_count == 1


def test_leases_of_joined_payloads_are_held_once() -> None:
    budget = Budget(MIB)
    lease = Lease(budget, 1000, "a")
    first, second = payload(1, lease=lease), payload(1, lease=lease)
    third = payload(1, lease=Lease(budget, 500, "b"))
    joined = Payload.join([first, second, third])
    again = Payload.join([joined, first])
    del lease, first, second, third, joined
    gc.collect()
    assert budget.used == 1500
    del again
    gc.collect()
    assert budget.used == 0


# requests


def test_a_joined_payload_comes_apart_at_its_borders() -> None:
    parts = [payload(spans, origin) for spans, origin in ((1, A), (40, B), (2, A), (90, B))]
    joined = Payload.join(parts)
    apart = list(joined.requests())
    assert [ids(one) for one in apart] == [ids(one) for one in parts]
    assert [one.origin for one in apart] == [A, B, A, B]
    for one in apart:
        check(one)
        assert list(one.requests()) == [one]
    assert Payload.join(apart).sources == joined.sources


def test_requests_of_no_bytes_keep_their_place() -> None:
    empty = Payload((), 0, 0, B)
    joined = Payload.join([empty, payload(1), empty])
    assert [one.spans for one in joined.requests()] == [0, 1, 0]
    assert [one.chunks == () for one in joined.requests()] == [True, False, True]


def test_requests_hold_their_own_leases() -> None:
    budget = Budget(MIB)
    parts = [payload(2, lease=Lease(budget, 100 * number, "a")) for number in (1, 2, 3, 4)]
    joined = Payload.join([Payload.join(parts[:2]), *parts[2:]])
    requests = Requests(joined)
    first, rest = requests.take(1), requests.take(3)
    assert (first.held(budget), rest.held(budget)) == (100, 900)
    del parts, joined, requests, rest
    gc.collect()
    assert budget.used == 100
    assert first.any_lease is not None


def test_requests_are_taken_in_runs() -> None:
    joined = Payload.join([payload(spans, A if spans < 3 else B) for spans in (1, 2, 3, 4)])
    requests = Requests(joined)
    assert requests.within(max_spans=3, max_bytes=0) == 2
    first = requests.take(2)
    check(first)
    assert (first.spans, first.origin, len(first.sources)) == (3, A, 2)
    requests.skip(1)
    last = requests.take(requests.left)
    check(last)
    assert (last.spans, last.origin) == (4, B)
    assert Requests(joined).take(4) is joined
    assert Requests(joined).within(max_spans=0, max_bytes=1) == 1


def stored(joined: Payload) -> Payload:
    """`joined` as a store gives it back, whose requests are one chunk."""
    return msgspec.structs.replace(joined, chunks=(b"".join(joined.chunks),))


def test_what_taking_copies_is_known_before() -> None:
    small, large = payload(1), payload(200, attributes=5)
    joined = Payload.join([large, small, small])
    assert Requests(joined).copied(2) == 0
    part = stored(joined)
    requests = Requests(Payload.join([part, large, part]))
    assert requests.copied(1) == large.size
    assert requests.copied(4) == 0
    requests.take(1)
    assert requests.copied(3) == 2 * small.size
    assert requests.copied(6) == 2 * small.size
    assert requests.copied(4) == 2 * small.size + large.size


def test_requests_come_apart_within_chunks_and_across_them() -> None:
    parts = [payload(spans, A) for spans in (3, 1, 2, 4, 1)]
    whole = Payload.join([stored(Payload.join(parts[:3])), parts[3], parts[4]])
    for first in range(len(parts)):
        for count in range(1, len(parts) - first + 1):
            requests = Requests(whole)
            requests.skip(first)
            taken = requests.take(count)
            check(taken)
            assert ids(taken) == ids(*parts[first : first + count])
            assert requests.left == len(parts) - first - count


@pytest.mark.parametrize("chunks", [1, 8])
def test_the_work_is_linear_in_the_number_of_requests(chunks: int) -> None:
    """Calls of Python and what leases are looked at grow with the requests, not faster."""

    def cost(number: int) -> int:
        budget = Budget(64 * MIB)
        parts = [
            payload(1, (A, B)[index % 2], lease=Lease(budget, 1, str(index % 99)))
            for index in range(number)
        ]
        calls = 0

        def count(_frame: object, _event: str, _argument: object) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        try:
            joined = Payload.join(parts)
            requests = Requests(joined)
            pieces = []
            while requests.left:
                pieces.append(requests.take(min(chunks, requests.left)))
            again = Payload.join(pieces)
        finally:
            sys.setprofile(None)
        held = sum(
            len(one.lease) if isinstance(one.lease, tuple) else 1
            for one in (*pieces, joined, again)
        )
        return calls + held

    assert cost(800) < 4.5 * cost(200)


# replaced


def test_a_replaced_payload_has_a_lease_of_its_own_size() -> None:
    budget = Budget(MIB)
    one = payload(10, lease=Lease(budget, 5000, "a"), wait_until=3.0)
    chunks, spans = _fastpath.keep(one.chunks, b"\1" + bytes(9))
    new = one.replaced(chunks, spans, Lease(budget, sum(map(len, chunks)), "a"))
    check(new)
    assert (new.spans, new.origin, new.sources, new.wait_until) == (1, A, (), 3.0)
    assert budget.used == 5000 + new.size
    del one
    gc.collect()
    assert budget.used == new.size
    del new
    gc.collect()
    assert budget.used == 0


def test_a_replaced_payload_without_a_lease_has_none() -> None:
    one = payload(3)
    assert one.replaced(one.chunks, 3).lease is None
