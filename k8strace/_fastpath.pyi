"""Operations on the bytes of OTLP trace requests, in C.

`chunks` is always a tuple of `bytes`, each a run of whole top-level fields of an
ExportTraceServiceRequest (opentelemetry/proto/collector/trace/v1, opentelemetry-proto
1.11). All functions raise `MalformedPayloadError` for bytes that are no such thing, with
the offset, counted over all chunks, of the field that is wrong. Fields that aren't known
are kept byte for byte.
"""

from typing import Literal, NamedTuple, final

from typing_extensions import disjoint_base

from k8strace._threads import Port

BUILD: Literal["release", "debug", "sanitize", "fuzz"]

class Count(NamedTuple):
    """`spans` are valid; the others are spans that must be cut out, by what is wrong."""

    spans: int
    bad_ids: int  # wrong lengths (parent and links too), zero trace and span ids
    bad_text: int  # deep only: a string inside the span that isn't UTF-8
    too_deep: int  # messages nested deeper than protobuf's own parsers take

class Sampled(NamedTuple):
    """What `sample` did. `chunks` is the argument itself where nothing changed.

    kept + sampled_out + rejected is the number of spans. `kept_by` counts all kept spans,
    `out_by` all others, by POLICIES: what the decision was made from. `rejected_by` counts
    the rejected ones by CAUSES.
    """

    chunks: tuple[bytes, ...]
    kept: int
    sampled_out: int
    rejected: int  # undecidable: fail_closed drops them
    kept_by_priority: int  # of `kept`: by sampling.priority
    out_by_priority: int  # of `sampled_out`: by sampling.priority = 0
    kept_by: tuple[int, int, int, int, int]
    out_by: tuple[int, int, int, int, int]
    rejected_by: tuple[int, int, int, int]

# trace_id_hash, trace_id_w3c, sampling_randomness, sampling_priority, missing_randomness
POLICIES: tuple[str, ...]

# no_trace_id, bad_tracestate, sampled_before, wrong_threshold
CAUSES: tuple[str, ...]

AT_ONCE: int
"""Bytes that a `Work` does at once; what is longer is for a thread."""

HASH_SEED: int
PROPORTIONAL: int
EQUALIZING: int

@disjoint_base
class Work:
    """Something that is done to bytes in steps: `run` until it `is_done`.

    A step goes through half a MiB or so, or through a chunk that is longer: then it
    `is_large`, and for a thread to do. After that `settle` is called, as `run` does itself;
    they raise MalformedPayloadError. A step makes no more output than `need` said before
    it: where that has grown, more is to be reserved before the next.
    """

    @property
    def is_done(self) -> bool: ...
    @property
    def is_large(self) -> bool: ...
    @property
    def need(self) -> int:
        """Bytes that the output takes, in all, when the next step is done."""

    @property
    def size(self) -> int:
        """Bytes of the output that is there."""

    def run(self) -> None: ...
    def submit(self, port: Port, token: object) -> None:
        """Have a thread do the next step; see `threads.run`."""

    def settle(self) -> None: ...

@final
class Counting(Work):
    """`count` in steps; `resources` are the ResourceSpans, with spans or without."""

    def __new__(cls, chunks: tuple[bytes, ...], deep: bool = False) -> Counting: ...
    @property
    def resources(self) -> int: ...
    def take(self) -> Count: ...

@disjoint_base
class Filtering(Work):
    """Leaves spans out, or changes them.

    Chunks in which nothing changes are not copied, nor part of `size`.
    """

    @property
    def has_changed(self) -> bool:
        """Whether anything has changed so far."""

    @property
    def kept(self) -> int:
        """Bytes of the chunks in which nothing has changed."""

@final
class Cleaning(Filtering):
    """Keeps the spans that `count` finds valid; gives chunks and their number."""

    def __init__(self, chunks: tuple[bytes, ...], deep: bool = False) -> None: ...
    @property
    def first_lost(self) -> int:
        """The number of the first span that isn't kept, counted from 0."""

    def take(self) -> tuple[tuple[bytes, ...], int]: ...

