"""The one reader of requests, and the index of what it found.

A walk goes over a chunk once, checks it, and does with each span what its purpose says.
An index has a `Node` for each chunk, resource and scope that has a span in it, and a
`SpanEntry` for each span that was taken. What else is in a node (the resource or scope
itself, schema_url, fields that nobody knows) it has as gaps: runs of bytes, and the child
in front of which they stand.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memset

from k8strace._otlp cimport (
    CHILD,
    REQUEST_LEVEL,
    REQUEST_RESOURCE_SPANS,
    SCOPE_LEVEL,
    SPAN,
    SPAN_ATTRIBUTE,
    SPAN_ID_SIZE,
    SPAN_LEVEL,
    SPAN_PARENT_ID,
    SPAN_SPAN_ID,
    SPAN_TRACE_ID,
    SPAN_TRACE_STATE,
    TRACE_ID_SIZE,
    Leaves,
    check_leaves,
    check_own,
    is_zero,
)
from k8strace._sampling cimport (
    CAUSE_COUNT,
    POLICY_COUNT,
    PRIORITY_DROP,
    PRIORITY_KEEP,
    PRIORITY_NONE,
    Decision,
    Priority,
    Sampler,
    decide,
    read_priority,
)
from k8strace._tracestate cimport MAX_WRITTEN, write_tracestate
from k8strace._wire cimport (
    NO_MEMORY,
    OK,
    Bytes,
    Code,
    Cursor,
    Field,
    load64,
    next_field,
    varint_size,
    write_varint,
)

cdef enum Purpose:
    COUNT
    VERDICTS  # write down whether each span is valid
    INDEX  # put each span into the index
    KEEP  # put it there where its verdict says so
    SAMPLE  # put it there where the sampler says so

cdef struct Array:
    void *items
    uint64_t count
    uint64_t room

cdef struct Gap:
    Bytes start
    Bytes end
    uint32_t before  # the node, or the span, that comes next

cdef struct Node:
    Bytes start
    Bytes end
    uint32_t parent
    uint32_t first_span
    uint32_t end_span
    uint32_t first_gap
    uint32_t end_gap
    uint64_t gap_size
    uint64_t size  # of its content in the piece being written; 0: copied as it stands
    bint cut  # it can't be copied as it stands: something in it was left out or changed

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

cdef struct Index:
    Array[3] nodes  # by level
    Array[3] gaps
    Array spans
    Array texts  # bytes

cdef struct Walk:
    Purpose purpose
    bint deep
    Index *index  # NULL for COUNT and VERDICTS
    uint64_t spans  # COUNT, VERDICTS: the valid ones; else all
    uint64_t bad_ids
    uint64_t bad_text
    Array found  # VERDICTS: one byte a span
    Bytes verdicts  # KEEP
    uint64_t verdict_count
    Sampler sampler  # SAMPLE, and what came of it
    uint64_t[CAUSE_COUNT] rejected
    uint64_t kept_by_priority
    uint64_t out_by_priority
    uint64_t[POLICY_COUNT] kept_by
    uint64_t[POLICY_COUNT] out_by
    Bytes fault

cdef struct SpanIds:
    Bytes trace_id
    Bytes trace_id_end
    Bytes span_id
    Bytes span_id_end
    Bytes parent_id
    Bytes parent_id_end


# The index


cdef inline bint reserve(Array *array, uint64_t more, uint64_t size) noexcept nogil:
    """Whether there is room for `more` items of `size` bytes behind those there are."""
    cdef uint64_t room
    cdef void *items
    if array.room - array.count >= more:
        return True
    room = max(array.room * 2, array.count + more, <uint64_t>64)
    items = realloc(array.items, room * size)
    if items == NULL:
        return False
    array.items = items
    array.room = room
    return True


cdef inline Node *node(Index *index, int level, uint64_t which) noexcept nogil:
    return <Node *>index.nodes[level].items + which


cdef inline SpanEntry *span_entry(Index *index, uint64_t which) noexcept nogil:
    return <SpanEntry *>index.spans.items + which


cdef inline void clear(Index *index) noexcept nogil:
    cdef int level
    for level in range(SPAN_LEVEL):
        index.nodes[level].count = 0
        index.gaps[level].count = 0
    index.spans.count = 0
    index.texts.count = 0


cdef inline void free_index(Index *index) noexcept nogil:
    cdef int level
    for level in range(SPAN_LEVEL):
        free(index.nodes[level].items)
        free(index.gaps[level].items)
    free(index.spans.items)
    free(index.texts.items)


cdef inline Code add_gap(
    Array *gaps, uint64_t first, Field *f, uint64_t before
) noexcept nogil:
    """Put a field into the gaps of its node, which begin at `first`."""
    cdef Gap *gap
    if gaps.count > first:
        gap = <Gap *>gaps.items + gaps.count - 1
        if gap.end == f.start:
            gap.end = f.end
            return OK
    if not reserve(gaps, 1, sizeof(Gap)):
        return NO_MEMORY
    gap = <Gap *>gaps.items + gaps.count
    gap.start = f.start
    gap.end = f.end
    gap.before = <uint32_t>before
    gaps.count += 1
    return OK


cdef inline Code add_span(
    Index *index, Field *f, Bytes trace_id, uint64_t scope
) noexcept nogil:
    cdef SpanEntry *entry
    if not reserve(&index.spans, 1, sizeof(SpanEntry)):
        return NO_MEMORY
    entry = span_entry(index, index.spans.count)
    entry.start = f.start
    entry.body = f.body
    entry.end = f.end
    entry.trace_id = trace_id
    entry.scope = <uint32_t>scope
    entry.cut = NULL
    index.spans.count += 1
    return OK


# Spans


cdef inline bint are_good(SpanIds *ids) noexcept nogil:
    cdef Py_ssize_t parent = ids.parent_id_end - ids.parent_id
    if ids.trace_id_end - ids.trace_id != TRACE_ID_SIZE or is_zero(ids.trace_id):
        return False
    if ids.span_id_end - ids.span_id != SPAN_ID_SIZE or load64(ids.span_id) == 0:
        return False
    return parent == 0 or parent == SPAN_ID_SIZE


cdef inline Code check_span(Walk *w, Field *span) noexcept nogil:
    """Count a span, by what is wrong with it."""
    cdef Cursor c
    cdef Field f
    cdef SpanIds ids
    cdef Leaves found
    cdef Code code
    cdef bint good
    memset(&ids, 0, sizeof(ids))
    c.at = span.body
    c.end = span.end
    while c.at < c.end:
        code = next_field(&c, &f, SPAN_LEVEL)
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
    found.bad_text = NULL
    found.bad_ids = False
    if w.deep:
        code = check_leaves(&found, SPAN, span.body, span.end, SPAN_LEVEL)
        if code != OK:
            w.fault = found.fault
            return code
    good = False
    if found.bad_ids or not are_good(&ids):
        w.bad_ids += 1
    elif found.bad_text != NULL:
        w.bad_text += 1
    else:
        w.spans += 1
        good = True
    if w.purpose == VERDICTS:
        if not reserve(&w.found, 1, 1):
            return NO_MEMORY
        (<uint8_t *>w.found.items)[w.found.count] = good
        w.found.count += 1
    return OK


cdef inline Code index_span(Walk *w, Field *span, uint64_t scope) noexcept nogil:
    cdef Cursor c
    cdef Field f
    cdef Code code
    cdef Bytes trace_id = NULL
    c.at = span.body
    c.end = span.end
    while c.at < c.end:
        code = next_field(&c, &f, SPAN_LEVEL)
        if code != OK:
            w.fault = c.at
            return code
        if f.tag == SPAN_TRACE_ID:
            trace_id = f.body if f.end - f.body == TRACE_ID_SIZE else NULL
    w.spans += 1
    if w.purpose == KEEP:
        if w.spans > w.verdict_count or not w.verdicts[w.spans - 1]:
            return OK
    return add_span(w.index, span, trace_id, scope)


cdef inline Code rewrite(
    Index *index, SpanEntry *entry, Field *old, Decision *d
) noexcept nogil:
    """Note a span's new tracestate; `old` is of length 0 at its end where it had none."""
    cdef uint8_t *text
    cdef uint8_t *end
    cdef uint64_t size
    # In front of the text: its tag, and a length of at most two bytes.
    if not reserve(&index.texts, MAX_WRITTEN + 3, 1):
        return NO_MEMORY
    text = <uint8_t *>index.texts.items + index.texts.count + 3
    end = write_tracestate(text, &d.state)
    size = <uint64_t>(end - text)
    if size == <uint64_t>(old.end - old.body) and memcmp(text, old.body, size) == 0:
        return OK
    text -= varint_size(size)
    write_varint(text, size)
    text -= 1
    text[0] = SPAN_TRACE_STATE
    entry.text = <uint64_t>(text - <uint8_t *>index.texts.items)
    entry.text_size = <uint32_t>(end - text)
    entry.cut = old.start
    entry.cut_end = old.end
    index.texts.count = <uint64_t>(end - <uint8_t *>index.texts.items)
    return OK


