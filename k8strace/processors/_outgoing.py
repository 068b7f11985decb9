"""How the batch processor hands batches on, and what it answers to their senders.

`Keeping` keeps a batch until it is taken; its senders were answered when it was parked.
`Answering` offers a batch once and tells its senders what became of their spans.

No error is kept, passed on or logged as the object that it is: its traceback holds frames,
and they hold payloads, whose bytes would stay in the budget.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from math import inf
from typing import ClassVar

import msgspec

from k8strace.background import Turn, wake
from k8strace.budget import MAX_RETRY_AFTER, MIN_RETRY_AFTER, Room
from k8strace.component import Context, Outlet
from k8strace.drops import NOBODY, Sender, sender_of
from k8strace.errors import (
    MalformedPayloadError,
    PartlyRejectedError,
    RefusedError,
    RejectedError,
    passing_refusal,
)
from k8strace.metrics import BATCH_SEND_SIZE, BATCH_SEND_SIZE_BYTES
from k8strace.passes import Spare
from k8strace.payload import Payload, Requests, Source
from k8strace.pieces import Pieces

SHORTEST_PAUSE = 0.001  # seconds: who refuses and says "at once" must not make us spin
# How a coroutine ends whose task was cancelled; the second, before it had begun.
GIVEN_UP = (asyncio.CancelledError, GeneratorExit)

Failure = RefusedError | RejectedError


class Held:
    """A payload whose sender waits for the outcome.

    When it is `settled`, `taken` of its spans went on, and `error` says why not all did.
    `abandoned`: its sender went away when it was on its way already.
    """

    __slots__ = ("abandoned", "error", "parcel", "payload", "settled", "taken", "waiter")

    def __init__(self, payload: Payload, waiter: asyncio.Future[None]) -> None:
        self.payload = payload
        self.waiter = waiter
        self.parcel: Parcel | None = None
        self.abandoned = False
        self.settled = False
        self.taken = 0
        self.error: Failure | None = None


class Parcel:
    """Payloads that go on together: `payloads`, or, where answers are held, `held`."""

    __slots__ = ("held", "payloads", "requests", "size", "spans", "started")

    def __init__(self) -> None:
        self.payloads: list[Payload] = []
        self.held: dict[Held, None] = {}
        self.spans = 0
        self.size = 0
        self.requests = 0
        self.started = False

    @property
    def is_empty(self) -> bool:
        return not (self.payloads or self.held)


class Outgoing(ABC):
    """The way on for parcels. Their bytes are in `room`, their spans parked in the ledger;
    when `send` or `give_up` is done, neither is any more.
    """

    # Parcels of one group that may be on their way at the same time.
    at_once: ClassVar[int]

    def __init__(
        self, context: Context, downstream: Outlet, room: Room, max_spans: int
    ) -> None:
        self.label = context.label
        self.log = context.log
        self.ledger = context.ledger
        self.drops = context.drops
        self.downstream = downstream
        self.room = room
        self.max_spans = max_spans
        self._spare = Spare(context.budget, lasts=True)
        self._send_size = context.metrics.histogram(BATCH_SEND_SIZE, context.label)
        self._send_bytes = context.metrics.histogram(BATCH_SEND_SIZE_BYTES, context.label)

    @abstractmethod
    async def send(self, parcel: Parcel) -> None:
        """Hand `parcel` on; when cancelled, give up what is left of it."""

    @abstractmethod
    def give_up(self, parcel: Parcel) -> None:
        """End a parcel whose turn never came."""

    @abstractmethod
    def hurry(self) -> None:
        """Don't wait long any more: the component is stopping."""

    def unpark(self, spans: int, size: int) -> None:
        self.ledger.park(-spans)
        self.room.give(size)

    def shutting_down(self) -> RefusedError:
        return RefusedError(f"{self.label} is shutting down")

    def _pieces(self, parcel: Parcel) -> Pieces:
        """What `parcel` becomes, each within the limit; it lets its payloads go.

        Raises RefusedError, and keeps them, where there is no memory for that.
        """
        payloads = parcel.payloads or [held.payload for held in parcel.held]
        try:
            pieces = Pieces(Payload.join(payloads), self._spare, self.max_spans)
        except MemoryError as error:
            raise self._no_memory(parcel.spans, error) from None
        parcel.payloads = []
        return pieces

    async def _next(self, pieces: Pieces, until: float = inf) -> Payload | None:
        """The next piece. Raises MalformedPayloadError, as `pieces` does; RefusedError
        where there is no room by the loop's time `until`, or no memory.
        """
        try:
            return await pieces.next(until)
        except MemoryError as error:
            raise self._no_memory(pieces.left, error) from None

    def _unreadable(self, error: MalformedPayloadError) -> RejectedError:
        text = f"{self.label} has to cut the request, and cannot read it: {error}"
        return RejectedError(text, "decode_error")

    def _no_memory(self, spans: int, error: MemoryError) -> RefusedError:
        self.drops.lines.fault("cannot make a batch of %d spans now", spans, error=error)
        return passing_refusal(self.label, error)

    def _count_partly_sent(
        self, piece: Payload, outcome: list[tuple[int, Failure | None]]
    ) -> int:
        """Count what of a rejected piece was taken, as its edge doesn't; say how much."""
        taken = sum(spans for spans, failure in outcome if failure is None)
        if taken:
            self.ledger.send(taken)
            self._count_sent(piece)
        return taken

    def _count_sent(self, piece: Payload) -> None:
        self._send_size.observe(piece.spans)
        self._send_bytes.observe(piece.size)


