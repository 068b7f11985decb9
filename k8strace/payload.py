"""Payload: the one thing that flows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec

from k8strace.budget import Budget, Lease

Leases = Lease | tuple["Leases", ...] | None
"""What holds bytes in the budget, for as long as it is there."""

MOST_JOINED = 8192
"""Requests that a joined payload is made of, at most: joining them, sending them on and
settling what became of each is done in one go, and takes the event loop milliseconds."""
PAIR_COST = 192  # bytes of the objects of a pair of metadata, or of a group


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

    @property
    def cost(self) -> int:
        """Bytes that its metadata and groups take."""
        return sum(PAIR_COST + sum(map(len, one)) for one in (*self.metadata, *self.groups))


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
    `lease` holds the payload's bytes in the budget; in a joined payload it is a tuple, with
    what holds each of `sources`.
    `wait_until` is the loop's time up to which the sender's answer may be held while there
    is no room for the payload; 0 says not to wait. `is_taken` says that its senders were
    told that it is taken: nobody would send it again.

    The garbage collector doesn't look at it: what it holds refers back to nothing.
    """

    chunks: tuple[bytes, ...]
    spans: int
    size: int
    origin: Origin | None = None
    sources: tuple[Source, ...] = ()
    lease: Leases = None
    wait_until: float = 0.0
    is_taken: bool = False

    def replaced(
        self, chunks: tuple[bytes, ...], spans: int, lease: Lease | None = None
    ) -> Payload:
        """The payload with other content, made from it by cutting or editing.

        `lease` holds the new content. Its sources are forgotten: borders of requests are
        not known in what was cut.
        """
        return Payload(
            chunks,
            spans,
            sum(map(len, chunks)),
            self.origin,
            lease=lease,
            wait_until=self.wait_until,
            is_taken=self.is_taken,
        )

    def fits(self, max_spans: int, max_bytes: int) -> bool:
        """Whether it has at most `max_spans` spans and `max_bytes` bytes (0: no limit)."""
        return (not max_spans or self.spans <= max_spans) and (
            not max_bytes or self.size <= max_bytes
        )

    def held(self, budget: Budget) -> int:
        """The bytes of `budget` that its leases hold."""
        lease = self.lease
        if isinstance(lease, Lease):
            return lease.held if lease.budget is budget else 0
        found: dict[int, Lease] = {}
        rest = list(lease or ())
        while rest:
            one = rest.pop()
            if isinstance(one, tuple):
                rest += one
            elif one is not None and one.budget is budget:
                found[id(one)] = one
        return sum(one.held for one in found.values())

    def requests(self) -> Iterator[Payload]:
        """The payload, cut at the borders of the requests that it was joined from."""
        requests = Requests(self)
        while requests.left:
            yield requests.take(1)

    @property
    def any_lease(self) -> Lease | None:
        """One of its leases; None where it has none."""
        lease = self.lease
        while isinstance(lease, tuple):
            lease = next((one for one in lease if one), None)
        return lease

    @property
    def request_count(self) -> int:
        """How many requests it was joined from; 1 where it is one."""
        return len(self.sources) or 1

    @staticmethod
    def join(payloads: Sequence[Payload]) -> Payload:
        """One payload of all of them, in order; their chunks are its chunks."""
        if len(payloads) == 1:
            return payloads[0]
        origin = payloads[0].origin
        chunks: list[bytes] = []
        sources: list[Source] = []
        leases: list[Leases] = []
        spans = size = 0
        for payload in payloads:
            chunks += payload.chunks
            spans += payload.spans
            size += payload.size
            if payload.origin is not origin and payload.origin != origin:
                origin = None
            if own := payload.sources:
                sources += own
                leases += payload.leases_of(own)
            else:
                sources.append(Source(payload.spans, payload.size, payload.origin))
                leases.append(payload.lease)
        return Payload(tuple(chunks), spans, size, origin, tuple(sources), tuple(leases))

    def leases_of(self, sources: tuple[Source, ...]) -> tuple[Leases, ...]:
        """What holds each of its requests, which are `sources`."""
        if isinstance(self.lease, tuple) and len(self.lease) == len(sources):
            return self.lease
        return (self.lease,) * len(sources)


