"""What is sent and for whom: a parcel of whole requests, and a ticket for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import NamedTuple

from k8strace.drops import Sender
from k8strace.errors import Reason, RefusedError, RejectedError
from k8strace.passes import Spare
from k8strace.payload import Payload, Source
from k8strace.pieces import Pieces
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
    `held` its bytes of memory (0 while a stored one is only on disk), `since` when it came
    (monotonic seconds). `parts` are the parcels that have some of it and aren't settled
    yet.

    `place` is where it is stored, if it is; `stays` says that it is left there, to be sent
    another time.

    `culprits` are those of its `requests` that were refused for good, where it was joined
    from several.

    `parked` says that its spans count as parked; `answered` that its sender was told that
    they are taken, or is gone, so that what fails is lost. Where the sender still waits,
    `done` are the spans that won't come again, `failures` the others, and `error` is what
    to raise once all is settled; `waiter` then gets its result.
    """

    __slots__ = (
        *("amount", "answered", "culprits", "done", "error", "failures", "held"),
        *("parked", "parts", "payload", "place", "requests", "since", "size", "spans"),
        *("stays", "waiter"),
    )

    def __init__(
        self, payload: Payload, amount: int = 0, *, is_answered: bool = False
    ) -> None:
        self.payload: Payload | None = payload
        self.requests = payload.request_count
        self.spans = payload.spans
        self.size = payload.size
        self.amount = amount
        self.held = 0
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

    def take(self) -> Payload:
        """The payload, taken out of the ticket to be sent. Only once."""
        payload, self.payload = self.payload, None
        assert payload is not None
        return payload

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

    `sources` are those of the payload, or the one that it is only a part of. `is_smallest`
    says that cutting it made no difference.
    """

    __slots__ = ("is_smallest", "payload", "sources", "tickets")

    def __init__(
        self,
        payload: Payload,
        tickets: list[Ticket],
        sources: tuple[Source, ...] | None = None,
    ) -> None:
        self.payload = payload
        self.tickets = tickets
        self.sources = payload.sources if sources is None else sources
        self.is_smallest = payload.spans <= 1

    @property
    def is_stored(self) -> bool:
        """Whether what isn't sent now can be sent after the end of the process."""
        return self.tickets[0].place is not None

    @staticmethod
    def of(tickets: Sequence[Ticket]) -> Parcel:
        """The payloads of `tickets`, taken out of them, as one."""
        payload = Payload.join([ticket.take() for ticket in tickets])
        return Parcel(payload, [one for one in tickets for _ in range(one.requests)])

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


class CutParcel:
    """A parcel in whose place its pieces go, each made when the one before is settled.

    Of each ticket that has spans in no piece yet this counts as one of its parts.
    """

    def __init__(
        self,
        parcel: Parcel,
        spare: Spare,
        max_spans: int = 0,
        max_bytes: int = 0,
        max_requests: int = 0,
    ) -> None:
        self.tickets = parcel.tickets
        self._sources = parcel.sources
        self._spans = parcel.payload.spans
        self._by_requests = max_requests > 0
        self._pieces = Pieces(parcel.payload, spare, max_spans, max_bytes, max_requests)

    @property
    def spans(self) -> int:
        """Those that are in no piece yet."""
        return self._pieces.left

    async def next(self) -> Parcel | None:
        """The next piece as a parcel; None, and all is handed on, where there is none.

        Raises MalformedPayloadError, after which `unreadable` is to be called; MemoryError.
        After both it can be asked again.
        """
        pieces = self._pieces
        piece = await pieces.next()
        if piece is None:
            return None
        tickets, sources = self.tickets[pieces.first : pieces.end], self._sources
        if len(self.tickets) > 1:
            sources = sources[pieces.first : pieces.end]
        following = self.tickets[pieces.end : pieces.end + 1]
        if not pieces.is_whole or following == tickets[-1:]:
            tickets[-1].parts += 1
        parcel = Parcel(piece, tickets, sources)
        if not self._by_requests:
            parcel.is_smallest |= piece.spans == self._spans
        return parcel

    def unreadable(self) -> Parcel:
        """The rest of the request that could not be read, to be settled.

        `next` goes on behind it.
        """
        first, end = self._pieces.first, self._pieces.end
        tickets, sources = self.tickets[first:end], self._sources
        if len(self.tickets) > 1:
            sources = sources[first:end]
        if self.tickets[end : end + 1] == tickets[-1:]:
            tickets[-1].parts += 1
        return Parcel(self._pieces.unreadable(), tickets, sources)

    def rest(self) -> list[Parcel]:
        """Parcels of what is in no piece yet, to be settled, not sent."""
        first = self._pieces.end - (not self._pieces.is_whole)
        rest = []
        for payload in self._pieces.rest():
            count = payload.request_count
            tickets = self.tickets[first : first + count]
            sources = self._sources
            if len(self.tickets) > 1:
                sources = sources[first : first + count]
            first += count
            if self.tickets[first : first + 1] == tickets[-1:]:
                tickets[-1].parts += 1
            rest.append(Parcel(payload, tickets, sources))
        return rest
