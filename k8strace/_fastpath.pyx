"""Operations on the bytes of OTLP trace requests; `_fastpath.pyi` says what they promise.

Rules of this file:
1. What is `noexcept nogil` is pure C and returns a `Code`; `_check` raises, at the border.
2. `Walk` is the one reader of requests. What it finds goes into an `Index`: for each
   resource, scope and span where it stands, and as gaps all the bytes between them.
3. `measure_piece` and `write_piece` are the one writer: a choice of an index's spans,
   under copies of their resources and scopes, with all the gaps.
4. Whatever `count` takes in, all the others take in.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport UINT32_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from k8strace._sampling cimport (
    MAX_WRITTEN,
    MODE_EQUALIZING,
    MODE_HASH_SEED,
    MODE_PROPORTIONAL,
    POLICY_COUNT,
    PRIORITY_DROP,
    PRIORITY_KEEP,
    PRIORITY_NONE,
    Decision,
    Priority,
    Sampler,
    decide,
    read_priority,
    start_sampler,
    write_tracestate,
)
from k8strace._wire cimport (
    BAD_FIELD_NUMBER,
    BAD_TEXT,
    BAD_TRACE_ID,
    BAD_WIRE_TYPE,
    FIXED32,
    FIXED64,
    LEN,
    LONG_LENGTH,
    LONG_VARINT,
    MAX_DEPTH,
    NO_MEMORY,
    OK,
    TOO_BIG,
    TOO_DEEP,
    TRUNCATED,
    UNMATCHED_GROUP,
    VARINT,
    Bytes,
    Code,
    Cursor,
    Field,
    is_text,
    load64,
    next_field,
    varint_size,
    write_varint,
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
    "chunks kept sampled_out rejected kept_by_priority out_by_priority kept_by out_by",
)
POLICIES = (
    "trace_id_hash",
    "trace_id_w3c",
    "sampling_randomness",
    "sampling_priority",
    "missing_randomness",
)
HASH_SEED = MODE_HASH_SEED
PROPORTIONAL = MODE_PROPORTIONAL
EQUALIZING = MODE_EQUALIZING

cdef enum:
    NOGIL_FROM = 32 * 1024  # bytes; below, letting go of the GIL costs more than it gives
    TRACE_ID = 16
    SPAN_ID = 8
    # What all pieces together may take, since each repeats its resources and scopes.
    GROWTH = 8  # times the request
    GROWTH_ALWAYS = 64 * 1024 * 1024

cdef uint64_t[2] _hash_key
memcpy(_hash_key, PyBytes_AS_STRING(os.urandom(16)), 16)

# Field tags: number << 3 | wire type.
cdef enum:
    RESOURCE_SPANS = 1 << 3 | LEN  # of the request
    CHILD = 2 << 3 | LEN  # scope_spans of ResourceSpans, spans of ScopeSpans
    PARENT_SELF = 1 << 3 | LEN  # resource of ResourceSpans, scope of ScopeSpans
    SPAN_TRACE_ID = 1 << 3 | LEN
    SPAN_SPAN_ID = 2 << 3 | LEN
    SPAN_TRACE_STATE = 3 << 3 | LEN
    SPAN_PARENT_ID = 4 << 3 | LEN
    SPAN_NAME = 5 << 3 | LEN
    SPAN_KIND = 6 << 3 | VARINT
    SPAN_START = 7 << 3 | FIXED64
    SPAN_END = 8 << 3 | FIXED64
    SPAN_ATTRIBUTE = 9 << 3 | LEN
    SPAN_STATUS = 15 << 3 | LEN
    SPAN_FLAGS = 16 << 3 | FIXED32
    STATUS_CODE = 3 << 3 | VARINT
    RESOURCE_ATTRIBUTE = 1 << 3 | LEN
    KEY = 1 << 3 | LEN
    VALUE = 2 << 3 | LEN
    STRING_VALUE = 1 << 3 | LEN

# How deep the messages lie; the request itself is at 0.
cdef enum:
    AT_REQUEST = 0
    AT_RESOURCE = 1
    AT_SCOPE = 2
    AT_SPAN = 3

# What a field of type LEN holds, in `shape`.
cdef enum Shape:
    OPAQUE
    TEXT
    RESOURCE
    ENTITY_REF
    SCOPE
    SPAN
    EVENT
    LINK
    STATUS
    KEY_VALUE
    ANY_VALUE
    ARRAY_VALUE
    KEY_VALUE_LIST

# What `Walk` does with a span that it found.
cdef enum Purpose:
    COUNT
    VERDICTS  # write down whether it is valid
    INDEX  # put it in the index
    KEEP  # put it in the index where its verdict says so
    SAMPLE  # put it in the index where the sampler says so

cdef struct Gap:
    Bytes start
    Bytes end
    uint32_t before  # the child that comes next in the same parent

cdef struct SpanEntry:
    Bytes start
    Bytes body
    Bytes end
    Bytes trace_id  # NULL where it isn't of 16 bytes
    uint32_t scope
    uint32_t text_size  # a new tracestate field, in Index.texts
    uint64_t text
    Bytes cut  # what it stands in the place of; NULL: the span is as it was
    Bytes cut_end

cdef struct ScopeEntry:
    Bytes start
    Bytes body
    Bytes end
    uint32_t resource
    uint32_t first_span
    uint32_t end_span
    uint32_t first_gap
    uint32_t end_gap
    uint64_t gap_size
    uint64_t size  # of its content in the piece being written; 0: as it was
    bint cut  # it can't be copied as it stands: spans were left out or have changed

cdef struct ResourceEntry:
    Bytes start
    Bytes body
    Bytes end
    uint32_t first_scope
    uint32_t end_scope
    uint32_t first_span
    uint32_t end_span
    uint32_t first_gap
    uint32_t end_gap
    uint64_t gap_size
    uint64_t size
    bint cut

cdef struct ChunkEntry:
    uint32_t first_resource
    uint32_t end_resource
    uint32_t first_span
    uint32_t end_span
    uint32_t first_gap
    uint32_t end_gap

cdef struct Array:
    void *items
    uint64_t count
    uint64_t room

cdef struct Index:
    Array chunks
    Array resources
    Array scopes
    Array spans
    Array chunk_gaps
    Array resource_gaps
    Array scope_gaps
    Array texts  # bytes

cdef struct Walk:
    Purpose purpose
    bint deep
    Index *index
    uint64_t spans
    uint64_t bad_ids
    uint64_t bad_text
    Array found  # VERDICTS: one byte a span
    Bytes verdicts  # KEEP
    uint64_t verdict_count
    Sampler sampler
    uint64_t rejected
    uint64_t kept_by_priority
    uint64_t out_by_priority
    uint64_t[POLICY_COUNT] kept_by
    uint64_t[POLICY_COUNT] out_by
    Bytes fault

cdef struct Group:
    Bytes trace_id
    uint64_t count

cdef struct SpanIds:
    Bytes trace_id
    Bytes span_id
    Bytes parent_id
    Bytes trace_id_end
    Bytes span_id_end
    Bytes parent_id_end


# Growing arrays


cdef inline void *grown(Array *array, uint64_t size) noexcept nogil:
    """Room for one more item of `size` bytes, or NULL."""
    cdef uint64_t room
    cdef void *items
    if array.count == array.room:
        room = array.room * 2 if array.room else 64
        items = realloc(array.items, room * size)
        if items == NULL:
            return NULL
        array.items = items
        array.room = room
    array.count += 1
    return <char *>array.items + (array.count - 1) * size


cdef inline bint reserve(Array *array, uint64_t more, uint64_t size) noexcept nogil:
    """Whether there is room for `more` items behind those that are there."""
    cdef uint64_t room = max(array.room * 2, array.count + more, <uint64_t>64)
    cdef void *items
    if array.room - array.count >= more:
        return True
    items = realloc(array.items, room * size)
    if items == NULL:
        return False
    array.items = items
    array.room = room
    return True


cdef void clear(Index *index) noexcept nogil:
    index.chunks.count = 0
    index.resources.count = 0
    index.scopes.count = 0
    index.spans.count = 0
    index.chunk_gaps.count = 0
    index.resource_gaps.count = 0
    index.scope_gaps.count = 0
    index.texts.count = 0


cdef void free_index(Index *index) noexcept nogil:
    free(index.chunks.items)
    free(index.resources.items)
    free(index.scopes.items)
    free(index.spans.items)
    free(index.chunk_gaps.items)
    free(index.resource_gaps.items)
    free(index.scope_gaps.items)
    free(index.texts.items)


cdef inline bint add_gap(
    Array *gaps, uint64_t first, Field *f, uint64_t before, uint64_t *total
) noexcept nogil:
    """Put a field into the gaps of its parent, whose gaps begin at `first`."""
    cdef Gap *gap
    total[0] += <uint64_t>(f.end - f.start)
    if gaps.count > first:
        gap = <Gap *>gaps.items + gaps.count - 1
        if gap.end == f.start:
            gap.end = f.end
            return True
    gap = <Gap *>grown(gaps, sizeof(Gap))
    if gap == NULL:
        return False
    gap.start = f.start
    gap.end = f.end
    gap.before = <uint32_t>before
    return True


# Reading: down to the leaves


cdef inline Shape shape(Shape message, uint32_t number) noexcept nogil:
    if message == SPAN:
        if number == 3 or number == 5:
            return TEXT
        if number == 9:
            return KEY_VALUE
        if number == 11:
            return EVENT
        if number == 13:
            return LINK
        if number == 15:
            return STATUS
    elif message == KEY_VALUE:
        if number == 1:
            return TEXT
        if number == 2:
            return ANY_VALUE
    elif message == ANY_VALUE:
        if number == 1:
            return TEXT
        if number == 5:
            return ARRAY_VALUE
        if number == 6:
            return KEY_VALUE_LIST
    elif message == EVENT:
        if number == 2:
            return TEXT
        if number == 3:
            return KEY_VALUE
    elif message == LINK:
        if number == 3:
            return TEXT
        if number == 4:
            return KEY_VALUE
    elif message == STATUS:
        if number == 2:
            return TEXT
    elif message == ARRAY_VALUE:
        if number == 1:
            return ANY_VALUE
    elif message == KEY_VALUE_LIST:
        if number == 1:
            return KEY_VALUE
    elif message == RESOURCE:
        if number == 1:
            return KEY_VALUE
        if number == 3:
            return ENTITY_REF
    elif message == SCOPE:
        if number == 1 or number == 2:
            return TEXT
        if number == 3:
            return KEY_VALUE
    elif message == ENTITY_REF:
        if 1 <= number <= 4:
            return TEXT
    return OPAQUE


cdef Code check_leaves(
    Walk *w, Shape message, Bytes at, Bytes end, int depth, Bytes *bad_text, bint *bad_ids
) noexcept nogil:
    """Check all that is in a message; the first bad text and bad ids are only noted."""
    cdef Cursor c
    cdef Field f
    cdef Shape inner
    cdef Code code
    cdef Py_ssize_t trace_id = 0
    cdef Py_ssize_t span_id = 0
    if depth > MAX_DEPTH:
        w.fault = at
        return TOO_DEEP
    c.at = at
    c.end = end
    while c.at < c.end:
        code = next_field(&c, &f, depth)
        if code != OK:
            w.fault = c.at
            return code
        if f.tag & 7 != LEN:
            continue
        inner = shape(message, f.tag >> 3)
        if inner == OPAQUE:
            if message == LINK:
                if f.tag == SPAN_TRACE_ID:
                    trace_id = f.end - f.body
                elif f.tag == SPAN_SPAN_ID:
                    span_id = f.end - f.body
        elif inner == TEXT:
            if bad_text[0] == NULL and not is_text(f.body, f.end):
                bad_text[0] = f.start
        else:
            code = check_leaves(w, inner, f.body, f.end, depth + 1, bad_text, bad_ids)
            if code != OK:
                return code
    if trace_id not in (0, TRACE_ID) or span_id not in (0, SPAN_ID):
        bad_ids[0] = True
    return OK


cdef inline Code check_parent(Walk *w, Shape message, Field *f, int depth) noexcept nogil:
    """Check a resource or scope to its leaves: bad text there concerns many spans."""
    cdef Bytes bad_text = NULL
    cdef bint bad_ids = False
    cdef Code code = check_leaves(w, message, f.body, f.end, depth, &bad_text, &bad_ids)
    if code == OK and bad_text != NULL:
        w.fault = bad_text
        return BAD_TEXT
    return code


cdef inline Code check_text(Walk *w, Field *f) noexcept nogil:
    if is_text(f.body, f.end):
        return OK
    w.fault = f.start
    return BAD_TEXT


# Reading: from the request to its spans


cdef inline bint are_good(SpanIds *ids) noexcept nogil:
    if ids.trace_id_end - ids.trace_id != TRACE_ID:
        return False
    if ids.span_id_end - ids.span_id != SPAN_ID:
        return False
    if ids.parent_id_end - ids.parent_id not in (0, SPAN_ID):
        return False
    return (
        load64(ids.trace_id) | load64(ids.trace_id + 8) != 0 and load64(ids.span_id) != 0
    )


cdef inline Code check_span(Walk *w, Bytes body, Bytes end) noexcept nogil:
    """Count a span, by what is wrong with it."""
    cdef Cursor c
    cdef Field f
    cdef SpanIds ids
    cdef Code code
    cdef Bytes bad_text = NULL
    cdef bint bad_ids = False
    cdef uint8_t *verdict
    memset(&ids, 0, sizeof(ids))
    c.at = body
    c.end = end
    while c.at < c.end:
        code = next_field(&c, &f, AT_SPAN)
        if code != OK:
            w.fault = c.at
            return code
        if f.tag == SPAN_TRACE_ID:
            ids.trace_id = f.body
            ids.trace_id_end = f.end
        elif f.tag == SPAN_SPAN_ID:
            ids.span_id = f.body
            ids.span_id_end = f.end
        elif f.tag == SPAN_PARENT_ID:
            ids.parent_id = f.body
            ids.parent_id_end = f.end
    if w.deep:
        code = check_leaves(w, SPAN, body, end, AT_SPAN, &bad_text, &bad_ids)
        if code != OK:
            return code
    bad_ids = bad_ids or not are_good(&ids)
    if bad_ids:
        w.bad_ids += 1
    elif bad_text != NULL:
        w.bad_text += 1
    else:
        w.spans += 1
    if w.purpose == VERDICTS:
        verdict = <uint8_t *>grown(&w.found, 1)
        if verdict == NULL:
            return NO_MEMORY
        verdict[0] = not bad_ids and bad_text == NULL
    return OK


cdef inline Code add_span(
    Walk *w, Field *f, Bytes trace_id, uint64_t scope
) noexcept nogil:
    cdef SpanEntry *span = <SpanEntry *>grown(&w.index.spans, sizeof(SpanEntry))
    if span == NULL:
        return NO_MEMORY
    span.start = f.start
    span.body = f.body
    span.end = f.end
    span.trace_id = trace_id
    span.scope = <uint32_t>scope
    span.cut = NULL
    return OK


cdef inline Code check_fields(Walk *w, Bytes at, Bytes end, int depth) noexcept nogil:
    """Check the fields of a message, and nothing in them."""
    cdef Cursor c
    cdef Field f
    cdef Code code
    c.at = at
    c.end = end
    while c.at < c.end:
        code = next_field(&c, &f, depth)
        if code != OK:
            w.fault = c.at
            return code
    return OK


cdef inline Code rewrite(
    Walk *w, Decision *d, Field *old, Bytes end
) noexcept nogil:
    """Give the last span of the index its new tracestate; `old.start` may be NULL."""
    cdef Array *texts = &w.index.texts
    cdef SpanEntry *span = <SpanEntry *>w.index.spans.items + w.index.spans.count - 1
    cdef uint8_t *text
    cdef uint8_t *text_end
    cdef uint64_t size
    # In front of the text: its tag, and a length of at most two bytes.
    if not reserve(texts, MAX_WRITTEN + 3, 1):
        return NO_MEMORY
    text = <uint8_t *>texts.items + texts.count + 3
    text_end = write_tracestate(text, &d.state)
    size = <uint64_t>(text_end - text)
    if size == <uint64_t>(old.end - old.body) and memcmp(text, old.body, size) == 0:
        return OK
    text -= varint_size(size)
    write_varint(text, size)
    text -= 1
    text[0] = SPAN_TRACE_STATE
    span.text = <uint64_t>(text - <uint8_t *>texts.items)
    span.text_size = <uint32_t>(text_end - text)
    span.cut = old.start if old.start != NULL else end
    span.cut_end = old.end if old.start != NULL else end
    texts.count = <uint64_t>(text_end - <uint8_t *>texts.items)
    return OK


cdef inline Code sample_span(Walk *w, Field *span, uint64_t scope) noexcept nogil:
    cdef Cursor c
    cdef Field f
    cdef Decision d
    cdef Code code
    cdef Bytes trace_id = NULL
    cdef Field old  # tracestate: the last one counts
    cdef bint has_priority = False
    cdef Priority said = PRIORITY_NONE
    old.start = NULL
    old.body = NULL
    old.end = NULL
    d.priority = PRIORITY_NONE
    c.at = span.body
    c.end = span.end
    while c.at < c.end:
        code = next_field(&c, &f, AT_SPAN)
        if code != OK:
            w.fault = c.at
            return code
        if f.tag == SPAN_ATTRIBUTE:
            # Of several the first counts, as in the collector.
            if not has_priority and read_priority(f.body, f.end, &said):
                has_priority = True
                d.priority = said
        elif f.tag == SPAN_TRACE_ID:
            trace_id = f.body if f.end - f.body == TRACE_ID else NULL
        elif f.tag == SPAN_TRACE_STATE:
            old = f
    if trace_id != NULL and load64(trace_id) | load64(trace_id + 8) == 0:
        trace_id = NULL
    decide(&w.sampler, trace_id, old.body, old.end, &d)
    if not d.kept:
        w.out_by[<int>d.policy] += 1
        w.out_by_priority += d.priority == PRIORITY_DROP
        w.rejected += d.undecidable and d.priority == PRIORITY_NONE
        return OK
    w.kept_by[<int>d.policy] += 1
    w.kept_by_priority += d.priority == PRIORITY_KEEP
    code = add_span(w, span, trace_id, scope)
    if code == OK and d.writes:
        code = rewrite(w, &d, &old, span.end)
    return code


cdef inline Code walk_span(Walk *w, Field *f, uint64_t scope) noexcept nogil:
    cdef Cursor c
    cdef Field inner
    cdef Code code
    cdef Bytes trace_id = NULL
    if w.purpose == COUNT or w.purpose == VERDICTS:
        return check_span(w, f.body, f.end)
    w.spans += 1
    if w.purpose == SAMPLE:
        return sample_span(w, f, scope)
    c.at = f.body
    c.end = f.end
    while c.at < c.end:
        code = next_field(&c, &inner, AT_SPAN)
        if code != OK:
            w.fault = c.at
            return code
        if inner.tag == SPAN_TRACE_ID:
            trace_id = inner.body if inner.end - inner.body == TRACE_ID else NULL
    if w.purpose == KEEP:
        if w.spans > w.verdict_count or not w.verdicts[w.spans - 1]:
            return OK
    return add_span(w, f, trace_id, scope)


cdef inline bint is_minimal(Field *f) noexcept nogil:
    """Whether tag and length take as few bytes as they can: then it can be measured."""
    return f.body - f.start == 1 + <Py_ssize_t>varint_size(<uint64_t>(f.end - f.body))


cdef inline Code walk_scope(Walk *w, Field *place, uint64_t resource) noexcept nogil:
    cdef Cursor c
    cdef Field f
    cdef Code code
    cdef Index *index = w.index
    cdef uint64_t me = 0
    cdef uint64_t before = w.spans
    cdef uint64_t first_gap = 0
    cdef uint64_t first_span = 0
    cdef uint64_t gap_size = 0
    cdef ScopeEntry *scope
    cdef SpanEntry *span
    if index != NULL:
        if grown(&index.scopes, sizeof(ScopeEntry)) == NULL:
            return NO_MEMORY
        me = index.scopes.count - 1
        first_gap = index.scope_gaps.count
        first_span = index.spans.count
    c.at = place.body
    c.end = place.end
    while c.at < c.end:
        code = next_field(&c, &f, AT_SCOPE)
        if code != OK:
            w.fault = c.at
            return code
        if f.tag == CHILD:
            code = walk_span(w, &f, me)
        else:
            if f.tag == PARENT_SELF:
                if w.deep:
                    code = check_parent(w, SCOPE, &f, AT_SPAN)
                else:
                    code = check_fields(w, f.body, f.end, AT_SPAN)
            elif w.deep and f.tag == (3 << 3 | LEN):
                code = check_text(w, &f)
            if code == OK and index != NULL:
                if not add_gap(
                    &index.scope_gaps, first_gap, &f, index.spans.count, &gap_size
                ):
                    return NO_MEMORY
        if code != OK:
            return code
    if index != NULL:
        scope = <ScopeEntry *>index.scopes.items + me
        scope.start = place.start
        scope.body = place.body
        scope.end = place.end
        scope.resource = <uint32_t>resource
        scope.first_span = <uint32_t>first_span
        scope.end_span = <uint32_t>index.spans.count
        scope.first_gap = <uint32_t>first_gap
        scope.end_gap = <uint32_t>index.scope_gaps.count
        scope.gap_size = gap_size
        scope.size = 0
        scope.cut = w.spans - before != index.spans.count - first_span
        scope.cut = scope.cut or first_span == index.spans.count or not is_minimal(place)
        if not scope.cut and w.purpose == SAMPLE:
            span = <SpanEntry *>index.spans.items
            while first_span < index.spans.count and not scope.cut:
                scope.cut = span[first_span].cut != NULL
                first_span += 1
    return OK


cdef inline Code walk_resource(Walk *w, Field *place) noexcept nogil:
    cdef Cursor c
    cdef Field f
    cdef Code code
    cdef Index *index = w.index
    cdef uint64_t me = 0
    cdef uint64_t first_gap = 0
    cdef uint64_t first_scope = 0
    cdef uint64_t first_span = 0
    cdef uint64_t gap_size = 0
    cdef bint cut = not is_minimal(place)
    cdef ResourceEntry *resource
    if index != NULL:
        if grown(&index.resources, sizeof(ResourceEntry)) == NULL:
            return NO_MEMORY
        me = index.resources.count - 1
        first_gap = index.resource_gaps.count
        first_scope = index.scopes.count
        first_span = index.spans.count
    c.at = place.body
    c.end = place.end
    while c.at < c.end:
        code = next_field(&c, &f, AT_RESOURCE)
        if code != OK:
            w.fault = c.at
            return code
        if f.tag == CHILD:
            code = walk_scope(w, &f, me)
            if index != NULL and code == OK:
                cut = cut or (<ScopeEntry *>index.scopes.items)[index.scopes.count - 1].cut
        else:
            if f.tag == PARENT_SELF:
                if w.deep:
                    code = check_parent(w, RESOURCE, &f, AT_SCOPE)
                else:
                    code = check_fields(w, f.body, f.end, AT_SCOPE)
            elif w.deep and f.tag == (3 << 3 | LEN):
                code = check_text(w, &f)
            if code == OK and index != NULL:
                if not add_gap(
                    &index.resource_gaps, first_gap, &f, index.scopes.count, &gap_size
                ):
                    return NO_MEMORY
        if code != OK:
            return code
    if index != NULL:
        resource = <ResourceEntry *>index.resources.items + me
        resource.start = place.start
        resource.body = place.body
        resource.end = place.end
        resource.first_scope = <uint32_t>first_scope
        resource.end_scope = <uint32_t>index.scopes.count
        resource.first_span = <uint32_t>first_span
        resource.end_span = <uint32_t>index.spans.count
        resource.first_gap = <uint32_t>first_gap
        resource.end_gap = <uint32_t>index.resource_gaps.count
        resource.gap_size = gap_size
        resource.size = 0
        resource.cut = cut
    return OK


cdef Code walk_chunk(Walk *w, Bytes at, Bytes end) noexcept nogil:
    cdef Cursor c
    cdef Field f
    cdef Code code
    cdef Index *index = w.index
    cdef uint64_t me = 0
    cdef uint64_t first_gap = 0
    cdef uint64_t first_resource = 0
    cdef uint64_t first_span = 0
    cdef uint64_t gap_size = 0
    cdef ChunkEntry *chunk
    if end - at > 0x7FFFFFFF:
        w.fault = at
        return LONG_LENGTH
    if index != NULL:
        if grown(&index.chunks, sizeof(ChunkEntry)) == NULL:
            return NO_MEMORY
        me = index.chunks.count - 1
        first_gap = index.chunk_gaps.count
        first_resource = index.resources.count
        first_span = index.spans.count
    c.at = at
    c.end = end
    while c.at < c.end:
        code = next_field(&c, &f, AT_REQUEST)
        if code != OK:
            w.fault = c.at
            return code
        if f.tag == RESOURCE_SPANS:
            code = walk_resource(w, &f)
            if code != OK:
                return code
        elif index != NULL:
            if not add_gap(
                &index.chunk_gaps, first_gap, &f, index.resources.count, &gap_size
            ):
                return NO_MEMORY
    if index != NULL:
        chunk = <ChunkEntry *>index.chunks.items + me
        chunk.first_resource = <uint32_t>first_resource
        chunk.end_resource = <uint32_t>index.resources.count
        chunk.first_span = <uint32_t>first_span
        chunk.end_span = <uint32_t>index.spans.count
        chunk.first_gap = <uint32_t>first_gap
        chunk.end_gap = <uint32_t>index.chunk_gaps.count
    return OK


# Writing

cdef struct Piece:
    const uint32_t *picked  # spans of the index, in order; NULL: `count` from `first` on
    uint64_t first
    uint64_t count
    uint64_t first_gap  # of the gaps between resources
    uint64_t end_gap

cdef struct Out:
    uint8_t *at
    Bytes start  # bytes that are yet to be copied: what is adjacent goes in one run
    Bytes end


cdef inline uint64_t pick(Piece *piece, uint64_t i) noexcept nogil:
    return piece.picked[i] if piece.picked != NULL else piece.first + i


cdef inline bint has_all(
    Piece *piece, uint64_t i, uint64_t first, uint64_t end
) noexcept nogil:
    """Whether the spans from `first` to `end` are the next in the piece."""
    cdef uint64_t count = end - first
    if pick(piece, i) != first or count > piece.count - i:
        return False
    return pick(piece, i + count - 1) == end - 1


cdef inline uint64_t field_size(uint64_t content) noexcept nogil:
    return 1 + varint_size(content) + content


cdef inline uint64_t content_size(SpanEntry *span) noexcept nogil:
    """Of a span that has changed."""
    return <uint64_t>(span.end - span.body - (span.cut_end - span.cut)) + span.text_size


cdef inline uint64_t span_size(SpanEntry *span) noexcept nogil:
    if span.cut == NULL:
        return <uint64_t>(span.end - span.start)
    return field_size(content_size(span))


cdef uint64_t measure_piece(Index *index, Piece *piece) noexcept nogil:
    """The piece's size; notes the sizes of its resources and scopes."""
    cdef SpanEntry *spans = <SpanEntry *>index.spans.items
    cdef ScopeEntry *scopes = <ScopeEntry *>index.scopes.items
    cdef ResourceEntry *resources = <ResourceEntry *>index.resources.items
    cdef Gap *gaps = <Gap *>index.chunk_gaps.items
    cdef ResourceEntry *resource
    cdef ScopeEntry *scope
    cdef uint64_t i = 0
    cdef uint64_t g
    cdef uint64_t size = 0
    cdef uint32_t r
    cdef uint32_t s
    for g in range(piece.first_gap, piece.end_gap):
        size += <uint64_t>(gaps[g].end - gaps[g].start)
    while i < piece.count:
        r = scopes[spans[pick(piece, i)].scope].resource
        resource = &resources[r]
        resource.size = 0
        if not resource.cut and has_all(piece, i, resource.first_span, resource.end_span):
            size += <uint64_t>(resource.end - resource.start)
            i += resource.end_span - resource.first_span
            continue
        resource.size = resource.gap_size
        while i < piece.count:
            s = spans[pick(piece, i)].scope
            scope = &scopes[s]
            if scope.resource != r:
                break
            scope.size = 0
            if not scope.cut and has_all(piece, i, scope.first_span, scope.end_span):
                resource.size += <uint64_t>(scope.end - scope.start)
                i += scope.end_span - scope.first_span
                continue
            scope.size = scope.gap_size
            while i < piece.count and spans[pick(piece, i)].scope == s:
                scope.size += span_size(&spans[pick(piece, i)])
                i += 1
            resource.size += field_size(scope.size)
        size += field_size(resource.size)
    return size