class Keeping(Outgoing):
    """For what is only taken into memory behind us: nobody else would try again."""

    at_once = 1  # more would not keep order

    def __init__(
        self, context: Context, downstream: Outlet, room: Room, max_spans: int
    ) -> None:
        super().__init__(context, downstream, room, max_spans)
        self._pauses: set[asyncio.Future[None]] = set()
        self._hurried = False
        self._refused = False

    async def send(self, parcel: Parcel) -> None:
        """Hand `parcel` on until it is taken or rejected; cancelled, drop what is left."""
        spans, size = parcel.spans, parcel.size
        pieces: Pieces | None = None
        piece: Payload | None = None
        turn = Turn()
        try:
            while True:
                try:
                    pieces = pieces or self._pieces(parcel)
                    piece = await self._next(pieces)
                except RefusedError as error:
                    pause = error.retry_after or MAX_RETRY_AFTER
                    await self._pause(pause)
                    continue
                except MalformedPayloadError as error:
                    assert pieces is not None
                    piece = pieces.unreadable()
                    self._drop(piece, piece.spans, self._unreadable(error))
                    await asyncio.sleep(0)  # there may be many
                else:
                    if piece is None:
                        return
                    await self._insist(piece)
                given = min(piece.size, size) if pieces.left else size
                self.unpark(piece.spans, given)
                spans, size = spans - piece.spans, size - given
                piece = None
                if pieces.left:
                    await turn.end()
        except GIVEN_UP:
            self.unpark(spans, size)
            rest = parcel.payloads if pieces is None else pieces.rest()
            self._drop_late(spans, rest if piece is None else [piece])
            raise
        finally:
            if pieces is not None:
                pieces.close()

    def give_up(self, parcel: Parcel) -> None:
        self.unpark(parcel.spans, parcel.size)
        self._drop_late(parcel.spans, parcel.payloads)

    def hurry(self) -> None:
        self._hurried = True
        for pause in self._pauses:
            _end(pause)

    async def _insist(self, piece: Payload) -> None:
        """Offer `piece` until nothing more is to be done for it."""
        pause = MIN_RETRY_AFTER
        while (refusal := await self._offer(piece)) is not None:
            wait = pause if refusal.retry_after is None else refusal.retry_after
            await self._pause(wait)
            pause = min(2 * pause, MAX_RETRY_AFTER)

    async def _offer(self, piece: Payload) -> RefusedError | None:
        """Offer `piece` once; None when nothing more is to be done for it."""
        # Who is next may hold its answer for as long as it would ask to wait anyway.
        until = asyncio.get_running_loop().time() + MAX_RETRY_AFTER
        try:
            await self.downstream(
                msgspec.structs.replace(piece, wait_until=until, is_taken=True)
            )
        except RefusedError as error:
            if not self._refused:
                self._refused = True
                self.log.warning("spans are kept and sent again: %s", str(error))
            return RefusedError(str(error), error.retry_after)
        except RejectedError as error:
            taken = self._count_partly_sent(piece, by_request(piece, error))
            self._drop(piece, piece.spans - taken, error)
        else:
            self._count_sent(piece)
            if self._refused:
                self._refused = False
                self.log.info("spans are taken again")
        return None

    def _drop(self, piece: Payload, spans: int, error: RejectedError) -> None:
        culprits = error.culprits if isinstance(error, PartlyRejectedError) else ()
        # Not of the error: its traceback holds this frame, and that this sender.
        sender = partial(culprit_of, piece, culprits)
        self.drops.spans(spans, error.reason, str(error), sender)

    async def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._hurried:
            seconds = min(seconds, MIN_RETRY_AFTER)
        pause: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(max(seconds, SHORTEST_PAUSE), _end, pause)
        self._pauses.add(pause)
        try:
            await pause
        finally:
            timer.cancel()
            self._pauses.discard(pause)

    def _drop_late(self, spans: int, payloads: Sequence[Payload]) -> None:
        sender = partial(sender_of, payloads[0]) if payloads else NOBODY
        self.drops.spans(spans, "shutdown", "nobody took them before the end", sender)


