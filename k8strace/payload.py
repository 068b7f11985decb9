"""Payload: the one thing that flows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from k8strace import _fastpath
from k8strace.budget import Lease

JOIN_BELOW = 16 * 1024  # runs of smaller chunks become one chunk when payloads are joined


class Origin(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where a request came from.

    `peer` is the address ("10.0.0.7:51812", "unix:"), `subject` the authenticated caller,
    `groups` what it belongs to, `metadata` the request's metadata where a receiver has
    `include_metadata`.
    """

    peer: str
    subject: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    groups: tuple[str, ...] = ()


class Source(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A request that a joined payload was made of: its spans, its bytes, its sender."""

    spans: int
    size: int
    origin: Origin | None


class Payload(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Spans as they came, immutable.

    `chunks` are `bytes`, each a run of whole `ResourceSpans` fields as they stand in an
    ExportTraceServiceRequest, so that chunks written one after the other are a request.
    `size` is their length in bytes, `spans` the number of spans in them.
    `origin` is None in a payload of several senders; `sources` names the requests a joined
    payload was made of, in order (empty: it is one request).
    `lease` holds the payload's bytes in the budget (several in a joined payload).
    `wait_until` is the loop's time up to which the sender's answer may be held while there
    is no room for the payload; 0 says not to wait.

    The garbage collector doesn't look at it: what it holds refers back to nothing.
    """

    chunks: tuple[bytes, ...]
    spans: int
    size: int
    origin: Origin | None = None
    sources: tuple[Source, ...] = ()
    lease: Lease | tuple[Lease, ...] | None = None
    wait_until: float = 0.0

    def replaced(self, chunks: tuple[bytes, ...], spans: int) -> Payload:
        """The payload with other content, made from it by cutting or editing.

        Its sources are forgotten: borders of requests are not known in what was cut.
        """
        size = sum(map(len, chunks))
        return Payload(
            chunks,
            spans,
            size,
            self.origin,
            lease=_resized(self.lease, size),
            wait_until=self.wait_until,
        )

    def split(self, max_spans: int = 0, max_bytes: int = 0) -> list[Payload]:
        """Pieces of at most `max_spans` spans and `max_bytes` bytes each (0: no limit).

        A single span over `max_bytes` makes a piece of its own (see `_fastpath.split` for
        resources too large to be repeated). The pieces share the lease and keep order; one
        that is cut inside a request has no sources.
        """
        if (not max_spans or self.spans <= max_spans) and (
            not max_bytes or self.size <= max_bytes
        ):
            return [self]
        pieces = []
        for part in _grouped(self.requests(), max_spans, max_bytes):
            if len(part) > 1:
                pieces.append(Payload.join(part))
                continue
            request = part[0]
            if (max_spans and request.spans > max_spans) or (
                max_bytes and request.size > max_bytes
            ):
                pieces += [
                    Payload(
                        chunks,
                        spans,
                        size,
                        request.origin,
                        lease=self.lease,
                        wait_until=self.wait_until,
                    )
                    for chunks, spans, size in _fastpath.split(
                        request.chunks, max_spans, max_bytes
                    )
                ]
            else:
                pieces.append(request)
        return pieces

    def requests(self) -> list[Payload]:
        """The payload, cut at the borders of the requests that it was joined from."""
        if len(self.sources) < 2:
            return [self]
        cutter = _Cutter(self.chunks)
        return [
            Payload(
                cutter.cut(source.size),
                source.spans,
                source.size,
                source.origin,
                (source,),
                self.lease,
                self.wait_until,
            )
            for source in self.sources
        ]

    @staticmethod
    def join(payloads: Sequence[Payload]) -> Payload:
        """One payload of all of them, in order; small chunks are copied together."""
        if len(payloads) == 1:
            return payloads[0]
        origin = payloads[0].origin
        sources: list[Source] = []
        leases: dict[int, Lease] = {}
        spans = size = 0
        for payload in payloads:
            spans += payload.spans
            size += payload.size
            if payload.origin is not origin and payload.origin != origin:
                origin = None
            sources += payload.sources or (
                Source(payload.spans, payload.size, payload.origin),
            )
            lease = payload.lease
            if isinstance(lease, tuple):
                leases.update((id(one), one) for one in lease)
            elif lease is not None:
                leases[id(lease)] = lease
        chunks = tuple(_joined([c for p in payloads for c in p.chunks]))
        return Payload(chunks, spans, size, origin, tuple(sources), tuple(leases.values()))


def _resized(
    lease: Lease | tuple[Lease, ...] | None, size: int
) -> Lease | tuple[Lease, ...] | None:
    """A lease of `size` bytes in place of one that is about to go."""
    if lease is None:
        return None
    first = lease[0] if isinstance(lease, tuple) else lease
    return Lease(first.budget, size, first.peer)


def _joined(chunks: list[bytes]) -> Iterator[bytes]:
    run: list[bytes] = []
    length = 0
    for chunk in chunks:
        if len(chunk) < JOIN_BELOW:
            run.append(chunk)
            length += len(chunk)
            if length < JOIN_BELOW:
                continue
        if run:
            yield run[0] if len(run) == 1 else b"".join(run)
            run, length = [], 0
        if len(chunk) >= JOIN_BELOW:
            yield chunk
    if run:
        yield run[0] if len(run) == 1 else b"".join(run)


def _grouped(
    requests: list[Payload], max_spans: int, max_bytes: int
) -> Iterator[list[Payload]]:
    """Whole requests in groups within the limits; one over them is a group of its own."""
    group: list[Payload] = []
    spans = size = 0
    for request in requests:
        spans += request.spans
        size += request.size
        over = (max_spans and spans > max_spans) or (max_bytes and size > max_bytes)
        if over and group:
            yield group
            group, spans, size = [], request.spans, request.size
        group.append(request)
    if group:
        yield group


class _Cutter:
    """Takes a tuple of chunks apart, by lengths, from the front."""

    def __init__(self, chunks: tuple[bytes, ...]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._start = 0

    def cut(self, size: int) -> tuple[bytes, ...]:
        parts = []
        while size:
            left = len(self._chunk) - self._start
            if not left:
                self._chunk, self._start = next(self._chunks), 0
                continue
            take = min(left, size)
            whole = take == len(self._chunk)
            end = self._start + take
            parts.append(self._chunk if whole else self._chunk[self._start : end])
            self._start, size = end, size - take
        return tuple(parts)
