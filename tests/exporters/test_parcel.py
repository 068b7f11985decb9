"""Parcels know whose spans they carry, however they are cut."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.budget import Budget, Lease
from k8strace.errors import RefusedError
from k8strace.exporters._parcel import CutParcel, Parcel, Ticket
from k8strace.passes import Spare
from k8strace.payload import Payload
from tests.support.pipeline import payload
from tests.support.requests import parse, span_ids

MIB = 1024 * 1024


def ids(parcel: Parcel) -> list[bytes]:
    return span_ids(parse(parcel.payload.chunks))


def joined(*spans: int) -> tuple[Parcel, list[Ticket]]:
    tickets = [Ticket(payload(count)) for count in spans]
    return Parcel.of(tickets), tickets


def test_a_ticket_gives_its_payload_away() -> None:
    ticket = Ticket(payload(3))
    parcel = Parcel.of([ticket])
    assert ticket.payload is None
    assert ticket.spans == parcel.payload.spans == 3
    assert parcel.tickets == [ticket]


def test_a_payload_of_several_requests_has_one_ticket() -> None:
    ticket = Ticket(Payload.join([payload(1), payload(2)]))
    parcel = Parcel.of([ticket])
    assert parcel.tickets == [ticket, ticket]
    assert list(parcel.owners()) == [ticket]
    assert parcel.shares() == {ticket: 3}


def test_shares_follow_the_requests() -> None:
    parcel, (one, two, three) = joined(1, 2, 3)
    assert parcel.shares() == {one: 1, two: 2, three: 3}


async def pieces(
    parcel: Parcel, max_spans: int = 0, max_bytes: int = 0, max_requests: int = 0
) -> list[Parcel]:
    cut = CutParcel(parcel, Spare(Budget(MIB)), max_spans, max_bytes, max_requests)
    parts = []
    while (part := await cut.next()) is not None:
        parts.append(part)
    assert cut.rest() == []
    return parts


async def test_within_the_limits_nothing_is_cut() -> None:
    parcel, _ = joined(2, 3)
    (part,) = await pieces(parcel, 5, parcel.payload.size)
    assert part.payload is parcel.payload
    assert part.is_smallest


async def test_whole_requests_are_kept_together() -> None:
    parcel, (one, two, three) = joined(2, 3, 4)
    parts = await pieces(parcel, max_spans=5)
    assert [part.shares() for part in parts] == [{one: 2, two: 3}, {three: 4}]
    assert [ticket.parts for ticket in (one, two, three)] == [1, 1, 1]
    assert not any(part.is_smallest for part in parts)


async def test_a_request_over_the_limit_is_cut() -> None:
    parcel, (one, two) = joined(2, 7)
    parts = await pieces(parcel, max_spans=3)
    assert [part.shares() for part in parts] == [{one: 2}, {two: 3}, {two: 3}, {two: 1}]
    assert (one.parts, two.parts) == (1, 3)


async def test_a_span_over_the_limit_is_alone() -> None:
    parcel, (ticket,) = joined(3)
    parts = await pieces(parcel, max_bytes=1)
    assert [part.payload.spans for part in parts] == [1, 1, 1]
    assert ticket.parts == 3
    assert all(part.is_smallest for part in parts)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.integers(0, 8),
    st.integers(0, 1500),
    st.integers(0, 5),
    st.integers(0, 30),
)
def test_a_cut_keeps_spans_order_and_owners(
    spans: list[int], max_spans: int, max_bytes: int, max_requests: int, most: int
) -> None:
    """Also where only `most` pieces are asked for, and the rest is given up."""
    tickets = [Ticket(payload(count)) for count in spans]
    tickets.append(Ticket(Payload.join([payload(3), payload(4)])))
    spans = [*spans, 7]
    parcel = Parcel.of(tickets)
    whole = ids(parcel)

    async def cut() -> tuple[list[Parcel], list[Parcel]]:
        spare = Spare(Budget(MIB))
        cut = CutParcel(parcel, spare, max_spans, max_bytes, max_requests)
        parts: list[Parcel] = []
        while len(parts) < most and (part := await cut.next()) is not None:
            parts.append(part)
        return parts, cut.rest()

    parts, rest = asyncio.run(cut())
    found = [one for part in parts for one in ids(part)]
    assert found == whole[: len(found)]
    assert len(parts) == most or not rest
    shares = dict.fromkeys(tickets, 0)
    for part in (*parts, *rest):
        assert sum(part.shares().values()) == part.payload.spans
        for ticket, share in part.shares().items():
            shares[ticket] += share
    for part in parts:
        assert not max_spans or part.payload.spans <= max_spans
        assert not max_bytes or part.payload.size <= max_bytes or part.payload.spans == 1
        assert not max_requests or len(part.tickets) <= max_requests
    assert list(shares.values()) == spans
    for ticket in tickets:
        assert ticket.parts == sum(ticket in part.shares() for part in (*parts, *rest))


async def test_a_request_that_waits_for_room_can_be_given_up() -> None:
    """At a stop, say, while another piece is past the limit."""
    budget = Budget(MIB)
    parts = [
        msgspec.structs.replace(one, lease=Lease(budget, one.size, "a"))
        for one in (payload(9), payload(7))
    ]
    one, two = map(Ticket, parts)
    spare = Spare(budget)
    budget.limit = budget.used
    other = await spare.lend(1, parts[0])
    assert other.is_past
    cut = CutParcel(Parcel.of([one, two]), spare, max_spans=3)
    step = asyncio.ensure_future(cut.next())
    await asyncio.sleep(0)
    step.cancel()
    await asyncio.wait([step])
    assert [part.shares() for part in cut.rest()] == [{one: 9}, {two: 7}]
    assert (one.parts, two.parts) == (1, 1)
    assert cut.spans == 0


def test_an_error_is_raised_once() -> None:
    ticket = Ticket(payload(1))
    ticket.raise_error()
    ticket.error = RefusedError("no")
    with pytest.raises(RefusedError, match="no"):
        ticket.raise_error()
    assert ticket.error is None