cdef inline Code sample_span(Walk *w, Field *span, uint64_t scope) noexcept nogil:
    cdef Cursor c
    cdef Field f
    cdef Field tracestate  # of several the last counts
    cdef Decision d
    cdef Code code
    cdef Bytes trace_id = NULL
    cdef bint has_priority = False
    cdef Priority said = PRIORITY_NONE
    tracestate.start = span.end
    tracestate.body = span.end
    tracestate.end = span.end
    d.priority = PRIORITY_NONE
    c.at = span.body
    c.end = span.end
    while c.at < c.end:
        code = next_field(&c, &f, SPAN_LEVEL)
        if code != OK:
            w.fault = c.at
            return code
        if f.tag == SPAN_ATTRIBUTE:
            # Of several the first counts, as in the collector.
            if not has_priority and read_priority(f.body, f.end, &said):
                has_priority = True
                d.priority = said
        elif f.tag == SPAN_TRACE_ID:
            trace_id = f.body if f.end - f.body == TRACE_ID_SIZE else NULL
        elif f.tag == SPAN_TRACE_STATE:
            tracestate = f
    w.spans += 1
    if trace_id != NULL and is_zero(trace_id):
        trace_id = NULL
    decide(&w.sampler, trace_id, tracestate.body, tracestate.end, &d)
    if not d.kept:
        w.out_by[<int>d.policy] += 1
        w.out_by_priority += d.priority == PRIORITY_DROP
        if d.undecidable and d.priority == PRIORITY_NONE:
            w.rejected[<int>d.cause] += 1
        return OK
    w.kept_by[<int>d.policy] += 1
    w.kept_by_priority += d.priority == PRIORITY_KEEP
    code = add_span(w.index, span, trace_id, scope)
    if code == OK and d.writes:
        code = rewrite(
            w.index, span_entry(w.index, w.index.spans.count - 1), &tracestate, &d
        )
    return code


