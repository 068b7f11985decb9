"""What is sent and for whom: a parcel of whole requests, and a ticket for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import NamedTuple

from k8strace.drops import Sender
from k8strace.errors import Reason, RefusedError, RejectedError
from k8strace.payload import Payload, Source
from k8strace.segments import Place


class Failure(NamedTuple):
    """Spans of a ticket that were given up, and what to say of them if they are lost."""

    spans: int
    reason: Reason
    error: RefusedError | RejectedError
    text: str
    sender: Sender


class Ticket:
    """Follows one payload that was handed to `consume`, through all its pieces.

    `payload` is set while it waits in the queue, `amount` is the room it holds there and
    `since` when it came (monotonic seconds). `parts` are the parcels that have some of it
    and aren't settled yet.

    `place` is where it is stored, if it is; `stays` says that it is left there, to be sent
    another time.

    `culprits` are the requests that were refused for good, where it `is_joined` from
    several.

    `parked` says that its spans count as parked; `answered` that its sender was told that
    they are taken, or is gone, so that what fails is lost. Where the sender still waits,
    `done` are the spans that won't come again, `failures` the others, and `error` is what
    to raise once all is settled; `waiter` then gets its result.
    """

    __slots__ = (
        *("amount", "answered", "culprits", "done", "error", "failures", "parked", "parts"),
        *("is_joined", "payload", "place", "since", "size", "spans", "stays", "waiter"),
    )

    def __init__(
        self, payload: Payload, amount: int = 0, *, is_answered: bool = False
    ) -> None:
        self.payload: Payload | None = payload
        self.is_joined = len(payload.sources) > 1
        self.spans = payload.spans
        self.size = payload.size
        self.amount = amount
        self.since = monotonic()
        self.parts = 1
        self.parked = is_answered
        self.answered = is_answered
        self.place: Place | None = None
        self.stays = False
        self.done = 0
        self.failures: list[Failure] = []
        self.culprits: list[Source] = []
        self.error: RefusedError | RejectedError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def parcel(self) -> Parcel:
        """The payload, taken out of the ticket to be sent. Only once."""
        payload, self.payload = self.payload, None
        assert payload is not None
        return Parcel(payload, [self] * max(1, len(payload.sources)))

    def raise_error(self) -> None:
        """Raise `error` if there is one, without keeping it: it would hold this frame."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error


class Parcel:
    """A payload on its way; `tickets` has one for each request that it was joined from.

    `sources` are those of the payload, or the one that it is only a part of.
    """

    __slots__ = ("payload", "sources", "tickets")

    def __init__(
        self,
        payload: Payload,
        tickets: list[Ticket],
        sources: tuple[Source, ...] | None = None,
    ) -> None:
        self.payload = payload
        self.tickets = tickets
        self.sources = payload.sources if sources is None else sources

    @property
    def is_stored(self) -> bool:
        """Whether what isn't sent now can be sent after the end of the process."""
        return self.tickets[0].place is not None

    @staticmethod
    def join(parcels: Sequence[Parcel]) -> Parcel:
        if len(parcels) == 1:
            return parcels[0]
        payload = Payload.join([parcel.payload for parcel in parcels])
        return Parcel(payload, [t for parcel in parcels for t in parcel.tickets])

    def owners(self) -> Iterable[Ticket]:
        """Each ticket once, in order."""
        if len(self.tickets) == 1:
            return self.tickets
        return dict.fromkeys(self.tickets)

    def shares(self) -> dict[Ticket, int]:
        """How many of the spans belong to each ticket."""
        if len(self.tickets) == 1:
            return {self.tickets[0]: self.payload.spans}
        shares: dict[Ticket, int] = {}
        for ticket, source in zip(self.tickets, self.payload.sources, strict=True):
            shares[ticket] = shares.get(ticket, 0) + source.spans
        return shares

    def cut(self, max_spans: int = 0, max_bytes: int = 0) -> list[Parcel]:
        """Parcels within the limits (0: none), cut at the borders of requests if possible.

        A single span that is over `max_bytes` makes a parcel of its own.
        """
        payload = self.payload
        if (not max_spans or payload.spans <= max_spans) and (
            not max_bytes or payload.size <= max_bytes
        ):
            return [self]
        if len(self.tickets) == 1:
            parts = payload.split(max_spans, max_bytes)
            return self._divided(
                [Parcel(part, self.tickets, self.sources) for part in parts]
            )
        groups: list[list[Parcel]] = []
        spans = size = 0
        for request in self._requests():
            spans += request.payload.spans
            size += request.payload.size
            over = (max_spans and spans > max_spans) or (max_bytes and size > max_bytes)
            if over or not groups:
                groups.append([])
                spans, size = request.payload.spans, request.payload.size
            groups[-1].append(request)
        whole = self._divided([Parcel.join(group) for group in groups])
        return [part for parcel in whole for part in parcel.cut(max_spans, max_bytes)]

    def groups(self, most: int) -> list[Parcel]:
        """At most `most` parcels of about as many whole requests each."""
        requests = list(self._requests())
        each = -(-len(requests) // most)
        return self._divided(
            [
                Parcel.join(requests[start : start + each])
                for start in range(0, len(requests), each)
            ]
        )

    def _requests(self) -> Iterator[Parcel]:
        for ticket, request in zip(self.tickets, self.payload.requests(), strict=True):
            yield Parcel(request, [ticket])

    def _divided(self, parts: list[Parcel]) -> list[Parcel]:
        for part in parts:
            for ticket in part.owners():
                ticket.parts += 1
        for ticket in self.owners():
            ticket.parts -= 1
        return parts