cdef inline void flush(Out *out) noexcept nogil:
    cdef uint64_t size = <uint64_t>(out.end - out.start)
    if size:
        memcpy(out.at, out.start, size)
        out.at += size
        out.start = out.end


cdef inline void copy(Out *out, Bytes start, Bytes end) noexcept nogil:
    if start != out.end:
        flush(out)
        out.start = start
    out.end = end


cdef inline void open_field(Out *out, uint8_t field_tag, uint64_t size) noexcept nogil:
    flush(out)
    out.at[0] = field_tag
    out.at = write_varint(out.at + 1, size)


cdef inline uint64_t copy_gaps(
    Out *out, Array *gaps, uint64_t at, uint64_t end, uint64_t before
) noexcept nogil:
    """Copy the gaps from `at` on that stand in front of child `before`."""
    cdef Gap *gap = <Gap *>gaps.items
    while at < end and gap[at].before <= before:
        copy(out, gap[at].start, gap[at].end)
        at += 1
    return at


cdef inline void copy_span(Out *out, Index *index, SpanEntry *span) noexcept nogil:
    cdef Bytes text
    if span.cut == NULL:
        copy(out, span.start, span.end)
        return
    text = <Bytes>index.texts.items + span.text
    open_field(out, CHILD, content_size(span))
    copy(out, span.body, span.cut)
    copy(out, text, text + span.text_size)
    copy(out, span.cut_end, span.end)


