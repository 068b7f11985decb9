"""The one reader of requests, and the index of what it found.

A walk goes over a chunk once, checks it, and does with each span what its purpose says.
An index has a `Node` for each chunk, resource and scope that has a span in it, and a
`SpanEntry` for each span that was taken. What else is in a node (the resource or scope
itself, schema_url, fields that nobody knows) it has as gaps: runs of bytes, and the child
in front of which they stand.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from k8strace._otlp cimport (
    CHILD,
    LINK_SPAN_ID,
    LINK_TRACE_ID,
    REQUEST_LEVEL,
    REQUEST_RESOURCE_SPANS,
    SCOPE_LEVEL,
    SPAN,
    SPAN_ID_SIZE,
    SPAN_LINK,
    SPAN_LEVEL,
    SPAN_PARENT_ID,
    SPAN_SPAN_ID,
    SPAN_TRACE_ID,
    TRACE_ID_SIZE,
    Leaves,
    check_leaves,
    check_own,
    check_own_leaves,
    is_zero,
)
from k8strace._wire cimport (
    BAD_TEXT,
    NO_MEMORY,
    OK,
    TOO_DEEP,
    Bytes,
    Code,
    Cursor,
    Field,
    load64,
    next_field,
    varint_size,
)

cdef enum Purpose:
    COUNT
    VERDICTS  # write down whether each span is valid
    INDEX  # put each span into the index

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
    bint cut  # it can't be copied as it stands: something in it was left out

cdef struct SpanEntry:
    Bytes start
    Bytes body
    Bytes end
    Bytes trace_id  # NULL where it isn't of 16 bytes
    uint32_t scope

cdef struct Index:
    Array[3] nodes  # by level
    Array[3] gaps
    Array spans

cdef struct Walk:
    Purpose purpose
    bint deep
    Code flaw  # deep: what is wrong with the resource or scope that is walked
    Index *index  # NULL for COUNT and VERDICTS
    uint64_t spans  # COUNT, VERDICTS: the valid ones; else all
    uint64_t bad_ids
    uint64_t bad_text
    uint64_t too_deep
    uint64_t resources  # all ResourceSpans, with spans or without
    Array found  # VERDICTS: one byte a span
    Bytes fault

cdef struct SpanIds:
    Bytes trace_id
    Bytes trace_id_end
    Bytes span_id
    Bytes span_id_end
    Bytes parent_id
    Bytes parent_id_end
    bint has_bad_link


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


cdef inline void free_index(Index *index) noexcept nogil:
    cdef int level
    for level in range(SPAN_LEVEL):
        free(index.nodes[level].items)
        free(index.gaps[level].items)
    free(index.spans.items)


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
    index.spans.count += 1
    return OK


# Spans


cdef inline bint are_good(SpanIds *ids) noexcept nogil:
    cdef Py_ssize_t parent = ids.parent_id_end - ids.parent_id
    if ids.has_bad_link:
        return False
    if ids.trace_id_end - ids.trace_id != TRACE_ID_SIZE or is_zero(ids.trace_id):
        return False
    if ids.span_id_end - ids.span_id != SPAN_ID_SIZE or load64(ids.span_id) == 0:
        return False
    return parent == 0 or parent == SPAN_ID_SIZE


cdef inline Code check_link(Field *link, SpanIds *ids, Bytes *fault) noexcept nogil:
    """Note whether a link's ids have lengths that others refuse; it may have none."""
    cdef Cursor c
    cdef Field f
    cdef Code code
    cdef Py_ssize_t trace_id = 0
    cdef Py_ssize_t span_id = 0
    c.at = link.body
    c.end = link.end
    while c.at < c.end:
        code = next_field(&c, &f, SPAN_LEVEL + 1)
        if code != OK:
            fault[0] = c.at
            return code
        if f.tag == LINK_TRACE_ID:
            trace_id = f.end - f.body
        elif f.tag == LINK_SPAN_ID:
            span_id = f.end - f.body
    if trace_id not in (0, TRACE_ID_SIZE) or span_id not in (0, SPAN_ID_SIZE):
        ids.has_bad_link = True
    return OK


cdef inline Code read_ids(Field *span, SpanIds *ids, Bytes *fault) noexcept nogil:
    cdef Cursor c
    cdef Field f
    cdef Code code
    memset(ids, 0, sizeof(SpanIds))
    c.at = span.body
    c.end = span.end
    while c.at < c.end:
        code = next_field(&c, &f, SPAN_LEVEL)
        if code != OK:
            fault[0] = c.at
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
        elif f.tag == SPAN_LINK:
            code = check_link(&f, ids, fault)
            if code != OK:
                return code
    return OK


cdef inline Code check_span(Walk *w, Field *span) noexcept nogil:
    """Count a span, by what is wrong with it."""
    cdef SpanIds ids
    cdef Leaves found
    cdef bint good = False
    cdef Code code = read_ids(span, &ids, &w.fault)
    if code != OK:
        return code
    found.bad_text = NULL
    if w.flaw != OK:
        code = w.flaw
    elif w.deep:
        code = check_leaves(&found, SPAN, span.body, span.end, SPAN_LEVEL)
        if code != OK and code != TOO_DEEP:
            w.fault = found.fault
            return code
    if code == TOO_DEEP:
        w.too_deep += 1
    elif code != BAD_TEXT and not are_good(&ids):
        w.bad_ids += 1
    elif code == BAD_TEXT or found.bad_text != NULL:
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
    return add_span(w.index, span, trace_id, scope)


cdef inline uint64_t seen(Walk *w) noexcept nogil:
    """How many spans were walked, whatever is wrong with them."""
    return w.spans + w.bad_ids + w.bad_text + w.too_deep


cdef inline Code look_ahead(Walk *w, Field *message, int level) noexcept nogil:
    """Find out what is wrong with a resource or scope before its spans are walked."""
    if w.deep and w.flaw == OK and level != REQUEST_LEVEL:
        return check_own_leaves(message, level, &w.flaw, &w.fault)
    return OK


cdef inline Code walk_span(Walk *w, Field *span, uint64_t scope) noexcept nogil:
    if w.index == NULL:
        return check_span(w, span)
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
    cdef uint64_t walked = seen(w)
    cdef Code flaw = w.flaw  # of what it is in
    code = look_ahead(w, place, level)
    if code != OK:
        return code
    if index != NULL:
        nodes = &index.nodes[level]
        gaps = &index.gaps[level]
        children = &index.spans if level == SCOPE_LEVEL else &index.nodes[level + 1]
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
            code = check_own(&f, level, &w.fault)
            if code == OK and index != NULL:
                made.gap_size += <uint64_t>(f.end - f.start)
                code = add_gap(gaps, made.first_gap, &f, children.count)
        elif level == SCOPE_LEVEL:
            code = walk_span(w, &f, me)
        else:
            w.resources += level == REQUEST_LEVEL
            before = children.count if index != NULL else 0
            code = walk_node(w, &f, level + 1, me)
            if code == OK and index != NULL:
                if children.count == before or node(index, level + 1, before).cut:
                    made.cut = True
        if code != OK:
            return code
    if w.flaw != flaw:
        if seen(w) == walked:
            return w.flaw  # there are no spans that could be left out with it
        w.flaw = flaw
    if index == NULL:
        return OK
    made.end_span = <uint32_t>index.spans.count
    made.end_gap = <uint32_t>gaps.count
    if made.end_span - made.first_span != w.spans - spans:
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
