"""The one writer: choices of an index's spans, under copies of what they stand in.

A piece is measured, then written into as many bytes as that gave. What has no hole in it
is copied in one run; lengths are written anew only above a hole or a change.
"""

from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from k8strace._index cimport Array, Gap, Index, Node, SpanEntry, node, reserve, span_entry
from k8strace._otlp cimport (
    CHILD,
    REQUEST_LEVEL,
    REQUEST_RESOURCE_SPANS,
    RESOURCE_LEVEL,
    SCOPE_LEVEL,
    TRACE_ID_SIZE,
)
from k8strace._wire cimport (
    BAD_TRACE_ID,
    NO_MEMORY,
    OK,
    Bytes,
    Code,
    load64,
    varint_size,
    write_varint,
)

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

cdef struct Group:
    Bytes trace_id
    uint64_t count


# Sizes


cdef inline uint64_t pick(Piece *piece, uint64_t i) noexcept nogil:
    return piece.picked[i] if piece.picked != NULL else piece.first + i


cdef inline uint64_t node_of(Index *index, int level, uint64_t span) noexcept nogil:
    """The scope or resource of a span."""
    cdef uint64_t scope = span_entry(index, span).scope
    return scope if level == SCOPE_LEVEL else node(index, SCOPE_LEVEL, scope).parent


cdef inline bint is_whole(Node *one, Piece *piece, uint64_t i) noexcept nogil:
    """Whether a node can be copied as it stands: the piece goes on with all its spans."""
    cdef uint64_t count = one.end_span - one.first_span
    if one.cut or pick(piece, i) != one.first_span or count > piece.count - i:
        return False
    return pick(piece, i + count - 1) == one.end_span - 1


cdef inline uint64_t field_size(uint64_t content) noexcept nogil:
    return 1 + varint_size(content) + content


cdef inline uint64_t span_size(SpanEntry *span) noexcept nogil:
    return <uint64_t>(span.end - span.start)


cdef inline uint64_t measure_nodes(
    Index *index, Piece *piece, int level, uint64_t parent, uint64_t *i
) noexcept nogil:
    """Measure nodes of one parent (any parent at the top), from the piece's span `i` on."""
    cdef Node *one
    cdef uint64_t which
    cdef uint64_t size = 0
    while i[0] < piece.count:
        which = node_of(index, level, pick(piece, i[0]))
        one = node(index, level, which)
        if level == SCOPE_LEVEL and one.parent != parent:
            break
        if is_whole(one, piece, i[0]):
            one.size = 0
            size += <uint64_t>(one.end - one.start)
            i[0] += one.end_span - one.first_span
            continue
        one.size = one.gap_size
        if level == SCOPE_LEVEL:
            while i[0] < piece.count and pick(piece, i[0]) < one.end_span:
                one.size += span_size(span_entry(index, pick(piece, i[0])))
                i[0] += 1
        else:
            one.size += measure_nodes(index, piece, SCOPE_LEVEL, which, i)
        size += field_size(one.size)
    return size


cdef inline uint64_t measure_piece(Index *index, Piece *piece) noexcept nogil:
    """The piece's size; notes the sizes of what it is made of."""
    cdef Gap *gaps = <Gap *>index.gaps[<int>REQUEST_LEVEL].items
    cdef uint64_t size = 0
    cdef uint64_t i = 0
    for i in range(piece.first_gap, piece.end_gap):
        size += <uint64_t>(gaps[i].end - gaps[i].start)
    i = 0
    return size + measure_nodes(index, piece, RESOURCE_LEVEL, 0, &i)


# Writing


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


