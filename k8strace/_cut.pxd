"""Cutting a request into pieces, from the front, without an index of it.

A `Cut` remembers where the next piece begins: the chunk, the resource and the scope that
are open there, and how far each has been read. `advance` goes on from there, first to find
where the longest piece within the limits ends, then to write it. Both make the same
decisions: a resource or scope that fits is taken as it stands, one that doesn't is opened,
and what it has besides its children is repeated in each piece that has some of them. One
without spans is left out. What a Cut holds is a copy of that, of the open ones; it is made
while a piece is written, whose search has said how large it will be.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from k8strace._otlp cimport (
    CHILD,
    REQUEST_LEVEL,
    REQUEST_RESOURCE_SPANS,
    RESOURCE_LEVEL,
    SCOPE_LEVEL,
)
from k8strace._pieces cimport Out, copy, field_size, flush, open_field
from k8strace._wire cimport NO_MEMORY, OK, Bytes, Code, Cursor, Field, next_field

cdef enum:
    LEVELS = 3
    MOST_OPENED = 8  # resources and scopes in a piece that are not there as they stand

cdef struct Place:
    uint64_t chunk
    int level  # of the innermost message that is open
    Bytes[LEVELS] body
    Bytes[LEVELS] at
    Bytes[LEVELS] end

cdef struct Head:
    # What an open resource or scope has besides its children.
    Bytes body  # of which one
    uint64_t size
    Bytes copied_body  # of which one `copied` is
    uint8_t *copied
    uint64_t room  # of `copied`
    uint64_t most  # the largest size so far

cdef struct Cut:
    const Cursor *chunks
    uint64_t count
    uint64_t max_spans  # 0: no limit
    uint64_t max_bytes
    Place begin  # of the piece
    Place end
    uint64_t spans
    uint64_t size
    uint64_t[MOST_OPENED] opened  # their sizes, in order; 0: it is not in the piece
    Head[LEVELS] heads
    Bytes fault


cdef inline void open_chunk(Cut *c, Place *place, uint64_t chunk) noexcept nogil:
    place.chunk = chunk
    place.level = REQUEST_LEVEL
    if chunk < c.count:
        place.at[0] = c.chunks[chunk].at
        place.body[0] = place.at[0]
        place.end[0] = c.chunks[chunk].end


cdef inline void free_heads(Cut *c) noexcept nogil:
    cdef int level
    for level in range(LEVELS):
        free(c.heads[level].copied)


cdef inline uint64_t heads_size(Cut *c) noexcept nogil:
    """The bytes that the copies take when the piece that was found is written."""
    return c.heads[<int>RESOURCE_LEVEL].most + c.heads[<int>SCOPE_LEVEL].most


cdef inline uint32_t child_of(int level) noexcept nogil:
    return REQUEST_RESOURCE_SPANS if level == REQUEST_LEVEL else CHILD


cdef inline Code count_below(
    Cut *c, Field *f, int level, uint64_t most, uint64_t *spans
) noexcept nogil:
    """Count the spans in a resource or scope at `level`, up to `most` or a few more."""
    cdef Cursor cursor
    cdef Field inner
    cdef Code code
    cursor.at = f.body
    cursor.end = f.end
    while cursor.at < cursor.end and spans[0] < most:
        code = next_field(&cursor, &inner, level)
        if code != OK:
            c.fault = cursor.at
            return code
        if inner.tag != CHILD:
            continue
        if level == SCOPE_LEVEL:
            spans[0] += 1
            continue
        code = count_below(c, &inner, SCOPE_LEVEL, most, spans)
        if code != OK:
            return code
    return OK


cdef inline Code scan_head(
    Cut *c, Place *place, uint8_t *to, uint64_t *size
) noexcept nogil:
    """Measure what the innermost open message has besides its children; copy it to `to`."""
    cdef int level = place.level
    cdef Cursor cursor
    cdef Field f
    cdef Code code
    cursor.at = place.body[level]
    cursor.end = place.end[level]
    size[0] = 0
    while cursor.at < cursor.end:
        code = next_field(&cursor, &f, level)
        if code != OK:
            c.fault = cursor.at
            return code
        if f.tag != CHILD:
            if to != NULL:
                memcpy(to + size[0], f.start, <size_t>(f.end - f.start))
            size[0] += <uint64_t>(f.end - f.start)
    return OK


cdef inline Code measure_head(Cut *c, Place *place) noexcept nogil:
    cdef Head *head = &c.heads[place.level]
    cdef Code code
    if head.body == place.body[place.level] and head.body != NULL:
        return OK
    head.body = NULL
    code = scan_head(c, place, NULL, &head.size)
    if code != OK:
        return code
    head.body = place.body[place.level]
    head.most = max(head.most, head.size)
    return OK


cdef inline Code copy_head(Cut *c, Place *place) noexcept nogil:
    """Copy what was measured, unless it is there already."""
    cdef Head *head = &c.heads[place.level]
    cdef void *copied
    if head.copied_body == head.body or not head.size:
        return OK
    head.copied_body = NULL
    if head.size > head.room:
        copied = realloc(head.copied, head.size)
        if copied == NULL:
            return NO_MEMORY
        head.copied = <uint8_t *>copied
        head.room = head.size
    head.copied_body = head.body
    return scan_head(c, place, head.copied, &head.size)


cdef inline uint64_t added(
    int level, uint64_t complete, uint64_t *inner, uint64_t size
) noexcept nogil:
    """The size of the piece with `size` more bytes in its innermost open message."""
    if level == SCOPE_LEVEL:
        size = field_size(inner[<int>SCOPE_LEVEL] + size)
    if level >= RESOURCE_LEVEL:
        size = field_size(inner[<int>RESOURCE_LEVEL] + size)
    return complete + size


cdef inline bint is_at(Place *one, Place *other) noexcept nogil:
    if one.chunk != other.chunk or one.level != other.level:
        return False
    return one.at[one.level] == other.at[other.level]


cdef inline Code advance(Cut *c, Out *out) noexcept nogil:
    """Find the end of the piece that begins at `begin`; with `out`, write that piece.

    What stands between resources goes with the one that comes next, or else the last.
    """
    cdef Place now = c.begin
    cdef Place mark  # in front of what stands between resources
    cdef bint is_marked = False
    cdef uint64_t marked = 0
    cdef uint64_t spans = 0
    cdef uint64_t complete = 0  # bytes of what is not open any more
    cdef uint64_t[LEVELS] inner  # of the content of what is open
    cdef bint[LEVELS] has_some
    cdef int[LEVELS] number
    cdef int opened = 0
    cdef int level
    cdef bint is_opening = now.level > 0
    cdef int until = now.level
    cdef Cursor cursor
    cdef Field f
    cdef uint64_t found
    cdef uint64_t size
    cdef uint64_t most
    cdef Code code
    now.level = 0
    while True:
        if is_opening:
            # A message that is new here, or one in which the piece begins.
            now.level += 1
            level = now.level
            code = measure_head(c, &now)
            if code != OK:
                return code
            inner[level] = c.heads[level].size
            has_some[level] = False
            number[level] = opened
            if out != NULL and c.opened[opened]:
                code = copy_head(c, &now)
                if code != OK:
                    return code
                open_field(out, <uint8_t>child_of(level - 1), c.opened[opened])
                copy(out, c.heads[level].copied, c.heads[level].copied + inner[level])
            opened += 1
            is_opening = now.level < until
            continue
        until = 0
        level = now.level
        if out != NULL and is_at(&now, &c.end):
            break
        if now.at[level] == now.end[level]:
            if level == REQUEST_LEVEL:
                if now.chunk + 1 >= c.count:
                    open_chunk(c, &now, c.count)
                    break
                open_chunk(c, &now, now.chunk + 1)
                continue
            if out == NULL:
                c.opened[number[level]] = inner[level] if has_some[level] else 0
            if has_some[level]:
                if level == SCOPE_LEVEL:
                    inner[<int>RESOURCE_LEVEL] += field_size(inner[level])
                    has_some[<int>RESOURCE_LEVEL] = True
                else:
                    complete += field_size(inner[level])
            now.level -= 1
            continue
        cursor.at = now.at[level]
        cursor.end = now.end[level]
        code = next_field(&cursor, &f, level)
        if code != OK:
            c.fault = cursor.at
            return code
        size = <uint64_t>(f.end - f.start)
        if f.tag != child_of(level):
            if level == REQUEST_LEVEL:
                if not is_marked:
                    is_marked = True
                    mark = now
                    marked = complete
                complete += size
                if out != NULL:
                    copy(out, f.start, f.end)
            now.at[level] = cursor.at
            continue
        found = 1
        if level != SCOPE_LEVEL:
            found = 0
            most = UINT64_MAX
            if c.max_spans:
                most = c.max_spans - spans + 1 if c.max_spans > spans else 1
            if c.max_bytes and added(level, complete, inner, size) > c.max_bytes:
                most = 1  # it has to be opened anyway
            code = count_below(c, &f, level + 1, most, &found)
            if code != OK:
                return code
            if not found:
                now.at[level] = cursor.at
                continue
        if (not c.max_spans or spans + found <= c.max_spans) and (
            not c.max_bytes or added(level, complete, inner, size) <= c.max_bytes
        ) or (level == SCOPE_LEVEL and not spans):
            spans += found
            if level == REQUEST_LEVEL:
                complete += size
            else:
                inner[level] += size
                has_some[level] = True
            is_marked = False
            if out != NULL:
                copy(out, f.start, f.end)
            now.at[level] = cursor.at
            continue
        if level == SCOPE_LEVEL or opened == MOST_OPENED:
            if is_marked:
                now = mark
                complete = marked
            break
        now.at[level] = cursor.at
        now.body[level + 1] = f.body
        now.at[level + 1] = f.body
        now.end[level + 1] = f.end
        is_opening = True
    if out != NULL:
        flush(out)
        return OK
    for level in range(now.level, REQUEST_LEVEL, -1):
        c.opened[number[level]] = inner[level] if has_some[level] else 0
        if not has_some[level]:
            continue
        if level == SCOPE_LEVEL:
            inner[<int>RESOURCE_LEVEL] += field_size(inner[level])
            has_some[<int>RESOURCE_LEVEL] = True
        else:
            complete += field_size(inner[level])
    c.end = now
    c.spans = spans
    c.size = complete
    return OK