class Answering(Outgoing):
    """For exporters that store or wait for their backend: senders learn the outcome."""

    # Order is not known where senders wait for each other's answers, and one parcel at a
    # time would mean one for each round trip. The collector's queues have ten consumers.
    at_once = 10

    async def send(self, parcel: Parcel) -> None:
        """Offer `parcel` once and settle it; after a refusal no piece of it is offered."""
        until = min(held.payload.wait_until for held in parcel.held)
        outcomes: list[tuple[int, Failure | None]] = []
        pieces: Pieces | None = None
        piece: Payload | None = None
        failure: Failure | None = None
        turn = Turn()
        try:
            pieces = self._pieces(parcel)
            while failure is None:
                try:
                    piece = await self._next(pieces, until)
                except MalformedPayloadError as error:
                    spans = pieces.unreadable().spans
                    outcomes.append((spans, self._unreadable(error)))
                    await asyncio.sleep(0)  # there may be many
                    continue
                if piece is None:
                    break
                try:
                    await self.downstream(msgspec.structs.replace(piece, wait_until=until))
                except RejectedError as error:
                    outcome = by_request(piece, error)
                    self._count_partly_sent(piece, outcome)
                    outcomes += outcome
                else:
                    self._count_sent(piece)
                    outcomes.append((piece.spans, None))
                piece = None
                if pieces.left:
                    await turn.end()
        except RefusedError as error:
            failure = same(error)
        finally:
            left = parcel.spans
            if pieces is not None:
                left = pieces.left + (0 if piece is None else piece.spans)
                pieces.close()
            if left and failure is None:  # it was cancelled
                failure = self.shutting_down()
            self._settle(parcel, [*outcomes, (left, failure)])

    def give_up(self, parcel: Parcel) -> None:
        self._settle(parcel, [(parcel.spans, self.shutting_down())])

    def hurry(self) -> None:
        """Nothing waits here: each parcel is offered once."""

    def leave(self, held: Held) -> None:
        """A sender went away: take its payload out, or let it go on without it.

        The edge counts the payload as refused. Of spans that go on all the same, the
        ledger says that they came in a second time.
        """
        parcel, spans = held.parcel, held.payload.spans
        if held.settled:
            self.ledger.received += held.taken
        elif parcel is None or parcel.started:
            held.abandoned = True
            self.ledger.received += spans
        else:
            del parcel.held[held]
            parcel.spans -= spans
            parcel.size -= held.payload.size
            parcel.requests -= held.payload.request_count
            self.unpark(spans, held.payload.size)

    def _settle(
        self, parcel: Parcel, outcomes: Iterable[tuple[int, Failure | None]]
    ) -> None:
        """Tell each sender of `parcel` what became of its spans.

        Payloads and pieces hold the same spans in the same order; `outcomes` gives the
        number of spans in each piece and what went wrong with it. A refusal outweighs a
        rejection: the sender may try again. Of a payload that was joined in front of us,
        those requests are named that were rejected.
        """
        pieces = iter(outcomes)
        left, error = next(pieces)
        for held in parcel.held:
            payload = held.payload
            culprits: list[Source] = []
            for source in payload.sources or (Source(payload.spans, 0, None),):
                missing, is_rejected = source.spans, False
                while missing:
                    if not left:
                        left, error = next(pieces)
                    part = min(missing, left)
                    missing, left = missing - part, left - part
                    if error is None:
                        held.taken += part
                        continue
                    is_rejected |= isinstance(error, RejectedError)
                    if not isinstance(held.error, RefusedError):
                        held.error = error
                if is_rejected:
                    culprits.append(source)
            if payload.sources and isinstance(held.error, RejectedError):
                held.error = among(held.error, culprits, payload)
            held.settled = True
            held.parcel = None  # a cycle would keep the payloads in memory
            self.unpark(held.payload.spans, held.payload.size)
            if held.abandoned:
                self._count_abandoned(held)
        wake([held.waiter for held in parcel.held])

    def _count_abandoned(self, held: Held) -> None:
        """Count, in the sender's place, the spans of a payload that did not go on."""
        rest = held.payload.spans - held.taken
        if isinstance(held.error, RejectedError):
            self.ledger.rejected += rest
        else:
            self.ledger.refused += rest