cdef inline uint64_t write_nodes(
    Out *out, Index *index, Piece *piece, int level, Node *parent, uint64_t i
) noexcept nogil:
    """Write the nodes of `parent` (NULL at the top); gives the span behind them."""
    cdef Node *one
    cdef Array *parent_gaps = &index.gaps[level - 1]
    cdef uint64_t gap = parent.first_gap if parent != NULL else piece.first_gap
    cdef uint64_t end_gap = parent.end_gap if parent != NULL else piece.end_gap
    cdef uint64_t span_gap
    cdef uint64_t which
    cdef uint64_t span
    while i < piece.count:
        span = pick(piece, i)
        if parent != NULL and span >= parent.end_span:
            break
        which = node_of(index, level, span)
        one = node(index, level, which)
        gap = copy_gaps(out, parent_gaps, gap, end_gap, which)
        if not one.size:
            copy(out, one.start, one.end)
            i += one.end_span - one.first_span
            continue
        if level == RESOURCE_LEVEL:
            open_field(out, REQUEST_RESOURCE_SPANS, one.size)
            i = write_nodes(out, index, piece, SCOPE_LEVEL, one, i)
            continue
        open_field(out, CHILD, one.size)
        span_gap = one.first_gap
        while i < piece.count:
            span = pick(piece, i)
            if span >= one.end_span:
                break
            span_gap = copy_gaps(out, &index.gaps[level], span_gap, one.end_gap, span)
            copy(out, span_entry(index, span).start, span_entry(index, span).end)
            i += 1
        copy_gaps(out, &index.gaps[level], span_gap, one.end_gap, UINT32_MAX)
    copy_gaps(out, parent_gaps, gap, end_gap, UINT32_MAX)
    return i


cdef inline void write_piece(Index *index, Piece *piece, uint8_t *to) noexcept nogil:
    """Write a piece that was measured just before."""
    cdef Out out
    out.at = to
    out.start = NULL
    out.end = NULL
    write_nodes(&out, index, piece, RESOURCE_LEVEL, NULL, 0)
    flush(&out)


# Choosing


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    value = (value ^ value >> 32) * <uint64_t>0xD6E8FEB86659FD93
    value = (value ^ value >> 32) * <uint64_t>0xD6E8FEB86659FD93
    return value ^ value >> 32


cdef inline Code group_spans(
    Index *index,
    uint32_t *numbers,
    uint32_t *slots,
    uint64_t mask,
    const uint64_t *key,
    Array *groups,
) noexcept nogil:
    """Number the spans' traces in order of appearance; `groups` counts their spans.

    `slots` is a hash table of `mask` + 1 zeros. Its hash has a secret key, so that nobody
    can send ids that all fall into one place.
    """
    cdef Group *one
    cdef uint64_t i
    cdef uint64_t slot
    cdef Bytes trace_id
    for i in range(index.spans.count):
        trace_id = span_entry(index, i).trace_id
        if trace_id == NULL:
            return BAD_TRACE_ID
        slot = mixed(load64(trace_id) ^ key[0])
        slot = mixed(slot ^ load64(trace_id + 8) ^ key[1]) & mask
        while True:
            if not slots[slot]:
                if not reserve(groups, 1, sizeof(Group)):
                    return NO_MEMORY
                one = <Group *>groups.items + groups.count
                one.trace_id = trace_id
                one.count = 0
                groups.count += 1
                slots[slot] = <uint32_t>groups.count
                break
            one = <Group *>groups.items + (slots[slot] - 1)
            if memcmp(one.trace_id, trace_id, TRACE_ID_SIZE) == 0:
                break
            slot = (slot + 1) & mask
        numbers[i] = slots[slot] - 1
        one.count += 1
    return OK


cdef inline void order_by_group(
    const uint32_t *numbers, uint32_t *order, uint64_t count, Array *groups
) noexcept nogil:
    """List the spans group by group; a group's `count` becomes where its list ends."""
    cdef Group *one = <Group *>groups.items
    cdef uint64_t at = 0
    cdef uint64_t i
    for i in range(groups.count):
        at += one[i].count
        one[i].count = at - one[i].count
    for i in range(count):
        order[one[numbers[i]].count] = <uint32_t>i
        one[numbers[i]].count += 1
