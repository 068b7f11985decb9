"""Operations on the bytes of OTLP trace requests; `_fastpath.pyi` says what they promise.

The rules of the C below (_wire, _otlp, _sampling, _index, _pieces):
1. It is `noexcept nogil` and returns a `Code`; `_raise` raises, here at the border.
2. There is one reader, `walk_chunk`, and one writer, `write_piece`.
3. Whatever `count` takes in, all the others take in.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from k8strace._columns cimport SpanValues, read_service, read_values
from k8strace._index cimport (
    COUNT, INDEX, KEEP, SAMPLE, VERDICTS, Array, Gap, Index, Node, Purpose, Walk, clear,
    free_index, node, span_entry, walk_chunk,
)
from k8strace._otlp cimport REQUEST_LEVEL, RESOURCE_LEVEL, TRACE_ID_SIZE
from k8strace._pieces cimport (
    Group, Piece, end_of_piece, group_spans, measure_piece, node_of, order_by_group,
    write_piece,
)
from k8strace._sampling cimport (
    CAUSE_COUNT, MODE_EQUALIZING, MODE_HASH_SEED, MODE_PROPORTIONAL, POLICY_COUNT,
    start_sampler,
)
from k8strace._tracestate cimport DIGITS
from k8strace._wire cimport (
    BAD_FIELD_NUMBER, BAD_TEXT, BAD_TRACE_ID, BAD_WIRE_TYPE, LONG_LENGTH, LONG_VARINT,
    MAX_CHUNK, MAX_DEPTH, NO_MEMORY, OK, TOO_BIG, TOO_DEEP, TRUNCATED, UNMATCHED_GROUP,
    Bytes, Code, Field,
)

import os
from collections import namedtuple

from k8strace.errors import MalformedPayloadError

cdef extern from *:
    """
    #ifndef K8STRACE_BUILD
    #define K8STRACE_BUILD "release"
    #endif
    """
    const char *K8STRACE_BUILD

BUILD = (<bytes>K8STRACE_BUILD).decode()

Count = namedtuple("Count", "spans bad_ids bad_text")
Sampled = namedtuple(
    "Sampled",
    "chunks kept sampled_out rejected kept_by_priority out_by_priority kept_by out_by "
    "rejected_by",
)
# What a namedtuple's own __new__ does, in a third of the time.
cdef object _record = tuple.__new__

POLICIES = (
    "trace_id_hash",
    "trace_id_w3c",
    "sampling_randomness",
    "sampling_priority",
    "missing_randomness",
)
CAUSES = ("no_trace_id", "bad_tracestate", "sampled_before", "wrong_threshold")
HASH_SEED = <int>MODE_HASH_SEED
PROPORTIONAL = <int>MODE_PROPORTIONAL
EQUALIZING = <int>MODE_EQUALIZING

cdef enum:
    NOGIL_FROM = 32 * 1024  # bytes; below, letting go of the GIL costs more than it gives
    GROWTH = 8  # times the request may grow when it is taken apart, and always by
    GROWTH_ALWAYS = 64 * 1024 * 1024

cdef uint64_t[2] _hash_key
memcpy(_hash_key, PyBytes_AS_STRING(os.urandom(16)), 16)


cdef class _Reader:
    """A walk and its index, which live as long as the chunks that they point into."""

    cdef Walk walk
    cdef Index index
    cdef tuple chunks
    cdef uint64_t size  # of the chunks that were read
    cdef Py_ssize_t chunk  # `taken`: where to go on
    cdef uint64_t gap

    def __cinit__(self, tuple chunks):
        self.chunks = chunks
        self.walk.index = &self.index

    def __dealloc__(self):
        free_index(&self.index)
        free(self.walk.found.items)

    cdef int read(self, Purpose purpose) except -1:
        """Walk over all chunks."""
        self.walk.purpose = purpose
        for i in range(len(self.chunks)):
            self.read_chunk(i)
        return 0

    cdef int read_chunk(self, Py_ssize_t i) except -1:
        cdef bytes chunk = _chunk(self.chunks, i)
        cdef Code code = _walk(&self.walk, chunk)
        if code != OK:
            _raise(code, self.size + <uint64_t>(self.walk.fault - _start(chunk)))
        self.size += <uint64_t>PyBytes_GET_SIZE(chunk)
        return 0

    cdef bytes written(self, Piece *piece):
        cdef uint64_t size = measure_piece(&self.index, piece)
        cdef bytes made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(made)
        if size < NOGIL_FROM:
            write_piece(&self.index, piece, to)
        else:
            with nogil:
                write_piece(&self.index, piece, to)
        return made

    cdef tuple filtered(self, Purpose purpose):
        """The chunks with those spans alone that get into the index."""
        cdef list kept = []
        cdef bint changed = False
        cdef uint64_t before
        cdef Piece piece
        cdef bytes made
        memset(&piece, 0, sizeof(piece))
        self.walk.purpose = purpose
        for i in range(len(self.chunks)):
            clear(&self.index)
            before = self.walk.spans
            self.read_chunk(i)
            if self.walk.spans - before == self.index.spans.count:
                if not self.index.texts.count:
                    kept.append(self.chunks[i])
                    continue
            changed = True
            piece.count = self.index.spans.count
            piece.end_gap = self.index.gaps[<int>REQUEST_LEVEL].count
            made = self.written(&piece)
            if made:
                kept.append(made)
        return tuple(kept) if changed else self.chunks

    cdef list taken(self, uint64_t first, uint64_t end):
        """The spans from `first` to `end`, which follow those taken before.

        What stands between resources goes with the resource that comes next, or the last.
        """
        cdef list parts = []
        cdef Array *gaps = &self.index.gaps[<int>REQUEST_LEVEL]
        cdef Node *chunk
        cdef Piece piece
        cdef bytes made
        memset(&piece, 0, sizeof(piece))
        piece.first = first
        while self.chunk < len(self.chunks):
            chunk = node(&self.index, REQUEST_LEVEL, self.chunk)
            piece.count = min(end, <uint64_t>chunk.end_span) - piece.first
            piece.first_gap = self.gap
            if end >= chunk.end_span:
                self.gap = chunk.end_gap
            else:
                last = node_of(&self.index, RESOURCE_LEVEL, end - 1)
                while self.gap < chunk.end_gap:
                    if (<Gap *>gaps.items)[self.gap].before > last:
                        break
                    self.gap += 1
            piece.end_gap = self.gap
            made = self.chunks[self.chunk]
            if chunk.cut or piece.first != chunk.first_span or end < chunk.end_span:
                made = self.written(&piece)
            if made:
                parts.append(made)
            if end < chunk.end_span:
                break
            piece.first += piece.count
            self.chunk += 1
            if end == chunk.end_span and end < self.index.spans.count:
                break
        return parts

    cdef uint64_t growth(self) noexcept:
        """What all pieces together may take, since each repeats resources and scopes."""
        return GROWTH * self.size + GROWTH_ALWAYS

    cdef int fail(self, Code code, uint64_t span) except -1:
        """Raise an error about a span of the index."""
        cdef Bytes place = span_entry(&self.index, span).start
        cdef uint64_t resource = node_of(&self.index, RESOURCE_LEVEL, span)
        cdef uint64_t at = node(&self.index, RESOURCE_LEVEL, resource).parent
        cdef uint64_t offset = <uint64_t>(place - _start(self.chunks[at]))
        _raise(code, offset + sum([len(chunk) for chunk in self.chunks[:at]]))


cdef inline Bytes _start(bytes chunk) noexcept:
    return <Bytes>PyBytes_AS_STRING(chunk)


cdef inline bytes _chunk(tuple chunks, Py_ssize_t i):
    chunk = chunks[i]
    if type(chunk) is not bytes:
        raise TypeError(f"chunks must be bytes, not {type(chunk).__name__}")
    return <bytes>chunk


cdef Code _walk(Walk *walk, bytes chunk) noexcept:
    cdef Bytes start = _start(chunk)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(chunk)
    cdef Code code
    walk.fault = start
    if size > MAX_CHUNK:
        return LONG_LENGTH
    if size < NOGIL_FROM:
        return walk_chunk(walk, start, start + size)
    with nogil:
        code = walk_chunk(walk, start, start + size)
    return code


_REASONS = {
    <int>TRUNCATED: "a field that ends behind the bytes it is in",
    <int>LONG_VARINT: "a varint that is too long",
    <int>BAD_FIELD_NUMBER: "a field number that is 0 or too large",
    <int>BAD_WIRE_TYPE: "a wire type that doesn't exist",
    <int>LONG_LENGTH: "a length of 2 GiB or more",
    <int>UNMATCHED_GROUP: "the end of a group that wasn't open",
    <int>TOO_DEEP: f"messages nested deeper than {<int>MAX_DEPTH}",
    <int>BAD_TEXT: "text that isn't UTF-8",
    <int>BAD_TRACE_ID: "a trace id that isn't of 16 bytes",
    <int>TOO_BIG: "resources and scopes too large to be repeated in each piece",
}


cdef int _raise(Code code, object offset) except -1:
    if code == NO_MEMORY:
        raise MemoryError
    raise MalformedPayloadError(_REASONS[<int>code], offset)


def count(tuple chunks not None, bint deep=False):
    cdef Walk walk
    cdef Code code
    cdef bytes chunk
    cdef uint64_t offset = 0
    memset(&walk, 0, sizeof(walk))
    walk.purpose = COUNT
    walk.deep = deep
    for i in range(len(chunks)):
        chunk = _chunk(chunks, i)
        code = _walk(&walk, chunk)
        if code != OK:
            _raise(code, offset + <uint64_t>(walk.fault - _start(chunk)))
        offset += <uint64_t>PyBytes_GET_SIZE(chunk)
    return _record(Count, (walk.spans, walk.bad_ids, walk.bad_text))


def valid(tuple chunks not None, bint deep=False):
    cdef _Reader reader = _Reader(chunks)
    reader.walk.index = NULL
    reader.walk.deep = deep
    reader.read(VERDICTS)
    return PyBytes_FromStringAndSize(
        <char *>reader.walk.found.items, <Py_ssize_t>reader.walk.found.count
    )


def keep(tuple chunks not None, bytes verdicts not None):
    cdef _Reader reader = _Reader(chunks)
    cdef uint64_t kept = 0
    reader.walk.verdicts = _start(verdicts)
    reader.walk.verdict_count = <uint64_t>PyBytes_GET_SIZE(verdicts)
    made = reader.filtered(KEEP)
    if reader.walk.spans != reader.walk.verdict_count:
        raise ValueError(
            f"{reader.walk.verdict_count} verdicts for {reader.walk.spans} spans"
        )
    for i in range(PyBytes_GET_SIZE(verdicts)):
        kept += reader.walk.verdicts[i] != 0
    return made, kept


def sample(
    tuple chunks not None,
    int mode,
    double percentage,
    uint32_t hash_seed,
    int precision,
    bint fail_closed,
):
    cdef _Reader reader = _Reader(chunks)
    cdef Walk *walk = &reader.walk
    cdef uint64_t kept = 0
    cdef uint64_t rejected = 0
    cdef int policy
    cdef int cause
    if mode not in (MODE_HASH_SEED, MODE_PROPORTIONAL, MODE_EQUALIZING):
        raise ValueError(f"no sampling mode: {mode}")
    if not percentage >= 0.0:
        raise ValueError(f"percentage must not be negative: {percentage}")
    if not 1 <= precision <= DIGITS:
        raise ValueError(f"precision must be 1 to {<int>DIGITS}: {precision}")
    start_sampler(&walk.sampler, mode, percentage, hash_seed, precision, fail_closed)
    made = reader.filtered(SAMPLE)
    for policy in range(POLICY_COUNT):
        kept += walk.kept_by[policy]
    for cause in range(CAUSE_COUNT):
        rejected += walk.rejected[cause]
    return _record(
        Sampled,
        (
            made,
            kept,
            walk.spans - kept - rejected,
            rejected,
            walk.kept_by_priority,
            walk.out_by_priority,
            tuple([walk.kept_by[policy] for policy in range(POLICY_COUNT)]),
            tuple([walk.out_by[policy] for policy in range(POLICY_COUNT)]),
            tuple([walk.rejected[cause] for cause in range(CAUSE_COUNT)]),
        ),
    )


def split(tuple chunks not None, uint64_t max_spans=0, uint64_t max_bytes=0):
    cdef _Reader reader = _Reader(chunks)
    cdef uint64_t first = 0
    cdef uint64_t end
    cdef uint64_t size
    cdef uint64_t total = 0
    cdef list pieces = []
    cdef list parts
    reader.read(INDEX)
    if (not max_spans or reader.index.spans.count <= max_spans) and (
        not max_bytes or reader.size <= max_bytes
    ):
        return [(chunks, reader.index.spans.count, reader.size)]
    while not pieces or first < reader.index.spans.count:
        end = reader.index.spans.count
        if total <= reader.growth():
            end = end_of_piece(&reader.index, first, reader.gap, max_spans, max_bytes)
        parts = reader.taken(first, end)
        size = sum([len(part) for part in parts])
        total += size
        pieces.append((tuple(parts), end - first, size))
        first = end
    return pieces


def group_by_trace(tuple chunks not None):
    cdef _Reader reader = _Reader(chunks)
    cdef Array groups
    cdef uint32_t *numbers = NULL
    cdef uint32_t *slots = NULL
    cdef uint64_t room = 1
    cdef uint64_t count
    cdef uint64_t first = 0
    cdef Code code
    reader.read(INDEX)
    count = reader.index.spans.count
    if not count:
        return []
    while room < 2 * count:
        room *= 2
    memset(&groups, 0, sizeof(groups))
    numbers = <uint32_t *>malloc(2 * count * sizeof(uint32_t))
    slots = <uint32_t *>calloc(room, sizeof(uint32_t))
    try:
        if numbers == NULL or slots == NULL:
            raise MemoryError
        with nogil:
            code = group_spans(
                &reader.index, numbers, slots, room - 1, _hash_key, &groups
            )
        if code == BAD_TRACE_ID:
            while span_entry(&reader.index, first).trace_id != NULL:
                first += 1
        if code != OK:
            reader.fail(code, first)
        if groups.count == 1:
            return [(_trace_id(groups.items), chunks, count)]
        order_by_group(numbers, numbers + count, count, &groups)
        return _groups(reader, numbers + count, &groups)
    finally:
        free(numbers)
        free(slots)
        free(groups.items)


cdef list _groups(_Reader reader, const uint32_t *order, Array *groups):
    """Write the traces; what stands between resources goes with the first."""
    cdef Group *one = <Group *>groups.items
    cdef list made = []
    cdef Piece piece
    cdef bytes chunk
    cdef uint64_t at = 0
    cdef uint64_t total = 0
    cdef uint64_t i
    memset(&piece, 0, sizeof(piece))
    piece.end_gap = reader.index.gaps[<int>REQUEST_LEVEL].count
    for i in range(groups.count):
        piece.picked = order + at
        piece.count = one[i].count - at
        chunk = reader.written(&piece)
        total += <uint64_t>PyBytes_GET_SIZE(chunk)
        if total > reader.growth():
            reader.fail(TOO_BIG, order[at])
        made.append((_trace_id(&one[i]), (chunk,), piece.count))
        at = one[i].count
        piece.first_gap = piece.end_gap
    return made


cdef inline bytes _trace_id(void *group):
    return PyBytes_FromStringAndSize(
        <const char *>(<Group *>group).trace_id, TRACE_ID_SIZE
    )


# Columns

cdef enum Column:
    TRACE_ID_COLUMN
    SPAN_ID_COLUMN
    PARENT_ID_COLUMN
    TRACE_STATE_COLUMN
    NAME_COLUMN
    KIND_COLUMN
    START_COLUMN
    END_COLUMN
    STATUS_COLUMN
    FLAGS_COLUMN
    SERVICE_COLUMN

# In the order of Column.
_NAMES = (
    "trace_id", "span_id", "parent_span_id", "trace_state", "name", "kind", "start", "end",
    "status", "flags", "service",
)
_COLUMNS = {name: column for column, name in enumerate(_NAMES)}


cdef inline bytes _bytes(Field *f):
    return PyBytes_FromStringAndSize(<const char *>f.body, f.end - f.body)


cdef object _value(SpanValues *v, Column column):
    if column == TRACE_ID_COLUMN:
        return _bytes(&v.trace_id)
    if column == SPAN_ID_COLUMN:
        return _bytes(&v.span_id)
    if column == PARENT_ID_COLUMN:
        return _bytes(&v.parent_id)
    if column == TRACE_STATE_COLUMN:
        return _bytes(&v.trace_state)
    if column == NAME_COLUMN:
        return _bytes(&v.name)
    if column == KIND_COLUMN:
        return v.kind
    if column == START_COLUMN:
        return v.start
    if column == END_COLUMN:
        return v.end
    if column == STATUS_COLUMN:
        return v.status
    return v.flags


def fields(tuple chunks not None, *names):
    cdef _Reader reader = _Reader(chunks)
    cdef Index *index = &reader.index
    cdef SpanValues values
    cdef Field name
    cdef uint64_t i
    cdef uint64_t resource
    cdef uint64_t before = UINT32_MAX
    cdef Column column
    cdef list columns = [[] for _ in names]
    cdef list wanted = []
    cdef bytes service = b""
    for wish in names:
        if wish not in _COLUMNS:
            raise ValueError(f"no field {wish!r}; there are {', '.join(_COLUMNS)}")
        wanted.append(_COLUMNS[wish])
    reader.read(INDEX)
    for i in range(index.spans.count):
        read_values(span_entry(index, i), &values)
        resource = node_of(index, RESOURCE_LEVEL, i)
        if resource != before and SERVICE_COLUMN in wanted:
            before = resource
            read_service(index, node(index, RESOURCE_LEVEL, resource), &name)
            service = _bytes(&name)
        for k in range(len(wanted)):
            column = <Column><int>wanted[k]
            (<list>columns[k]).append(
                service if column == SERVICE_COLUMN else _value(&values, column)
            )
    return tuple(columns)