cdef void write_piece(Index *index, Piece *piece, uint8_t *to) noexcept nogil:
    """Write a piece that was measured just before."""
    cdef SpanEntry *spans = <SpanEntry *>index.spans.items
    cdef ScopeEntry *scopes = <ScopeEntry *>index.scopes.items
    cdef ResourceEntry *resources = <ResourceEntry *>index.resources.items
    cdef ResourceEntry *resource
    cdef ScopeEntry *scope
    cdef Out out
    cdef uint64_t i = 0
    cdef uint64_t chunk_gap = piece.first_gap
    cdef uint64_t resource_gap
    cdef uint64_t scope_gap
    cdef uint64_t place
    cdef uint32_t r
    cdef uint32_t s
    out.at = to
    out.start = NULL
    out.end = NULL
    while i < piece.count:
        r = scopes[spans[pick(piece, i)].scope].resource
        resource = &resources[r]
        chunk_gap = copy_gaps(&out, &index.chunk_gaps, chunk_gap, piece.end_gap, r)
        if not resource.size:
            copy(&out, resource.start, resource.end)
            i += resource.end_span - resource.first_span
            continue
        open_field(&out, RESOURCE_SPANS, resource.size)
        resource_gap = resource.first_gap
        while i < piece.count:
            s = spans[pick(piece, i)].scope
            scope = &scopes[s]
            if scope.resource != r:
                break
            resource_gap = copy_gaps(
                &out, &index.resource_gaps, resource_gap, resource.end_gap, s
            )
            if not scope.size:
                copy(&out, scope.start, scope.end)
                i += scope.end_span - scope.first_span
                continue
            open_field(&out, CHILD, scope.size)
            scope_gap = scope.first_gap
            while i < piece.count:
                place = pick(piece, i)
                if spans[place].scope != s:
                    break
                scope_gap = copy_gaps(
                    &out, &index.scope_gaps, scope_gap, scope.end_gap, place
                )
                copy_span(&out, index, &spans[place])
                i += 1
            copy_gaps(&out, &index.scope_gaps, scope_gap, scope.end_gap, UINT32_MAX)
        copy_gaps(
            &out, &index.resource_gaps, resource_gap, resource.end_gap, UINT32_MAX
        )
    copy_gaps(&out, &index.chunk_gaps, chunk_gap, piece.end_gap, UINT32_MAX)
    flush(&out)


