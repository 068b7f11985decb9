"""Parcels know whose spans they carry, however they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.errors import RefusedError
from k8strace.exporters._parcel import Parcel, Ticket
from k8strace.payload import Payload
from tests.support.pipeline import payload
from tests.support.requests import parse, span_ids


def ids(parcel: Parcel) -> list[bytes]:
    return span_ids(parse(parcel.payload.chunks))


def joined(*spans: int) -> tuple[Parcel, list[Ticket]]:
    tickets = [Ticket(payload(count)) for count in spans]
    return Parcel.join([ticket.parcel() for ticket in tickets]), tickets


def test_a_ticket_gives_its_payload_away() -> None:
    ticket = Ticket(payload(3))
    parcel = ticket.parcel()
    assert ticket.payload is None
    assert ticket.spans == parcel.payload.spans == 3
    assert parcel.tickets == [ticket]


def test_a_payload_of_several_requests_has_one_ticket() -> None:
    ticket = Ticket(Payload.join([payload(1), payload(2)]))
    parcel = ticket.parcel()
    assert parcel.tickets == [ticket, ticket]
    assert list(parcel.owners()) == [ticket]
    assert parcel.shares() == {ticket: 3}


def test_shares_follow_the_requests() -> None:
    parcel, (one, two, three) = joined(1, 2, 3)
    assert parcel.shares() == {one: 1, two: 2, three: 3}


def test_within_the_limits_nothing_is_cut() -> None:
    parcel, _ = joined(2, 3)
    assert parcel.cut() == [parcel]
    assert parcel.cut(5, parcel.payload.size) == [parcel]


def test_whole_requests_are_kept_together() -> None:
    parcel, (one, two, three) = joined(2, 3, 4)
    parts = parcel.cut(max_spans=5)
    assert [part.shares() for part in parts] == [{one: 2, two: 3}, {three: 4}]
    assert [ticket.parts for ticket in (one, two, three)] == [1, 1, 1]


def test_a_request_over_the_limit_is_cut() -> None:
    parcel, (one, two) = joined(2, 7)
    parts = parcel.cut(max_spans=3)
    assert [part.shares() for part in parts] == [{one: 2}, {two: 3}, {two: 3}, {two: 1}]
    assert (one.parts, two.parts) == (1, 3)


def test_a_span_over_the_limit_is_alone() -> None:
    parcel, (ticket,) = joined(3)
    parts = parcel.cut(max_bytes=1)
    assert [part.payload.spans for part in parts] == [1, 1, 1]
    assert ticket.parts == 3


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.integers(0, 8),
    st.integers(0, 1500),
)
def test_a_cut_keeps_spans_order_and_owners(
    spans: list[int], max_spans: int, max_bytes: int
) -> None:
    parcel, tickets = joined(*spans)
    whole = ids(parcel)
    parts = parcel.cut(max_spans, max_bytes)
    assert [one for part in parts for one in ids(part)] == whole
    shares = dict.fromkeys(tickets, 0)
    for part in parts:
        assert sum(part.shares().values()) == part.payload.spans
        for ticket, share in part.shares().items():
            shares[ticket] += share
        assert not max_spans or part.payload.spans <= max_spans
        assert not max_bytes or part.payload.size <= max_bytes or part.payload.spans == 1
    assert list(shares.values()) == spans
    for ticket in tickets:
        assert ticket.parts == sum(ticket in part.shares() for part in parts)


@given(st.lists(st.integers(1, 3), min_size=2, max_size=40), st.integers(1, 10))
def test_groups_are_whole_requests(spans: list[int], most: int) -> None:
    parcel, tickets = joined(*spans)
    whole = ids(parcel)
    groups = parcel.groups(most)
    assert 1 <= len(groups) <= most
    assert [one for group in groups for one in ids(group)] == whole
    assert [ticket for group in groups for ticket in group.tickets] == tickets
    lengths = [len(group.tickets) for group in groups]
    assert max(lengths) == lengths[0]


def test_an_error_is_raised_once() -> None:
    ticket = Ticket(payload(1))
    ticket.raise_error()
    ticket.error = RefusedError("no")
    with pytest.raises(RefusedError, match="no"):
        ticket.raise_error()
    assert ticket.error is None
