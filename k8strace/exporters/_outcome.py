"""What became of parcels: counted, logged, and told to who waits for it.

Rules:
1. Whatever happens to a parcel, each of its tickets is settled, exactly once.
2. A span is dropped only if nobody can be told: its sender was answered or is gone.
3. Errors are kept without their tracebacks, which would keep payloads in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from k8strace.component import Context
from k8strace.errors import PartlyRejectedError, RefusedError, RejectedError
from k8strace.exporters._lines import Lines
from k8strace.exporters._parcel import Parcel, Ticket
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
        self.lines = Lines(context.log)
        self._ledger = context.ledger
        self._settled = settled
        metrics, label = context.metrics, context.label
        self._send_failed = metrics.counter(EXPORTER_SEND_FAILED_SPANS, label)
        self._resent = metrics.counter(SPANS_RESENT, context.kind, label)

    def succeed(self, parcel: Parcel, sent: Sent) -> None:
        """Settle what the destination took."""
        spans = parcel.payload.spans
        rejected = min(max(sent.rejected, 0), spans)
        if rejected:
            self.lines.write(
                "partial_success",
                logging.ERROR,
                "%s took a request of %d spans but rejected %d of them: %s",
                *(self.destination, spans, rejected, sent.message),
            )
        elif sent.message:
            self.lines.write(
                "message",
                logging.WARNING,
                "%s took a request of %d spans and says: %s",
                *(self.destination, spans, sent.message),
            )
        for ticket, share in parcel.shares().items():
            if ticket.parked:
                self._ledger.park(-share)
            ticket.done += share
            self._finish_part(ticket)
        self._ledger.send(spans - rejected)
        if rejected:
            self._ledger.drop(rejected, "partial_success")
            self._send_failed.add(rejected)

    def fail(self, parcel: Parcel, error: RefusedError | RejectedError) -> None:
        """Settle what was given up, for `error`."""
        payload = parcel.payload
        if self.hurried and isinstance(error, RefusedError) and parcel.is_stored:
            self._leave(parcel)
            return
        if isinstance(error, RejectedError):
            reason, why = error.reason, "refused for good"
            kept: RefusedError | RejectedError = RejectedError(
                str(error), reason, about_data=error.about_data
            )
        else:
            reason = "shutdown" if self.hurried else "retry_exhausted"
            why = "not taken in time"
            kept = RefusedError(str(error), error.retry_after)
        self._send_failed.add(payload.spans)
        shares = parcel.shares()
        comes_again = isinstance(kept, RefusedError) and not any(t.answered for t in shares)
        self.lines.write(
            "handed_back" if comes_again else reason,
            logging.WARNING if comes_again else logging.ERROR,
            "%d spans from %s were %s by %s (%s): %s",
            *(payload.spans, payload.origin.peer if payload.origin else "several senders"),
            *(why, self.destination),
            *("their sender is told to retry" if comes_again else reason, str(error)),
        )
        for ticket, share in shares.items():
            if ticket.parked:
                self._ledger.park(-share)
            if ticket.answered:
                self._ledger.drop(share, reason)
            else:
                ticket.failures.append((share, reason, kept))
        if isinstance(kept, RejectedError):
            for ticket, source in zip(parcel.tickets, parcel.sources, strict=False):
                if ticket.is_joined:
                    ticket.culprits.append(source)
        for ticket in shares:
            self._finish_part(ticket)

    def _leave(self, parcel: Parcel) -> None:
        """Leave on disk, for another time, what was not taken before the end."""
        for ticket in parcel.owners():
            ticket.stays = True
            self._finish_part(ticket)

    def _finish_part(self, ticket: Ticket) -> None:
        ticket.parts -= 1
        if ticket.parts:
            return
        if ticket.stays:
            self._resent.add(ticket.done)
        self._conclude(ticket)
        self._settled(ticket)
        if ticket.waiter is not None and not ticket.waiter.done():
            ticket.waiter.set_result(None)

    def _conclude(self, ticket: Ticket) -> None:
        """Decide what the sender is told: to retry, if that can save any of its spans."""
        failures, ticket.failures = ticket.failures, []
        if not failures:
            return
        refusal = next((e for *_, e in failures if isinstance(e, RefusedError)), None)
        if not ticket.answered and refusal is not None:
            ticket.error = refusal
            self._ledger.received += ticket.done
            self._resent.add(ticket.done)
        elif not ticket.answered and not ticket.done:
            ticket.error = failures[0][-1]
        elif not ticket.answered and ticket.culprits:
            text, reason = str(failures[0][-1]), failures[0][1]
            ticket.error = PartlyRejectedError(text, reason, tuple(ticket.culprits))
            self._ledger.received += ticket.done
        else:
            for share, reason, _ in failures:
                self._ledger.drop(share, reason)