# Choosing


cdef uint64_t end_of_piece(
    Index *index, uint64_t first, uint64_t gap, uint64_t max_spans, uint64_t max_bytes
) noexcept nogil:
    """The span behind the longest piece within the limits that begins at `first`."""
    cdef SpanEntry *spans = <SpanEntry *>index.spans.items
    cdef ScopeEntry *scopes = <ScopeEntry *>index.scopes.items
    cdef ResourceEntry *resources = <ResourceEntry *>index.resources.items
    cdef Gap *gaps = <Gap *>index.chunk_gaps.items
    cdef uint64_t end = index.spans.count
    cdef uint64_t before = 0  # the resources that are complete, and gaps
    cdef uint64_t in_resource = 0  # its scopes that are complete, and gaps
    cdef uint64_t in_scope = 0
    cdef uint64_t i
    cdef ScopeEntry *scope
    cdef ScopeEntry *last = NULL
    if max_spans and end - first > max_spans:
        end = first + max_spans
    if not max_bytes:
        return end
    for i in range(first, end):
        scope = &scopes[spans[i].scope]
        if last == NULL or scope.resource != last.resource:
            if last != NULL:
                before += field_size(in_resource + field_size(in_scope))
            while gap < index.chunk_gaps.count and gaps[gap].before <= scope.resource:
                before += <uint64_t>(gaps[gap].end - gaps[gap].start)
                gap += 1
            in_resource = resources[scope.resource].gap_size
            in_scope = scope.gap_size
        elif scope != last:
            in_resource += field_size(in_scope)
            in_scope = scope.gap_size
        in_scope += span_size(&spans[i])
        last = scope
        if i > first:
            if before + field_size(in_resource + field_size(in_scope)) > max_bytes:
                return i
    return end


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    value ^= value >> 32
    value *= <uint64_t>0xD6E8FEB86659FD93
    value ^= value >> 32
    value *= <uint64_t>0xD6E8FEB86659FD93
    return value ^ value >> 32


