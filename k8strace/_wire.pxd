"""A cursor over protobuf's wire format: inline, pure C, never raises.

What is accepted is what protobuf's own parser (upb) accepts: tags and lengths of at most
5 bytes, varints of at most 10, groups as fields that nobody knows, and nothing nested
deeper than `MAX_DEPTH`; only a field number 0 inside a group, which others refuse, is
refused here too. `next_field` leaves the cursor at the start of the field that is at
fault and returns what is wrong; `OK` is the only good code.
"""

from libc.stdint cimport INT32_MAX, UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

ctypedef const uint8_t *Bytes

cdef enum Code:
    OK
    TRUNCATED
    LONG_VARINT
    BAD_FIELD_NUMBER
    BAD_WIRE_TYPE
    LONG_LENGTH
    UNMATCHED_GROUP
    TOO_DEEP
    BAD_TEXT
    BAD_TRACE_ID
    TOO_BIG
    NO_MEMORY

cdef enum WireType:
    VARINT = 0
    FIXED64 = 1
    LEN = 2
    GROUP = 3
    END_GROUP = 4
    FIXED32 = 5

cdef enum:
    MAX_DEPTH = 100  # upb's default, so that what we take in is read by everyone
    MAX_TAG_BYTES = 5
    MAX_LENGTH_BYTES = 5
    MAX_VARINT_BYTES = 10
    MAX_CHUNK = 0x7FFFFFFF  # upb takes no longer message

cdef struct Cursor:
    Bytes at
    Bytes end

cdef struct Field:
    uint32_t tag  # field number and wire type
    Bytes start  # of the tag
    Bytes body  # behind tag and length
    Bytes end
    uint64_t value  # of a varint


cdef inline Code long_varint(
    Cursor *c, uint64_t *value, int max_bytes
) noexcept nogil:
    cdef uint64_t read = 0
    cdef int i
    for i in range(max_bytes):
        if c.at + i >= c.end:
            return TRUNCATED
        read |= <uint64_t>(c.at[i] & 0x7F) << (7 * i)
        if c.at[i] < 0x80:
            c.at += i + 1
            value[0] = read
            return OK
    return LONG_VARINT


cdef inline Code varint(Cursor *c, uint64_t *value, int max_bytes) noexcept nogil:
    if c.at < c.end and c.at[0] < 0x80:
        value[0] = c.at[0]
        c.at += 1
        return OK
    return long_varint(c, value, max_bytes)


cdef inline Code tag(Cursor *c, uint32_t *value) noexcept nogil:
    cdef uint64_t read = 0
    cdef Code code = varint(c, &read, MAX_TAG_BYTES)
    if code != OK:
        return code
    if read < 8 or read > UINT32_MAX:
        return BAD_FIELD_NUMBER
    value[0] = <uint32_t>read
    return OK


cdef inline Code skip(Cursor *c, uint32_t field_tag, uint64_t *value) noexcept nogil:
    """Step over the value of a field that is no group."""
    cdef uint32_t wire = field_tag & 7
    cdef Code code
    if wire == LEN:
        code = varint(c, value, MAX_LENGTH_BYTES)
        if code != OK:
            return code
        if value[0] > INT32_MAX:
            return LONG_LENGTH
        if value[0] > <uint64_t>(c.end - c.at):
            return TRUNCATED
        c.at += value[0]
        return OK
    if wire == VARINT:
        return varint(c, value, MAX_VARINT_BYTES)
    if wire == FIXED64 or wire == FIXED32:
        value[0] = 8 if wire == FIXED64 else 4
        if value[0] > <uint64_t>(c.end - c.at):
            return TRUNCATED
        c.at += value[0]
        return OK
    if wire == END_GROUP:
        return UNMATCHED_GROUP
    return BAD_WIRE_TYPE


cdef inline Code skip_group(Cursor *c, uint32_t number, int depth) noexcept nogil:
    """Step over what is in a group, in a message at `depth`, and the tag that ends it."""
    cdef uint32_t[MAX_DEPTH + 1] open_groups
    cdef int base = depth
    cdef uint32_t inner = 0
    cdef uint64_t value = 0
    cdef Code code
    depth += 1
    if depth > MAX_DEPTH:
        return TOO_DEEP
    open_groups[depth] = number
    while depth > base:
        code = tag(c, &inner)
        if code != OK:
            return code
        if inner & 7 == GROUP:
            depth += 1
            if depth > MAX_DEPTH:
                return TOO_DEEP
            open_groups[depth] = inner >> 3
        elif inner & 7 == END_GROUP:
            if open_groups[depth] != inner >> 3:
                return UNMATCHED_GROUP
            depth -= 1
        else:
            code = skip(c, inner, &value)
            if code != OK:
                return code
    return OK


cdef inline Code any_field(Cursor *c, Field *f, int depth) noexcept nogil:
    cdef Code code
    code = tag(c, &f.tag)
    if code == OK:
        if f.tag & 7 == GROUP:
            f.body = c.at
            code = skip_group(c, f.tag >> 3, depth)
        else:
            code = skip(c, f.tag, &f.value)
            if code == OK:
                f.body = c.at - f.value if f.tag & 7 != VARINT else f.start
    if code != OK:
        c.at = f.start
        return code
    f.end = c.at
    return OK


cdef inline Code next_field(Cursor *c, Field *f, int depth) noexcept nogil:
    """Read the field at the cursor, in a message at `depth`, and step over it."""
    cdef Bytes at = c.at
    f.start = at
    # Nearly all fields: a tag of one byte, and a length of one.
    if c.end - at >= 2 and at[0] & 0x87 == LEN and at[0] >= 8 and at[1] < 0x80:
        f.tag = at[0]
        f.value = at[1]
        f.body = at + 2
        if f.value <= <uint64_t>(c.end - f.body):
            f.end = f.body + f.value
            c.at = f.end
            return OK
    return any_field(c, f, depth)


cdef inline uint64_t varint_size(uint64_t value) noexcept nogil:
    cdef uint64_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t *write_varint(uint8_t *at, uint64_t value) noexcept nogil:
    while value >= 0x80:
        at[0] = <uint8_t>(value | 0x80)
        at += 1
        value >>= 7
    at[0] = <uint8_t>value
    return at + 1


cdef inline uint64_t load64(Bytes at) noexcept nogil:
    """8 bytes in the machine's order."""
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline bint is_text(Bytes at, Bytes end) noexcept nogil:
    """Whether the bytes are UTF-8 (RFC 3629: shortest forms, no surrogates)."""
    cdef uint8_t first
    cdef int more
    cdef uint8_t low
    cdef uint8_t high
    while True:
        while end - at >= 8 and load64(at) & <uint64_t>0x8080808080808080 == 0:
            at += 8
        while at < end and at[0] < 0x80:
            at += 1
            if end - at >= 8 and load64(at) & <uint64_t>0x8080808080808080 == 0:
                break
        if at == end:
            return True
        first = at[0]
        if first < 0x80:
            continue
        low = 0x80
        high = 0xBF
        if 0xC2 <= first <= 0xDF:
            more = 1
        elif 0xE0 <= first <= 0xEF:
            more = 2
            if first == 0xE0:
                low = 0xA0
            elif first == 0xED:
                high = 0x9F
        elif 0xF0 <= first <= 0xF4:
            more = 3
            if first == 0xF0:
                low = 0x90
            elif first == 0xF4:
                high = 0x8F
        else:
            return False
        if end - at <= more:
            return False
        if at[1] < low or at[1] > high:
            return False
        at += 2
        more -= 1
        while more:
            if at[0] & 0xC0 != 0x80:
                return False
            at += 1
            more -= 1
