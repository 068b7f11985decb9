"""Payloads: immutable, joined and split without losing a span, a sender or a lease."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace import _fastpath
from k8strace.budget import Budget, Lease
from k8strace.payload import JOIN_BELOW, Origin, Payload, Source
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


def test_small_chunks_become_one_and_large_ones_are_shared() -> None:
    small = [payload(1) for _ in range(3)]
    large = payload(200, attributes=5)
    assert large.size > JOIN_BELOW > sum(one.size for one in small)
    joined = Payload.join([*small, large, *small])
    check(joined)
    assert len(joined.chunks) == 3
    assert joined.chunks[1] is large.chunks[0]


def test_a_run_of_small_chunks_ends_when_it_is_large_enough() -> None:
    small = [payload(1, attributes=10) for _ in range(200)]
    joined = Payload.join(small)
    check(joined)
    assert 1 < len(joined.chunks) < 200
    assert all(len(chunk) >= JOIN_BELOW for chunk in joined.chunks[:-1])


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
    apart = joined.requests()
    assert [ids(one) for one in apart] == [ids(one) for one in parts]
    assert [one.origin for one in apart] == [A, B, A, B]
    for one in apart:
        check(one)
        assert one.lease is joined.lease
        assert one.requests() == [one]
    assert Payload.join(apart).sources == joined.sources


def test_requests_of_no_bytes_keep_their_place() -> None:
    empty = Payload((), 0, 0, B)
    joined = Payload.join([empty, payload(1), empty])
    assert [one.spans for one in joined.requests()] == [0, 1, 0]
    assert [one.chunks == () for one in joined.requests()] == [True, False, True]


# split


def test_what_is_within_the_limits_is_not_split() -> None:
    one = payload(5)
    for limits in ((0, 0), (5, 0), (0, one.size), (5, one.size)):
        assert one.split(*limits) == [one]
        assert one.split(*limits)[0] is one


def test_pieces_keep_to_the_limits_and_share_the_lease() -> None:
    budget = Budget(MIB)
    one = payload(10, lease=Lease(budget, 3000, "a"), wait_until=7.0)
    pieces = one.split(max_spans=3)
    assert [piece.spans for piece in pieces] == [3, 3, 3, 1]
    assert ids(*pieces) == ids(one)
    for piece in pieces:
        check(piece)
        assert (piece.origin, piece.sources, piece.wait_until) == (A, (), 7.0)
    del one
    del pieces[1:]
    gc.collect()
    assert budget.used == 3000
    del pieces, piece
    gc.collect()
    assert budget.used == 0


def test_a_joined_payload_is_split_between_requests_where_it_can_be() -> None:
    parts = [payload(2, A), payload(2, B), payload(2, A), payload(7, B), payload(1, A)]
    joined = Payload.join(parts)
    pieces = joined.split(max_spans=5)
    assert [piece.spans for piece in pieces] == [4, 2, 5, 2, 1]
    assert [len(piece.sources) for piece in pieces] == [2, 1, 0, 0, 1]
    assert [piece.origin for piece in pieces] == [None, A, B, B, A]
    assert ids(*pieces) == ids(joined)
    for piece in pieces:
        check(piece)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(0, 8),
    st.sampled_from((0, 1, 200, 700, 3000)),
)
def test_splitting_loses_nothing(counts: list[int], max_spans: int, max_bytes: int) -> None:
    parts = [payload(spans, (A, B)[index % 2]) for index, spans in enumerate(counts)]
    joined = Payload.join(parts)
    check(joined)
    pieces = joined.split(max_spans, max_bytes)
    assert ids(*pieces) == ids(joined)
    for piece in pieces:
        check(piece)
        assert not max_spans or piece.spans <= max_spans
        assert not max_bytes or piece.size <= max_bytes or piece.spans <= 1


# replaced


def test_a_replaced_payload_has_a_lease_of_its_own_size() -> None:
    budget = Budget(MIB)
    one = payload(10, lease=Lease(budget, 5000, "a"), wait_until=3.0)
    chunks, spans = _fastpath.keep(one.chunks, b"\1" + bytes(9))
    new = one.replaced(chunks, spans)
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