cdef Code group(
    Index *index, uint32_t *group_of, uint32_t *slots, uint64_t mask, Array *groups
) noexcept nogil:
    """Number the spans' traces in order; `groups` counts the spans of each.

    `slots` is a hash table of `mask` + 1 zeros; its hash has a secret key, so that nobody
    can send ids that all fall into one place.
    """
    cdef SpanEntry *spans = <SpanEntry *>index.spans.items
    cdef Group *one
    cdef uint64_t i
    cdef uint64_t slot
    cdef Bytes trace_id
    for i in range(index.spans.count):
        trace_id = spans[i].trace_id
        if trace_id == NULL:
            return BAD_TRACE_ID
        slot = mixed(load64(trace_id) ^ _hash_key[0])
        slot = mixed(slot ^ load64(trace_id + 8) ^ _hash_key[1]) & mask
        while True:
            if not slots[slot]:
                one = <Group *>grown(groups, sizeof(Group))
                if one == NULL:
                    return NO_MEMORY
                one.trace_id = trace_id
                one.count = 0
                slots[slot] = <uint32_t>groups.count
                break
            one = <Group *>groups.items + (slots[slot] - 1)
            if memcmp(one.trace_id, trace_id, TRACE_ID) == 0:
                break
            slot = (slot + 1) & mask
        group_of[i] = slots[slot] - 1
        one.count += 1
    return OK


