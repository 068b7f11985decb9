"""Operations on the bytes of OTLP trace requests; `_fastpath.pyi` says what they promise.

The rules of the C below (_wire, _otlp, _sampling, _index, _pieces, _filter, _cut):
1. It is `noexcept nogil` and returns a `Code`; `_raise` raises, here at the border.
2. Whatever `count` takes in, all the others take in.
3. What a sender makes long is a `Work`, which can be done in steps and on a C thread. It
   takes no memory but its output, and that only as far as the caller has reserved it.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize,
)
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from k8strace._columns cimport SpanValues, read_service, read_values
from k8strace._cut cimport Cut, advance, free_heads, heads_size, open_chunk
from k8strace._filter cimport (
    CHOSEN, SAMPLED, VALID, Counts, Filter, filter_chunk, position, start_chunk,
)
from k8strace._index cimport (
    COUNT, INDEX, VERDICTS, Array, Index, Purpose, Walk, free_index, node, span_entry,
    walk_chunk,
)
from k8strace._otlp cimport REQUEST_LEVEL, RESOURCE_LEVEL, TRACE_ID_SIZE
from k8strace._pieces cimport (
    Group, Out, Piece, group_spans, measure_piece, node_of, order_by_group, write_piece,
)
from k8strace._sampling cimport (
    CAUSE_COUNT, MODE_EQUALIZING, MODE_HASH_SEED, MODE_PROPORTIONAL, POLICY_COUNT,
    start_sampler,
)
from k8strace._task cimport Task, run_task
from k8strace._threads cimport Port
from k8strace._tracestate cimport DIGITS
from k8strace._wire cimport (
    BAD_FIELD_NUMBER, BAD_TEXT, BAD_TRACE_ID, BAD_WIRE_TYPE, LONG_LENGTH, LONG_VARINT,
    MAX_CHUNK, MAX_DEPTH, NO_MEMORY, OK, TOO_BIG, TOO_DEEP, TRUNCATED, UNMATCHED_GROUP,
    Bytes, Code, Cursor, Field,
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

Count = namedtuple("Count", "spans bad_ids bad_text too_deep")
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
AT_ONCE = <int>LONG
HASH_SEED = <int>MODE_HASH_SEED
PROPORTIONAL = <int>MODE_PROPORTIONAL
EQUALIZING = <int>MODE_EQUALIZING

cdef enum:
    NOGIL_FROM = 32 * 1024  # bytes; below, letting go of the GIL costs more than it gives
    LONG = 512 * 1024  # bytes; what is longer is done on a thread, or in steps of as much
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

    cdef int fail(self, Code code, uint64_t span) except -1:
        """Raise an error about a span of the index."""
        cdef Bytes place = span_entry(&self.index, span).start
        cdef uint64_t resource = node_of(&self.index, RESOURCE_LEVEL, span)
        cdef uint64_t at = node(&self.index, RESOURCE_LEVEL, resource).parent
        cdef uint64_t offset = <uint64_t>(place - _start(self.chunks[at]))
        _raise(code, offset + sum([len(chunk) for chunk in self.chunks[:at]]))


cdef inline uint64_t growth_of(uint64_t size) noexcept:
    """What all pieces of a request together may take, as each repeats resources."""
    return GROWTH * size + GROWTH_ALWAYS


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
    return _counted(&walk)


cdef object _counted(Walk *walk):
    return _record(Count, (walk.spans, walk.bad_ids, walk.bad_text, walk.too_deep))


def valid(tuple chunks not None, bint deep=False):
    cdef _Reader reader = _Reader(chunks)
    reader.walk.index = NULL
    reader.walk.deep = deep
    reader.read(VERDICTS)
    return PyBytes_FromStringAndSize(
        <char *>reader.walk.found.items, <Py_ssize_t>reader.walk.found.count
    )


# Work in steps

cdef class Work:
    """Steps over chunks, one at a time or, if they are small, some of them."""

    cdef Task task
    cdef tuple chunks
    cdef Py_ssize_t next  # the chunk that comes next, or is worked on
    cdef uint64_t offset  # of that chunk
    cdef bint is_going
    cdef readonly uint64_t size  # of the output
    cdef PyObject *out  # bytes that nobody else has yet
    cdef uint64_t room
    cdef readonly bint is_done

    def __dealloc__(self):
        Py_XDECREF(self.out)

    @property
    def is_large(self):
        return not self.is_done and self.step_size() > LONG

    @property
    def need(self):
        return self.size + max(self.room, self.wanted())

    def run(self):
        cdef uint64_t done = 0
        cdef uint64_t size
        while not self.is_done and done < LONG:
            size = self.step_size()
            self.prepare()
            if size < NOGIL_FROM:
                self.task.code = self.task.go(self.task.state)
            else:
                with nogil:
                    self.task.code = self.task.go(self.task.state)
            self.settle()
            if self.wanted() > self.room:
                return
            done += size

    def submit(self, Port port not None, token):
        self.prepare()
        self.task.job.work = run_task
        port.submit(&self.task.job, self, token)

    cpdef settle(self):
        raise NotImplementedError

    cdef uint64_t step_size(self) noexcept:
        return <uint64_t>PyBytes_GET_SIZE(self.chunks[self.next])

    cdef uint64_t wanted(self) noexcept:
        return 0

    cdef int prepare(self) except -1:
        raise NotImplementedError

    cdef int grow(self, uint64_t room) except -1:
        """Have room for as much in the output, whose bytes so far stay."""
        if room <= self.room:
            return 0
        if self.out == NULL:
            made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>room)
            self.out = <PyObject *>made
            Py_INCREF(made)
        else:
            _PyBytes_Resize(&self.out, <Py_ssize_t>room)
        self.room = room
        return 0

    cdef bytes taken(self, uint64_t size):
        """The first `size` bytes of the output, which is empty again."""
        cdef PyObject *out = self.out
        cdef bint is_small = size < self.room // 2 and size < LONG
        self.out = NULL
        self.room = 0
        if out == NULL:
            return b""
        if is_small:
            made = PyBytes_FromStringAndSize(
                PyBytes_AS_STRING(<object>out), <Py_ssize_t>size
            )
        else:
            _PyBytes_Resize(&out, <Py_ssize_t>size)
            made = <bytes>out
        Py_XDECREF(out)
        return made

    cdef inline uint8_t *output(self) noexcept:
        return NULL if self.out == NULL else <uint8_t *>PyBytes_AS_STRING(<object>self.out)

    cdef int check(self, Bytes fault) except -1:
        """Raise what went wrong in the step, at `fault`."""
        cdef Code code = self.task.code
        if code != OK:
            self.is_done = True
            _raise(code, self.offset + <uint64_t>(fault - _start(self.chunks[self.next])))
        return 0

    cdef int next_chunk(self) except -1:
        self.offset += <uint64_t>PyBytes_GET_SIZE(self.chunks[self.next])
        self.next += 1
        self.is_done = self.next == len(self.chunks)
        return 0


cdef struct CountState:
    Walk walk
    Cursor chunk


@cython.final
cdef class Counting(Work):
    cdef CountState state

    def __cinit__(self, tuple chunks not None, bint deep=False):
        self.chunks = chunks
        self.is_done = not chunks
        self.state.walk.purpose = COUNT
        self.state.walk.deep = deep
        self.task.go = count_chunk
        self.task.state = &self.state

    cdef int prepare(self) except -1:
        cdef bytes chunk = _chunk(self.chunks, self.next)
        self.state.chunk.at = _start(chunk)
        self.state.chunk.end = self.state.chunk.at + PyBytes_GET_SIZE(chunk)
        self.state.walk.fault = self.state.chunk.at
        return 0

    cpdef settle(self):
        self.check(self.state.walk.fault)
        self.next_chunk()

    @property
    def resources(self):
        return self.state.walk.resources

    def take(self):
        return _counted(&self.state.walk)


cdef Code count_chunk(void *state) noexcept nogil:
    cdef CountState *s = <CountState *>state
    if s.chunk.end - s.chunk.at > MAX_CHUNK:
        return LONG_LENGTH
    return walk_chunk(&s.walk, s.chunk.at, s.chunk.end)


cdef class Filtering(Work):
    cdef Filter state
    cdef readonly bint has_changed
    cdef readonly uint64_t kept  # bytes of chunks that stay as they are
    cdef list made

    def __cinit__(self, tuple chunks not None, *arguments):
        self.chunks = chunks
        self.is_done = not chunks
        self.made = []
        self.task.go = go_on_filtering
        self.task.state = &self.state

    cdef uint64_t wanted(self) noexcept:
        cdef Filter *f = &self.state
        cdef uint64_t left
        if not self.is_going or f.wanted <= f.room:
            return 0
        # What is yet to be read gives about as much again.
        left = <uint64_t>(f.open[0].left.end - f.open[f.level].left.at)
        return max(f.wanted, position(f) + left + left // 16) + 1024

    cdef int prepare(self) except -1:
        cdef bytes chunk = _chunk(self.chunks, self.next)
        cdef uint64_t wanted = self.wanted()
        if not self.is_going:
            if PyBytes_GET_SIZE(chunk) > MAX_CHUNK:
                _raise(LONG_LENGTH, self.offset)
            start_chunk(
                &self.state, _start(chunk), _start(chunk) + PyBytes_GET_SIZE(chunk)
            )
            self.is_going = True
        elif wanted:
            self.grow(wanted)
            self.state.out = self.output()
            self.state.room = self.room
        return 0

    cpdef settle(self):
        cdef Filter *f = &self.state
        self.check(f.fault)
        if f.wanted > f.room:
            return
        self.is_going = False
        if f.open[0].is_changed:
            self.has_changed = True
            made = self.taken(f.written)
        else:
            made = self.chunks[self.next]
            self.kept += <uint64_t>PyBytes_GET_SIZE(made)
        if made:
            self.made.append(made)
            if f.open[0].is_changed:
                self.size += f.written
        self.next_chunk()

    cdef tuple result(self):
        """The chunks; the same object where nothing changed."""
        if not self.is_done:
            raise ValueError("the output is not here")
        return tuple(self.made) if self.has_changed else self.chunks


cdef Code go_on_filtering(void *state) noexcept nogil:
    return filter_chunk(<Filter *>state)


@cython.final
cdef class Cleaning(Filtering):
    def __init__(self, tuple chunks not None, bint deep=False):
        self.state.choice = VALID
        self.state.check.purpose = COUNT
        self.state.check.deep = deep

    @property
    def first_lost(self):
        return self.state.counts.first_lost

    def take(self):
        return self.result(), self.state.counts.kept


@cython.final
cdef class Keeping(Filtering):
    cdef bytes verdicts

    def __init__(self, tuple chunks not None, bytes verdicts not None):
        self.verdicts = verdicts
        self.state.choice = CHOSEN
        self.state.verdicts = _start(verdicts)
        self.state.verdict_count = <uint64_t>PyBytes_GET_SIZE(verdicts)

    def take(self):
        made = self.result()
        if self.state.counts.spans != self.state.verdict_count:
            raise ValueError(
                f"{self.state.verdict_count} verdicts for {self.state.counts.spans} spans"
            )
        return made, self.state.counts.kept


@cython.final
cdef class Sampling(Filtering):
    def __init__(
        self,
        tuple chunks not None,
        int mode,
        double percentage,
        uint32_t hash_seed,
        int precision,
        bint fail_closed,
    ):
        if mode not in (MODE_HASH_SEED, MODE_PROPORTIONAL, MODE_EQUALIZING):
            raise ValueError(f"no sampling mode: {mode}")
        if not percentage >= 0.0:
            raise ValueError(f"percentage must not be negative: {percentage}")
        if not 1 <= precision <= DIGITS:
            raise ValueError(f"precision must be 1 to {<int>DIGITS}: {precision}")
        self.state.choice = SAMPLED
        start_sampler(
            &self.state.sampler, mode, percentage, hash_seed, precision, fail_closed
        )

    def take(self):
        cdef Counts *n = &self.state.counts
        causes = tuple([n.rejected[cause] for cause in range(CAUSE_COUNT)])
        rejected = sum(causes)
        return _record(
            Sampled,
            (
                self.result(),
                n.kept,
                n.spans - n.kept - rejected,
                rejected,
                n.kept_by_priority,
                n.out_by_priority,
                tuple([n.kept_by[policy] for policy in range(POLICY_COUNT)]),
                tuple([n.out_by[policy] for policy in range(POLICY_COUNT)]),
                causes,
            ),
        )


def keep(tuple chunks not None, bytes verdicts not None):
    return _all_of(Keeping(chunks, verdicts))


def sample(
    tuple chunks not None,
    int mode,
    double percentage,
    uint32_t hash_seed,
    int precision,
    bint fail_closed,
):
    return _all_of(Sampling(chunks, mode, percentage, hash_seed, precision, fail_closed))


cdef _all_of(Work work):
    while not work.is_done:
        work.run()
    return work.take()


cdef struct CutState:
    Cut cut
    uint8_t *out
    bint is_writing


@cython.final
cdef class Cutting(Work):
    cdef CutState state
    cdef Cursor *places
    cdef uint64_t total
    cdef uint64_t written
    cdef readonly uint64_t spans
    cdef readonly bint has_found

    def __cinit__(self, tuple chunks not None, uint64_t max_spans=0, uint64_t max_bytes=0):
        cdef Cut *c = &self.state.cut
        cdef bytes chunk
        self.chunks = chunks
        self.places = <Cursor *>calloc(len(chunks) + 1, sizeof(Cursor))
        if self.places == NULL:
            raise MemoryError
        for i in range(len(chunks)):
            chunk = _chunk(chunks, i)
            if PyBytes_GET_SIZE(chunk) > MAX_CHUNK:
                _raise(LONG_LENGTH, self.total)
            self.places[i].at = _start(chunk)
            self.places[i].end = self.places[i].at + PyBytes_GET_SIZE(chunk)
            self.total += <uint64_t>PyBytes_GET_SIZE(chunk)
        c.chunks = self.places
        c.count = <uint64_t>len(chunks)
        c.max_spans = max_spans
        c.max_bytes = max_bytes
        open_chunk(c, &c.begin, 0)
        self.is_done = not chunks
        self.task.go = go_on_cutting
        self.task.state = &self.state

    def __dealloc__(self):
        free_heads(&self.state.cut)
        free(self.places)

    def run(self):
        self.prepare()
        with nogil:
            self.task.code = go_on_cutting(&self.state)
        self.settle()

    cpdef settle(self):
        cdef Cut *c = &self.state.cut
        if self.task.code != OK:
            self.is_done = self.task.code != NO_MEMORY  # then it can be tried again
            self.fail()
        if self.state.is_writing:
            c.begin = c.end
            self.is_done = c.begin.chunk == c.count
            self.written += c.size
            if self.written > growth_of(self.total):
                c.max_spans = 0
                c.max_bytes = 0
        self.spans = c.spans
        self.size = c.size
        self.has_found = self.state.is_writing = not self.state.is_writing

    def take(self):
        if self.state.is_writing:
            raise ValueError("the piece is not here")
        return self.taken(self.state.cut.size)

    cdef uint64_t step_size(self) noexcept:
        return self.total

    cdef uint64_t wanted(self) noexcept:
        return heads_size(&self.state.cut)

    cdef int prepare(self) except -1:
        if self.state.is_writing:
            self.grow(self.size)
            self.state.out = self.output()
        return 0

    cdef int fail(self) except -1:
        cdef Bytes fault = self.state.cut.fault
        cdef uint64_t offset = 0
        for i in range(len(self.chunks)):
            if self.places[i].at <= fault < self.places[i].end:
                _raise(self.task.code, offset + <uint64_t>(fault - self.places[i].at))
            offset += <uint64_t>PyBytes_GET_SIZE(self.chunks[i])
        _raise(self.task.code, offset)


cdef Code go_on_cutting(void *state) noexcept nogil:
    cdef CutState *s = <CutState *>state
    cdef Out out
    if not s.is_writing:
        return advance(&s.cut, NULL)
    out.at = s.out
    out.start = NULL
    out.end = NULL
    return advance(&s.cut, &out)


def split(tuple chunks not None, uint64_t max_spans=0, uint64_t max_bytes=0):
    cdef Cutting cutting
    cdef list pieces = []
    cdef uint64_t size = sum([len(chunk) for chunk in chunks])
    spans = sum(count(chunks)[:])
    if (not max_spans or spans <= max_spans) and (not max_bytes or size <= max_bytes):
        return [(chunks, spans, size)]
    cutting = Cutting(chunks, max_spans, max_bytes)
    while not cutting.is_done:
        cutting.run()
        cutting.run()
        spans = cutting.spans
        pieces.append(((cutting.take(),), spans, cutting.state.cut.size))
    return pieces


def group_by_trace(tuple chunks not None):
    cdef _Reader reader = _Reader(chunks)
    cdef Array groups
    cdef uint32_t *numbers = NULL
    cdef uint32_t *slots = NULL
    cdef uint64_t count, room = 1, first = 0
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
    cdef uint64_t i, at = 0, total = 0
    memset(&piece, 0, sizeof(piece))
    piece.end_gap = reader.index.gaps[<int>REQUEST_LEVEL].count
    for i in range(groups.count):
        piece.picked = order + at
        piece.count = one[i].count - at
        chunk = reader.written(&piece)
        total += <uint64_t>PyBytes_GET_SIZE(chunk)
        if total > growth_of(reader.size):
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
    cdef uint64_t i, resource
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
