"""The one place where spans are lost or refused: logged once a minute, kept as a sample.

Nothing here runs while all get through.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from k8strace import _fastpath
from k8strace.errors import MalformedPayloadError, Reason
from k8strace.lines import Lines, printable
from k8strace.losses import Loss, Losses, Sample, What
from k8strace.metrics import Ledger
from k8strace.payload import Payload

SAMPLE_EVERY = 1.0  # seconds: between two samples of one loss
READ_UP_TO = 256 * 1024  # bytes that are read to learn a service's name
MAX_TEXT = 500  # characters of a sample's text
MAX_NAME = 200  # characters of a peer, of a service's name

_SAYS = {
    "dropped": ("dropped spans: %s", "spans"),
    "rejected": ("rejected spans: %s", "spans"),
    "refused": ("refused spans: %s", "spans"),
    "requests": ("rejected requests: %s", "requests"),
}


class Sender(NamedTuple):
    """Whose spans they were, as far as it is known."""

    peer: str = ""
    service: str = ""


NOBODY = Sender()


class Drops:
    """Where one component says what it loses.

    `sender` is asked only when a sample is due, not more than once a second.
    """

    def __init__(
        self,
        kind: str,
        component: str,
        log: logging.LoggerAdapter[logging.Logger],
        ledger: Ledger,
        losses: Losses,
    ) -> None:
        self.lines = Lines(log)
        self._where = kind, component
        self._ledger = ledger
        self._losses = losses
        self._samples: dict[Loss, tuple[float, Sample]] = {}

    def spans(
        self,
        spans: int,
        reason: Reason,
        text: str,
        sender: Callable[[], Sender] | Sender = NOBODY,
    ) -> None:
        """Drop `spans`: count them in the component's accounting, and tell."""
        if spans:
            self._ledger.drop(spans, reason)
            self.tell("dropped", spans, reason, text, sender)

    def tell(
        self,
        what: What,
        number: int,
        reason: str,
        text: str,
        sender: Callable[[], Sender] | Sender = NOBODY,
    ) -> None:
        """Tell of what was counted already; `reason` is empty where `text` says it all."""
        loss = Loss(*self._where, what, reason)
        now = time.monotonic()
        since, sample = self._samples.get(loss, (0.0, None))
        if sample is None or now - since >= SAMPLE_EVERY:
            whose = sender if isinstance(sender, Sender) else sender()
            sample = Sample(
                time.time(),
                printable(whose.peer, MAX_NAME),
                printable(whose.service, MAX_NAME),
                printable(text, MAX_TEXT),
            )
            self._samples[loss] = now, sample
            self._losses.note(loss, sample)
        says, unit = _SAYS[what]
        ours = what == "dropped" and loss.kind != "receivers"
        fields = {"reason": reason, "peer": sample.peer, "service": sample.service}
        self.lines.write(
            loss,
            logging.ERROR if ours else logging.WARNING,
            says,
            sample.text,
            number=number,
            unit=unit,
            fields={name: value for name, value in fields.items() if value},
        )


def sender_of(payload: Payload, spans: int | None = None) -> Sender:
    """Whose `payload` is, or the first part of one that was joined.

    Where only some `spans` of it are meant, and nobody knows which, the service is given
    only if all are of one.
    """
    origin = payload.origin or (payload.sources[0].origin if payload.sources else None)
    names = services(payload.chunks[:1])
    whole = spans is None or spans == payload.spans
    if not whole and (len(payload.chunks) > 1 or len(set(names)) > 1):
        names = []
    return Sender(origin.peer if origin else "", names[0] if names else "")


def services(chunks: tuple[bytes, ...]) -> list[str]:
    """The service.name of each span; empty where that can't be read, or not cheaply."""
    if sum(map(len, chunks)) > READ_UP_TO:
        return []
    try:
        (column,) = _fastpath.fields(chunks, "service")
    except MalformedPayloadError:
        return []
    return [
        name.decode(errors="replace") if isinstance(name, bytes) else "" for name in column
    ]