# The border to Python


cdef class _Reader:
    """A walk and its index, which live as long as the chunks that they point into."""

    cdef Walk walk
    cdef Index index
    cdef tuple chunks
    cdef uint64_t size

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
        self.walk.purpose = purpose
        for i in range(len(self.chunks)):
            clear(&self.index)
            before = self.walk.spans
            self.read_chunk(i)
            if self.walk.spans - before == self.index.spans.count and not self.rewrites():
                kept.append(self.chunks[i])
                continue
            changed = True
            piece.picked = NULL
            piece.first = 0
            piece.count = self.index.spans.count
            piece.first_gap = 0
            piece.end_gap = self.index.chunk_gaps.count
            made = self.written(&piece)
            if made:
                kept.append(made)
        return tuple(kept) if changed else self.chunks

    cdef bint rewrites(self) noexcept:
        return self.index.texts.count != 0

    cdef uint64_t offset(self, Bytes place):
        """Where a place in some chunk is, counted over all chunks."""
        cdef uint64_t base = 0
        for chunk in self.chunks:
            if _start(chunk) <= place <= _start(chunk) + len(chunk):
                return base + <uint64_t>(place - _start(chunk))
            base += len(chunk)
        return base


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
    if size < NOGIL_FROM:
        return walk_chunk(walk, start, start + size)
    with nogil:
        code = walk_chunk(walk, start, start + size)
    return code