class Requests:
    """Takes a payload apart at the borders of its requests, from the front.

    What is taken holds its own requests' leases and no others. `left` requests are there
    yet; all in all that costs as much as there are requests and chunks.
    """

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self._sources = payload.sources or (
            Source(payload.spans, payload.size, payload.origin),
        )
        self._leases = payload.leases_of(self._sources)
        self._ends = list(accumulate(map(len, payload.chunks)))
        self._at = 0  # bytes of the chunks that are taken
        self.taken = 0

    @property
    def left(self) -> int:
        return len(self._sources) - self.taken

    def within(self, max_spans: int, max_bytes: int) -> int:
        """How many of the next requests are within the limits together; at least one."""
        sources, first = self._sources, self.taken
        if first == 0 and self.payload.fits(max_spans, max_bytes):
            return len(sources)
        spans = size = 0
        for index in range(first, len(sources)):
            spans += sources[index].spans
            size += sources[index].size
            over = (max_spans and spans > max_spans) or (max_bytes and size > max_bytes)
            if over:
                return max(1, index - first)
        return len(sources) - first

    def copied(self, count: int) -> int:
        """The bytes that taking the next `count` requests copies."""
        first = self.taken
        size = sum(one.size for one in self._sources[first : first + count])
        chunks = self.payload.chunks
        return sum(
            end - start
            for which, start, end in self._ranges(size)
            if end - start < len(chunks[which])
        )

    def take(self, count: int, copies: Lease | None = None) -> Payload:
        """The next `count` requests as a payload; `copies` holds what has to be copied.

        After a MemoryError nothing is taken.
        """
        payload, first, end = self.payload, self.taken, self.taken + count
        if first == 0 and end == len(self._sources):
            self.taken = end
            return payload
        sources = self._sources[first:end]
        held = self._leases[first:end]
        if copies is not None:
            held = ((held[0], copies), *held[1:])
        origin = sources[0].origin
        if payload.origin is None and any(
            one.origin is not origin and one.origin != origin for one in sources
        ):
            origin = None
        size = sum(one.size for one in sources)
        taken = Payload(
            self._cut(size),
            sum(one.spans for one in sources),
            size,
            origin,
            sources,
            held if count > 1 else held[0],
            payload.wait_until,
        )
        self._at += size
        self.taken = end
        return taken

    def skip(self, count: int) -> None:
        """Leave the next `count` requests out."""
        first, self.taken = self.taken, self.taken + count
        self._at += sum(one.size for one in self._sources[first : first + count])

    def _cut(self, size: int) -> tuple[bytes, ...]:
        """The next `size` bytes, in chunks."""
        chunks = self.payload.chunks
        parts = self._ranges(size)
        if not parts:
            return ()
        first, start, end = parts[0]
        if len(parts) == 1:
            return (chunks[first][start:end],)
        last, _, rest = parts[1]
        head, tail = chunks[first][start:end], chunks[last][:rest]
        return (head, *chunks[first + 1 : last], tail)

    def _ranges(self, size: int) -> list[tuple[int, int, int]]:
        """Where the next `size` bytes begin and end: which chunk, and what of it.

        The chunks in between belong to them whole.
        """
        if not size:
            return []
        chunks, ends = self.payload.chunks, self._ends
        begin, end = self._at, self._at + size
        first, last = bisect_right(ends, begin), bisect_left(ends, end)
        start = begin - ends[first] + len(chunks[first])
        rest = end - ends[last] + len(chunks[last])
        if first == last:
            return [(first, start, rest)]
        return [(first, start, len(chunks[first])), (last, 0, rest)]
