"""What became of parcels: counted, logged, and told to who waits for it.

Rules:
1. Whatever happens to a parcel, each of its tickets is settled, exactly once.
2. A span is dropped only if nobody can be told: its sender was answered or is gone.
3. Errors are kept without their tracebacks, which would keep payloads in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from k8strace.background import wake
from k8strace.component import Context
from k8strace.drops import sender_of
from k8strace.errors import (
    PartlyRejectedError,
    Reason,
    RefusedError,
    RejectedError,
)
from k8strace.exporters._parcel import Failure, Parcel, Ticket
from k8strace.metrics import EXPORTER_SEND_FAILED_SPANS, SPANS_RESENT


class Sent(NamedTuple):
    """What a destination said of a request that it took."""

    rejected: int = 0
    message: str = ""


class Outcomes:
    """Settles the parcels of one exporter.

    `settled` is told each ticket of which nothing is left to do. `hurried` says that what
    is refused now is lost to the shutdown.
    """

    def __init__(
        self, context: Context, destination: str, settled: Callable[[Ticket], None]
    ) -> None:
        self.destination = destination
        self.hurried = False
        self.lines = context.drops.lines
        self._drops = context.drops
        self._ledger = context.ledger
        self._settled = settled
        metrics, label = context.metrics, context.label
        self._send_failed = metrics.counter(EXPORTER_SEND_FAILED_SPANS, label)
        self._resent = metrics.counter(SPANS_RESENT, context.kind, label)

    def succeed(self, parcel: Parcel, sent: Sent) -> None:
        """Settle what the destination took."""
        spans = parcel.payload.spans
        rejected = min(max(sent.rejected, 0), spans)
        if sent.message and not rejected:
            self.lines.write(
                "message",
                logging.WARNING,
                "%s took a request of %d spans and says: %s",
                *(self.destination, spans, sent.message),
            )
        shares = parcel.shares()
        for ticket, share in shares.items():
            if ticket.parked:
                self._ledger.park(-share)
            ticket.done += share
        self._finish_part(shares)
        self._ledger.send(spans - rejected)
        if rejected:
            self._drops.spans(
                rejected,
                "partial_success",
                f"{self.destination} took a request of {spans} spans but rejected "
                f"{rejected} of them: {sent.message}",
                lambda: sender_of(parcel.payload, rejected),
            )
            self._send_failed.add(rejected)

    def fail(
        self,
        parcel: Parcel,
        error: RefusedError | RejectedError,
        *,
        was_offered: bool = True,
    ) -> None:
        """Settle what was given up, for `error`: the destination's, if it `was_offered`."""
        payload = parcel.payload
        if self.hurried and isinstance(error, RefusedError) and parcel.is_stored:
            self._leave(parcel)
            return
        reason: Reason
        if isinstance(error, RejectedError):
            reason, why = error.reason, "refused for good"
            kept: RefusedError | RejectedError = RejectedError(
                str(error), reason, about_data=error.about_data
            )
        else:
            reason = "shutdown" if self.hurried else error.reason or "retry_exhausted"
            why = "not taken in time"
            kept = RefusedError(str(error), error.retry_after, error.reason)
        self._send_failed.add(payload.spans)
        by = f"{why} by" if was_offered else "not sent to"
        text = f"{by} {self.destination}: {error}"
        shares = parcel.shares()
        lost = 0
        for ticket, share in shares.items():
            if ticket.parked:
                self._ledger.park(-share)
            if ticket.answered:
                lost += share
        self._drops.spans(lost, reason, text, lambda: sender_of(payload))
        if lost < payload.spans:
            self.lines.write(
                ("handed back", reason),
                logging.WARNING,
                "%d spans were %s; handed back to the component in front",
                *(payload.spans - lost, text),
            )
            sender = sender_of(payload)
            for ticket, share in shares.items():
                if not ticket.answered:
                    ticket.failures.append(Failure(share, reason, kept, text, sender))
        if isinstance(kept, RejectedError):
            for ticket, source in zip(parcel.tickets, parcel.sources, strict=False):
                if ticket.requests > 1:
                    ticket.culprits.append(source)
        self._finish_part(shares)

    def _leave(self, parcel: Parcel) -> None:
        """Leave on disk, for another time, what was not taken before the end."""
        for ticket in parcel.owners():
            ticket.stays = True
        self._finish_part(parcel.owners())

    def _finish_part(self, tickets: Iterable[Ticket]) -> None:
        """Settle those of `tickets` of which this part was the last."""
        waiters: list[asyncio.Future[None]] = []
        for ticket in tickets:
            ticket.parts -= 1
            if ticket.parts:
                continue
            if ticket.stays:
                self._resent.add(ticket.done)
            if ticket.failures:
                self._conclude(ticket)
            self._settled(ticket)
            if ticket.waiter is not None:
                waiters.append(ticket.waiter)
        wake(waiters)

    def _conclude(self, ticket: Ticket) -> None:
        """Decide what the sender is told: to retry, if that can save any of its spans."""
        failures, ticket.failures = ticket.failures, []
        refusal = next(
            (one.error for one in failures if isinstance(one.error, RefusedError)), None
        )
        if not ticket.answered and refusal is not None:
            ticket.error = refusal
            self._ledger.received += ticket.done
            self._resent.add(ticket.done)
        elif not ticket.answered and not ticket.done:
            ticket.error = failures[0].error
        elif not ticket.answered and ticket.culprits:
            first = failures[0]
            ticket.error = PartlyRejectedError(
                str(first.error), first.reason, tuple(ticket.culprits)
            )
            self._ledger.received += ticket.done
        else:
            for one in failures:
                self._drops.spans(one.spans, one.reason, one.text, one.sender)
