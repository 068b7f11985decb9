"""What OTLP's trace messages are made of: field tags, depths, and a check of every leaf."""

from libc.stdint cimport uint32_t, uint64_t

from k8strace._wire cimport (
    BAD_TEXT,
    FIXED32,
    FIXED64,
    LEN,
    MAX_DEPTH,
    OK,
    TOO_BIG,
    TOO_DEEP,
    VARINT,
    Bytes,
    Code,
    Cursor,
    Field,
    is_text,
    load64,
    next_field,
)

# The messages down to the span, by how deep they lie. Each of the first three holds the
# next, and fields of its own.
cdef enum:
    REQUEST_LEVEL
    RESOURCE_LEVEL
    SCOPE_LEVEL
    SPAN_LEVEL

# Field tags: number << 3 | wire type.
cdef enum:
    REQUEST_RESOURCE_SPANS = 1 << 3 | LEN
    CHILD = 2 << 3 | LEN  # scope_spans of ResourceSpans, spans of ScopeSpans
    OWN = 1 << 3 | LEN  # resource of ResourceSpans, scope of ScopeSpans
    SCHEMA_URL = 3 << 3 | LEN  # of both
    RESOURCE_ATTRIBUTE = 1 << 3 | LEN
    SPAN_TRACE_ID = 1 << 3 | LEN
    SPAN_SPAN_ID = 2 << 3 | LEN
    SPAN_TRACE_STATE = 3 << 3 | LEN
    SPAN_PARENT_ID = 4 << 3 | LEN
    SPAN_NAME = 5 << 3 | LEN
    SPAN_KIND = 6 << 3 | VARINT
    SPAN_START = 7 << 3 | FIXED64
    SPAN_END = 8 << 3 | FIXED64
    SPAN_ATTRIBUTE = 9 << 3 | LEN
    SPAN_LINK = 13 << 3 | LEN
    SPAN_STATUS = 15 << 3 | LEN
    SPAN_FLAGS = 16 << 3 | FIXED32
    LINK_TRACE_ID = 1 << 3 | LEN
    LINK_SPAN_ID = 2 << 3 | LEN
    STATUS_CODE = 3 << 3 | VARINT
    KEY = 1 << 3 | LEN
    VALUE = 2 << 3 | LEN
    STRING_VALUE = 1 << 3 | LEN

cdef enum:
    TRACE_ID_SIZE = 16
    SPAN_ID_SIZE = 8

# What a field of wire type LEN holds.
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

cdef struct Leaves:
    Bytes fault  # the field that breaks the structure
    Bytes bad_text  # the first field that isn't UTF-8, NULL where all are


cdef inline bint is_zero(Bytes trace_id) noexcept nogil:
    return load64(trace_id) | load64(trace_id + 8) == 0


cdef inline Shape shape(Shape message, uint32_t number) noexcept nogil:
    """What field `number` of a message holds."""
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


cdef inline Code check_leaves(
    Leaves *found, Shape message, Bytes at, Bytes end, int depth
) noexcept nogil:
    """Check all that is in a message at `depth`; bad text is only noted."""
    cdef Cursor c
    cdef Field f
    cdef Shape inner
    cdef Code code
    if depth > MAX_DEPTH:
        found.fault = at
        return TOO_DEEP
    c.at = at
    c.end = end
    while c.at < c.end:
        code = next_field(&c, &f, depth)
        if code != OK:
            found.fault = c.at
            return code
        if f.tag & 7 != LEN:
            continue
        inner = shape(message, f.tag >> 3)
        if inner == TEXT:
            if found.bad_text == NULL and not is_text(f.body, f.end):
                found.bad_text = f.start
        elif inner != OPAQUE:
            code = check_leaves(found, inner, f.body, f.end, depth + 1)
            if code != OK:
                return code
    return OK


cdef inline Code take_fields(
    uint64_t *left, int level, Shape message, Bytes at, Bytes end, int depth
) noexcept nogil:
    """Take one off `left` for each field of a message and below; TOO_BIG where it is 0.

    `message` is what the message is, below the levels.
    """
    cdef Cursor c
    cdef Field f
    cdef Shape inner
    cdef uint32_t child = REQUEST_RESOURCE_SPANS if level == REQUEST_LEVEL else CHILD
    cdef Code code = OK
    if depth > MAX_DEPTH:
        return TOO_DEEP
    c.at = at
    c.end = end
    while c.at < c.end and code == OK:
        code = next_field(&c, &f, depth)
        if code != OK:
            return code
        if not left[0]:
            return TOO_BIG
        left[0] -= 1
        if f.tag & 7 != LEN:
            continue
        if level == SPAN_LEVEL:
            inner = shape(message, f.tag >> 3)
        elif f.tag == child:
            code = take_fields(left, level + 1, SPAN, f.body, f.end, depth + 1)
            continue
        elif level != REQUEST_LEVEL and f.tag == OWN:
            inner = RESOURCE if level == RESOURCE_LEVEL else SCOPE
        else:
            continue
        if inner != OPAQUE and inner != TEXT:
            code = take_fields(left, SPAN_LEVEL, inner, f.body, f.end, depth + 1)
    return code


cdef inline Code check_fields(Bytes at, Bytes end, int depth, Bytes *fault) noexcept nogil:
    """Check the fields of a message at `depth`, and nothing in them."""
    cdef Cursor c
    cdef Field f
    cdef Code code
    c.at = at
    c.end = end
    while c.at < c.end:
        code = next_field(&c, &f, depth)
        if code != OK:
            fault[0] = c.at
            return code
    return OK


cdef inline Code check_own(Field *f, int level, Bytes *fault) noexcept nogil:
    """Check a field that a message above the spans has besides its children."""
    if level == REQUEST_LEVEL or f.tag != OWN:
        return OK
    return check_fields(f.body, f.end, level + 1, fault)


cdef inline Code check_own_leaves(
    Field *message, int level, Code *flaw, Bytes *fault
) noexcept nogil:
    """Check all that a resource or scope has besides its children.

    `flaw` becomes TOO_DEEP or BAD_TEXT where that is wrong with it: what is wrong with
    all the spans below it, and with nothing else.
    """
    cdef Cursor c
    cdef Field f
    cdef Leaves found
    cdef Code code
    cdef Shape shape = RESOURCE if level == RESOURCE_LEVEL else SCOPE
    found.bad_text = NULL
    c.at = message.body
    c.end = message.end
    while c.at < c.end:
        code = next_field(&c, &f, level)
        if code != OK:
            fault[0] = c.at
            return code
        if f.tag == OWN:
            code = check_leaves(&found, shape, f.body, f.end, level + 1)
            fault[0] = found.fault
            if code == TOO_DEEP:
                flaw[0] = TOO_DEEP
                return OK
            if code != OK:
                return code
        elif f.tag == SCHEMA_URL and not is_text(f.body, f.end):
            found.bad_text = f.start
    if found.bad_text != NULL:
        fault[0] = found.bad_text
        flaw[0] = BAD_TEXT
    return OK