cdef inline Code walk_span(Walk *w, Field *span, uint64_t scope) noexcept nogil:
    if w.index == NULL:
        return check_span(w, span)
    if w.purpose == SAMPLE:
        return sample_span(w, span, scope)
    return index_span(w, span, scope)


# Down to the spans


cdef inline bint is_minimal(Field *f) noexcept nogil:
    """Whether tag and length take no more bytes than they must."""
    return f.body - f.start == 1 + <Py_ssize_t>varint_size(<uint64_t>(f.end - f.body))


cdef inline Code walk_node(
    Walk *w, Field *place, int level, uint64_t parent
) noexcept nogil:
    """Walk over a chunk, a resource or a scope, and put it into the index."""
    cdef uint32_t child = REQUEST_RESOURCE_SPANS if level == REQUEST_LEVEL else CHILD
    cdef Cursor c
    cdef Field f
    cdef Code code
    cdef Index *index = w.index
    cdef Array *nodes = NULL
    cdef Array *gaps = NULL
    cdef Array *children = NULL
    cdef Node made
    cdef uint64_t me = 0
    cdef uint64_t before
    cdef uint64_t spans = w.spans
    cdef uint64_t texts = 0
    if index != NULL:
        nodes = &index.nodes[level]
        gaps = &index.gaps[level]
        children = &index.spans if level == SCOPE_LEVEL else &index.nodes[level + 1]
        texts = index.texts.count
        me = nodes.count
        if not reserve(nodes, 1, sizeof(Node)):
            return NO_MEMORY
        nodes.count += 1
        made.start = place.start
        made.end = place.end
        made.parent = <uint32_t>parent
        made.first_span = <uint32_t>index.spans.count
        made.first_gap = <uint32_t>gaps.count
        made.gap_size = 0
        made.size = 0
        made.cut = level != REQUEST_LEVEL and not is_minimal(place)
    c.at = place.body
    c.end = place.end
    while c.at < c.end:
        code = next_field(&c, &f, level)
        if code != OK:
            w.fault = c.at
            return code
        if f.tag != child:
            code = check_own(&f, level, w.deep, &w.fault)
            if code == OK and index != NULL:
                made.gap_size += <uint64_t>(f.end - f.start)
                code = add_gap(gaps, made.first_gap, &f, children.count)
        elif level == SCOPE_LEVEL:
            code = walk_span(w, &f, me)
        else:
            before = children.count if index != NULL else 0
            code = walk_node(w, &f, level + 1, me)
            if code == OK and index != NULL:
                if children.count == before or node(index, level + 1, before).cut:
                    made.cut = True
        if code != OK:
            return code
    if index == NULL:
        return OK
    made.end_span = <uint32_t>index.spans.count
    made.end_gap = <uint32_t>gaps.count
    if made.end_span - made.first_span != w.spans - spans or texts != index.texts.count:
        made.cut = True
    if level != REQUEST_LEVEL and made.end_span == made.first_span:
        # Nothing of it will be written, and a flood of empty ones takes no memory.
        nodes.count = me
        gaps.count = made.first_gap
    else:
        node(index, level, me)[0] = made
    return OK


cdef inline Code walk_chunk(Walk *w, Bytes at, Bytes end) noexcept nogil:
    cdef Field place
    place.start = at
    place.body = at
    place.end = end
    return walk_node(w, &place, REQUEST_LEVEL, 0)