cdef int _raise(Code code, uint64_t offset) except -1:
    if code == NO_MEMORY:
        raise MemoryError
    raise MalformedPayloadError(_reason(code), offset)


cdef str _reason(Code code):
    if code == TRUNCATED:
        return "a field that ends behind the bytes it is in"
    if code == LONG_VARINT:
        return "a varint that is too long"
    if code == BAD_FIELD_NUMBER:
        return "a field number that is 0 or too large"
    if code == BAD_WIRE_TYPE:
        return "a wire type that doesn't exist"
    if code == LONG_LENGTH:
        return "a length over 2 GiB"
    if code == UNMATCHED_GROUP:
        return "the end of a group that wasn't open"
    if code == TOO_DEEP:
        return f"messages nested deeper than {<int>MAX_DEPTH}"
    if code == BAD_TEXT:
        return "text that isn't UTF-8"
    if code == BAD_TRACE_ID:
        return "a trace id that isn't of 16 bytes"
    if code == TOO_BIG:
        return "resources and scopes too large to be repeated in each piece"
    raise AssertionError(f"no text for code {<int>code}")


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
    return Count(walk.spans, walk.bad_ids, walk.bad_text)


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
    cdef int policy
    if mode not in (MODE_HASH_SEED, MODE_PROPORTIONAL, MODE_EQUALIZING):
        raise ValueError(f"no sampling mode: {mode}")
    if not percentage >= 0.0:
        raise ValueError(f"percentage must not be negative: {percentage}")
    if not 1 <= precision <= 14:
        raise ValueError(f"precision must be 1 to 14: {precision}")
    start_sampler(&walk.sampler, mode, percentage, hash_seed, precision, fail_closed)
    made = reader.filtered(SAMPLE)
    for policy in range(POLICY_COUNT):
        kept += walk.kept_by[policy]
    return Sampled(
        made,
        kept,
        walk.spans - kept - walk.rejected,
        walk.rejected,
        walk.kept_by_priority,
        walk.out_by_priority,
        tuple([walk.kept_by[policy] for policy in range(POLICY_COUNT)]),
        tuple([walk.out_by[policy] for policy in range(POLICY_COUNT)]),
    )


def split(tuple chunks not None, uint64_t max_spans=0, uint64_t max_bytes=0):
    cdef _Reader reader = _Reader(chunks)
    cdef Index *index = &reader.index
    cdef ChunkEntry *entry
    cdef Gap *gaps
    cdef ScopeEntry *scopes
    cdef SpanEntry *spans
    cdef Piece piece
    cdef uint64_t first = 0
    cdef uint64_t end
    cdef uint64_t size
    cdef uint64_t total = 0
    cdef uint64_t gap = 0
    cdef uint32_t resource
    cdef Py_ssize_t at = 0
    cdef list pieces = []
    cdef list parts
    cdef bytes made
    reader.read(INDEX)
    if (not max_spans or index.spans.count <= max_spans) and (
        not max_bytes or reader.size <= max_bytes
    ):
        return [(chunks, index.spans.count, reader.size)]
    spans = <SpanEntry *>index.spans.items
    scopes = <ScopeEntry *>index.scopes.items
    gaps = <Gap *>index.chunk_gaps.items
    piece.picked = NULL
    while True:
        end = end_of_piece(index, first, gap, max_spans, max_bytes)
        parts = []
        size = 0
        piece.first = first
        while at < len(chunks):
            entry = <ChunkEntry *>index.chunks.items + at
            piece.count = min(end, <uint64_t>entry.end_span) - piece.first
            piece.first_gap = gap
            if end >= entry.end_span:
                gap = entry.end_gap
            elif piece.count:
                resource = scopes[spans[piece.first + piece.count - 1].scope].resource
                while gap < entry.end_gap and gaps[gap].before <= resource:
                    gap += 1
            piece.end_gap = gap
            made = chunks[at]
            if measure_piece(index, &piece) != <uint64_t>len(made):
                made = reader.written(&piece)
            if made:
                parts.append(made)
                size += <uint64_t>len(made)
            piece.first += piece.count
            if end < entry.end_span or (end == entry.end_span and end < index.spans.count):
                at += end == entry.end_span
                break
            at += 1
        total += size
        if total > GROWTH * reader.size + GROWTH_ALWAYS:
            _raise(TOO_BIG, reader.offset(spans[first].start))
        pieces.append((tuple(parts), end - first, size))
        first = end
        if first == index.spans.count:
            return pieces


def group_by_trace(tuple chunks not None):
    cdef _Reader reader = _Reader(chunks)
    cdef Array groups
    cdef uint32_t *numbers = NULL
    cdef uint32_t *slots = NULL
    cdef uint64_t size = 1
    cdef uint64_t count
    cdef Code code
    reader.read(INDEX)
    count = reader.index.spans.count
    if not count:
        return []
    while size < 2 * count:
        size *= 2
    memset(&groups, 0, sizeof(groups))
    numbers = <uint32_t *>malloc(2 * count * sizeof(uint32_t))
    slots = <uint32_t *>calloc(size, sizeof(uint32_t))
    try:
        if numbers == NULL or slots == NULL:
            raise MemoryError
        with nogil:
            code = group(&reader.index, numbers, slots, size - 1, &groups)
        if code != OK:
            _raise(code, reader.offset(_first_without_id(&reader.index)))
        return _groups(reader, numbers, &groups)
    finally:
        free(numbers)
        free(slots)
        free(groups.items)


cdef Bytes _first_without_id(Index *index) noexcept:
    cdef SpanEntry *span = <SpanEntry *>index.spans.items
    while span.trace_id != NULL:
        span += 1
    return span.start