@final
class Keeping(Filtering):
    """`keep` in steps."""

    def __init__(self, chunks: tuple[bytes, ...], verdicts: bytes) -> None: ...
    def take(self) -> tuple[tuple[bytes, ...], int]: ...

@final
class Sampling(Filtering):
    """`sample` in steps."""

    def __init__(
        self,
        chunks: tuple[bytes, ...],
        mode: int,
        percentage: float,
        hash_seed: int,
        precision: int,
        fail_closed: bool,
    ) -> None: ...
    def take(self) -> Sampled: ...

@final
class Cutting(Work):
    """`split` piece by piece, each in two steps: find it, write it.

    It holds nothing for a span. `spans` and `size` are those of the piece that was found
    or written last, and `need` is its size and that of the resource and scope that it is
    in, of which a copy is kept. Bytes within a span are not looked at.
    """

    def __new__(
        cls, chunks: tuple[bytes, ...], max_spans: int = 0, max_bytes: int = 0
    ) -> Cutting: ...
    @property
    def has_found(self) -> bool:
        """Whether a piece is found, and not written yet."""

    @property
    def spans(self) -> int: ...
    def take(self) -> bytes:
        """The piece that was written."""

def count(chunks: tuple[bytes, ...], deep: bool = False) -> Count:
    """Check the structure down to every span and its ids; `deep` down to every leaf.

    `deep` takes in what protobuf's own parser does, but for a field number 0 inside an
    unknown group, which others refuse. Text of a resource or scope that isn't UTF-8 is an
    error, in a span it is counted. What `count` takes in, all other functions take in.
    """

def valid(chunks: tuple[bytes, ...], deep: bool = False) -> bytes:
    """One byte a span, in order: 1 where `count` finds it valid."""

def keep(chunks: tuple[bytes, ...], verdicts: bytes) -> tuple[tuple[bytes, ...], int]:
    """The chunks with only the spans whose byte in `verdicts` isn't 0, and their number.

    Scopes and resources that lose all of theirs go, too. Raises ValueError when `verdicts`
    has not one byte for each span. Chunks in which nothing was cut are the same objects.
    """

def sample(
    chunks: tuple[bytes, ...],
    mode: int,
    percentage: float,
    hash_seed: int,
    precision: int,
    fail_closed: bool,
) -> Sampled:
    """Keep `percentage` of the traces, and say so in each kept span's tracestate.

    Decides and writes as the collector's probabilistic_sampler does. `mode` is HASH_SEED,
    PROPORTIONAL or EQUALIZING; `percentage` is rounded to 32 bits, 0 keeps nothing, 100
    and more everything; `hash_seed` is of 32 bits; `precision` is the number of hex
    digits of a threshold, 1 to 14. Raises ValueError for arguments outside of that.
    """

def split(
    chunks: tuple[bytes, ...], max_spans: int = 0, max_bytes: int = 0
) -> list[tuple[tuple[bytes, ...], int, int]]:
    """Pieces as (chunks, spans, bytes), each within the limits (0: none), in order.

    All at once: what a sender made is cut by `Cutting`, piece by piece.

    Resource and scope are repeated where a piece begins inside one. A span that is over
    `max_bytes` with its resource and scope makes a piece of its own. Where resources are
    so large that the pieces come to more than 8 times the request and 64 MiB, the rest
    is one piece, whatever its size.
    """

def group_by_trace(
    chunks: tuple[bytes, ...],
) -> list[tuple[bytes, tuple[bytes, ...], int]]:
    """(trace id, chunks, spans) for each trace, in order of first appearance.

    Raises MalformedPayloadError for a trace id that isn't of 16 bytes, and where resources
    are so large that the traces come to more than 8 times the request and 64 MiB.
    """

def fields(chunks: tuple[bytes, ...], *names: str) -> tuple[list[object], ...]:
    """A column for each name, a row for each span.

    Names: trace_id, span_id, parent_span_id, trace_state, name (bytes as they stand),
    kind, start, end, status, flags (int), service (bytes: the resource's service.name).
    Raises ValueError for another name.
    """