def _end(pause: asyncio.Future[None]) -> None:
    if not pause.done():
        pause.set_result(None)


def by_request(piece: Payload, error: RejectedError) -> list[tuple[int, Failure | None]]:
    """The numbers of spans in the requests of a piece, and what went wrong with each."""
    if not (isinstance(error, PartlyRejectedError) and piece.sources):
        return [(piece.spans, same(error))]
    culprits = {id(one) for one in error.culprits}
    failure = RejectedError(str(error), error.reason)
    return [
        (source.spans, failure if id(source) in culprits else None)
        for source in piece.sources
    ]


def culprit_of(piece: Payload, culprits: tuple[object, ...]) -> Sender:
    """Whose the spans are that a rejection of `piece` is about; none named: all of it."""
    wanted = {id(one) for one in culprits}
    for index, source in enumerate(piece.sources if wanted else ()):
        if id(source) in wanted:
            requests = Requests(piece)
            requests.skip(index)
            return sender_of(requests.take(1))
    return sender_of(piece)


def among(error: RejectedError, culprits: list[Source], payload: Payload) -> Failure:
    """The rejection of those requests of `payload` that are `culprits`."""
    if len(culprits) == len(payload.sources):
        return error
    return PartlyRejectedError(str(error), error.reason, tuple(culprits))


def same(error: Failure) -> Failure:
    """`error` without its traceback, whose frames would keep payloads in memory."""
    if isinstance(error, RefusedError):
        return RefusedError(str(error), error.retry_after, error.reason)
    if isinstance(error, PartlyRejectedError):
        return PartlyRejectedError(str(error), error.reason, error.culprits)
    return RejectedError(str(error), error.reason, about_data=error.about_data)