cdef list _groups(_Reader reader, uint32_t *numbers, Array *found):
    """Write the traces, whose spans' groups are the first half of `numbers`."""
    cdef uint64_t count = reader.index.spans.count
    cdef uint32_t *order = numbers + count
    cdef Group *groups = <Group *>found.items
    cdef list made = []
    cdef Piece piece
    cdef bytes chunk
    cdef uint64_t at = 0
    cdef uint64_t total = 0
    cdef uint64_t i
    if found.count == 1:
        return [(_trace_id(groups[0].trace_id), reader.chunks, count)]
    for i in range(found.count):
        at += groups[i].count
        groups[i].count = at - groups[i].count  # where the next span of the trace goes
    for i in range(count):
        order[groups[numbers[i]].count] = <uint32_t>i
        groups[numbers[i]].count += 1
    piece.first_gap = 0
    piece.end_gap = reader.index.chunk_gaps.count
    piece.first = 0
    at = 0
    for i in range(found.count):
        piece.picked = order + at
        piece.count = groups[i].count - at
        chunk = reader.written(&piece)
        total += <uint64_t>len(chunk)
        if total > GROWTH * reader.size + GROWTH_ALWAYS:
            _raise(
                TOO_BIG,
                reader.offset((<SpanEntry *>reader.index.spans.items)[order[at]].start),
            )
        made.append((_trace_id(groups[i].trace_id), (chunk,), piece.count))
        at = groups[i].count
        # What stands between resources goes with the first trace.
        piece.first_gap = piece.end_gap
    return made


cdef bytes _trace_id(Bytes at):
    return PyBytes_FromStringAndSize(<const char *>at, TRACE_ID)


# Columns

cdef struct SpanValues:
    Field trace_id
    Field span_id
    Field parent_id
    Field trace_state
    Field name
    uint64_t start
    uint64_t end
    uint32_t flags
    int32_t kind
    int32_t status

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

_COLUMNS = {
    "trace_id": TRACE_ID_COLUMN,
    "span_id": SPAN_ID_COLUMN,
    "parent_span_id": PARENT_ID_COLUMN,
    "trace_state": TRACE_STATE_COLUMN,
    "name": NAME_COLUMN,
    "kind": KIND_COLUMN,
    "start": START_COLUMN,
    "end": END_COLUMN,
    "status": STATUS_COLUMN,
    "flags": FLAGS_COLUMN,
    "service": SERVICE_COLUMN,
}


cdef void read_values(SpanEntry *span, SpanValues *v) noexcept nogil:
    """Read a span that was walked over; of several equal fields the last counts."""
    cdef Cursor c
    cdef Cursor inner
    cdef Field f
    memset(v, 0, sizeof(v[0]))
    c.at = span.body
    c.end = span.end
    while c.at < c.end and next_field(&c, &f, AT_SPAN) == OK:
        if f.tag == SPAN_TRACE_ID:
            v.trace_id = f
        elif f.tag == SPAN_SPAN_ID:
            v.span_id = f
        elif f.tag == SPAN_PARENT_ID:
            v.parent_id = f
        elif f.tag == SPAN_TRACE_STATE:
            v.trace_state = f
        elif f.tag == SPAN_NAME:
            v.name = f
        elif f.tag == SPAN_KIND:
            v.kind = <int32_t>f.value
        elif f.tag == SPAN_START:
            memcpy(&v.start, f.body, 8)
        elif f.tag == SPAN_END:
            memcpy(&v.end, f.body, 8)
        elif f.tag == SPAN_FLAGS:
            memcpy(&v.flags, f.body, 4)
        elif f.tag == SPAN_STATUS:
            inner.at = f.body
            inner.end = f.end
            while inner.at < inner.end and next_field(&inner, &f, AT_SPAN + 1) == OK:
                if f.tag == STATUS_CODE:
                    v.status = <int32_t>f.value


cdef bint is_service_name(Bytes at, Bytes end, Field *name) noexcept nogil:
    """Whether a KeyValue is service.name, and its string."""
    cdef Cursor c
    cdef Cursor value
    cdef Field f
    cdef bint found = False
    memset(name, 0, sizeof(name[0]))
    c.at = at
    c.end = end
    while c.at < c.end and next_field(&c, &f, AT_SPAN) == OK:
        if f.tag == KEY:
            found = f.end - f.body == 12 and memcmp(f.body, b"service.name", 12) == 0
        elif f.tag == VALUE:
            value.at = f.body
            value.end = f.end
            while value.at < value.end and next_field(&value, &f, AT_SPAN + 1) == OK:
                memset(name, 0, sizeof(name[0]))
                if f.tag == STRING_VALUE:
                    name[0] = f
    return found


cdef void read_service(Index *index, ResourceEntry *resource, Field *name) noexcept nogil:
    """The resource's service.name; of several the first counts, as in the collector."""
    cdef Gap *gaps = <Gap *>index.resource_gaps.items
    cdef Cursor c
    cdef Cursor inner
    cdef Field f
    cdef uint64_t i
    for i in range(resource.first_gap, resource.end_gap):
        c.at = gaps[i].start
        c.end = gaps[i].end
        while c.at < c.end and next_field(&c, &f, AT_RESOURCE) == OK:
            if f.tag != PARENT_SELF:
                continue
            inner.at = f.body
            inner.end = f.end
            while inner.at < inner.end and next_field(&inner, &f, AT_SCOPE) == OK:
                if f.tag == RESOURCE_ATTRIBUTE and is_service_name(f.body, f.end, name):
                    return
    memset(name, 0, sizeof(name[0]))


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
    cdef SpanEntry *spans
    cdef ScopeEntry *scopes
    cdef SpanValues values
    cdef Field name
    cdef uint64_t i
    cdef uint32_t resource = UINT32_MAX
    cdef Column column
    cdef list columns = []
    cdef list wanted = []
    cdef bytes service = b""
    for wish in names:
        if wish not in _COLUMNS:
            raise ValueError(f"no field {wish!r}; there are {', '.join(_COLUMNS)}")
        wanted.append(_COLUMNS[wish])
        columns.append([])
    reader.read(INDEX)
    spans = <SpanEntry *>index.spans.items
    scopes = <ScopeEntry *>index.scopes.items
    for i in range(index.spans.count):
        read_values(&spans[i], &values)
        for k in range(len(wanted)):
            column = <Column><int>wanted[k]
            if column != SERVICE_COLUMN:
                (<list>columns[k]).append(_value(&values, column))
                continue
            if scopes[spans[i].scope].resource != resource:
                resource = scopes[spans[i].scope].resource
                read_service(
                    index, <ResourceEntry *>index.resources.items + resource, &name
                )
                service = _bytes(&name)
            (<list>columns[k]).append(service)
    return tuple(columns)
