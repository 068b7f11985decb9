"""The tracestate of W3C Trace Context, and OpenTelemetry's `ot` member in it.

What can be read, and how it is written again, is the same as the collector's to the byte:
`ot` in front with rv and th first, the other members behind it as they stood.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from k8strace._wire cimport Bytes, Cursor

cdef enum:
    DIGITS = 14  # hex digits of 56 bits
    MAX_TRACESTATE = 1024
    MAX_MEMBERS = 31  # the collector refuses the 32nd, which W3C would allow
    MAX_MEMBER_VALUE = 256
    MAX_KEY = 256
    MAX_TENANT = 241
    MAX_SYSTEM = 14
    MAX_OT = 256
    # "ot=rv:…;th:…," in front of all that a tracestate may have had
    MAX_WRITTEN = MAX_TRACESTATE + 48

cdef extern from *:
    """
    #define K8STRACE_ALWAYS 0ULL
    #define K8STRACE_NEVER (1ULL << 56)
    """
    const uint64_t ALWAYS "K8STRACE_ALWAYS"  # the threshold that every span reaches
    const uint64_t NEVER "K8STRACE_NEVER"  # and the one that none does

cdef struct TraceState:
    Bytes at
    Bytes end
    Bytes ot  # the value of the last `ot` member, NULL where there is none
    Bytes ot_end
    bint has_rv
    bint has_th
    uint64_t rv
    uint64_t th
    uint8_t[DIGITS] rv_text
    uint8_t[DIGITS] th_text
    int th_length


# Characters and members


cdef inline bint is_lower(uint8_t c) noexcept nogil:
    return c'a' <= c <= c'z'


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return c'0' <= c <= c'9'


cdef inline int hex_value(uint8_t c) noexcept nogil:
    """The value of a hex digit, or -1."""
    if is_digit(c):
        return c - c'0'
    if c'a' <= (c | 0x20) <= c'f':
        return (c | 0x20) - c'a' + 10
    return -1


cdef inline bint is_name(Bytes at, Bytes end, bint may_start_with_digit) noexcept nogil:
    """A key, or a part of one, of W3C's tracestate; the length is not looked at."""
    if at == end or not (is_lower(at[0]) or (may_start_with_digit and is_digit(at[0]))):
        return False
    at += 1
    while at < end:
        if not (
            is_lower(at[0])
            or is_digit(at[0])
            or at[0] in (c'_', c'-', c'*', c'/')
        ):
            return False
        at += 1
    return True


cdef inline bint is_key(Bytes at, Bytes end) noexcept nogil:
    cdef Bytes sign = <Bytes>memchr(at, c'@', end - at)
    if sign == NULL:
        return is_name(at, end, False)
    return is_name(at, sign, True) and is_name(sign + 1, end, False)


cdef inline bint is_member_value(Bytes at, Bytes end) noexcept nogil:
    if at == end or end - at > MAX_MEMBER_VALUE or (end - 1)[0] == c' ':
        return False
    while at < end:
        if at[0] < 0x20 or at[0] > 0x7E or at[0] == c',' or at[0] == c'=':
            return False
        at += 1
    return True


cdef inline Bytes find(Bytes at, Bytes end, uint8_t what) noexcept nogil:
    """Where `what` stands, or `end`."""
    cdef Bytes found = <Bytes>memchr(at, what, end - at)
    return end if found == NULL else found


cdef inline bint next_member(Cursor *c, Cursor *member) noexcept nogil:
    """Take the next member of a W3C list, without the space around it."""
    if c.at == c.end:
        return False
    member.at = c.at
    member.end = find(c.at, c.end, c',')
    c.at = member.end + 1 if member.end < c.end else c.end
    while member.at < member.end and member.at[0] in (c' ', c'\t'):
        member.at += 1
    while member.at < member.end and (member.end - 1)[0] in (c' ', c'\t'):
        member.end -= 1
    return True


cdef inline bint is_short_key(Bytes at, Bytes end) noexcept nogil:
    cdef Bytes sign = find(at, end, c'@')
    if end - at > MAX_KEY:
        return False
    return sign == end or (sign - at <= MAX_TENANT and end - sign - 1 <= MAX_SYSTEM)


# Reading


cdef inline bint read_hex(Bytes at, Bytes end, uint64_t *value) noexcept nogil:
    cdef uint64_t read = 0
    cdef int digit
    if at == end:
        return False
    while at < end:
        digit = hex_value(at[0])
        if digit == -1:
            return False
        read = read << 4 | <uint64_t>digit
        at += 1
    value[0] = read
    return True


cdef inline bint is_ot(Bytes at, Bytes end) noexcept nogil:
    """Whether it is a list `key:value;key:value` as OpenTelemetry's value must be."""
    cdef Bytes stop
    cdef Bytes colon
    if at == end or end - at > MAX_OT or (end - 1)[0] == c';':
        return False
    while at < end:
        stop = find(at, end, c';')
        colon = find(at, stop, c':')
        if colon == stop or colon == at or not is_lower(at[0]):
            return False
        while at < colon:
            if not (is_lower(at[0]) or is_digit(at[0])):
                return False
            at += 1
        at += 1
        while at < stop:
            if not (
                is_lower(at[0] | 0x20)
                or is_digit(at[0])
                or at[0] in (c'.', c'_', c'-')
            ):
                return False
            at += 1
        at = stop + 1 if stop < end else end
    return True


cdef inline bint read_ot(TraceState *state, Bytes at, Bytes end) noexcept nogil:
    """Read rv and th of an `ot` value; those that can't be read are as if not there."""
    cdef bint good = True
    cdef Bytes stop
    cdef Bytes value
    cdef uint64_t number = 0
    state.ot = NULL
    state.has_rv = False
    state.has_th = False
    if not is_ot(at, end):
        return False
    state.ot = at
    state.ot_end = end
    while at < end:
        stop = find(at, end, c';')
        value = find(at, stop, c':') + 1
        if value - at == 3 and memcmp(at, b"rv:", 3) == 0:
            state.has_rv = stop - value == DIGITS and read_hex(value, stop, &number)
            if state.has_rv:
                state.rv = number
                memcpy(state.rv_text, value, DIGITS)
            else:
                good = False
        elif value - at == 3 and memcmp(at, b"th:", 3) == 0:
            state.has_th = stop - value <= DIGITS and read_hex(value, stop, &number)
            if state.has_th:
                state.th_length = <int>(stop - value)
                state.th = number << (4 * (DIGITS - state.th_length))
                memcpy(state.th_text, value, stop - value)
            else:
                good = False
        at = stop + 1 if stop < end else end
    return good


cdef inline bint read_tracestate(TraceState *state, Bytes at, Bytes end) noexcept nogil:
    """Whether the whole can be read; where not, `state` has what could be."""
    cdef Cursor rest
    cdef Cursor member
    cdef Bytes sign
    cdef int members = 0
    cdef bint good = True
    state.at = at
    state.end = at
    state.ot = NULL
    state.has_rv = False
    state.has_th = False
    if at == end:
        return True
    if end - at > MAX_TRACESTATE:
        return False
    rest.at = at
    rest.end = end
    while next_member(&rest, &member):
        if member.at == member.end:
            continue
        sign = find(member.at, member.end, c'=')
        if sign == member.end:
            return False
        if not is_key(member.at, sign) or not is_member_value(sign + 1, member.end):
            return False
    rest.at = at
    while next_member(&rest, &member):
        members += 1
        if members > MAX_MEMBERS:
            return False
        state.end = rest.at
        if member.at == member.end:
            continue
        sign = find(member.at, member.end, c'=')
        if not is_short_key(member.at, sign):
            good = False
        elif sign - member.at == 2 and memcmp(member.at, b"ot", 2) == 0:
            good = read_ot(state, sign + 1, member.end) and good
    return good


# Writing


cdef inline void write_digits(uint8_t *at, uint64_t value) noexcept nogil:
    cdef const char *digits = b"0123456789abcdef"
    cdef int i
    for i in range(DIGITS):
        at[i] = <uint8_t>digits[(value >> (4 * (DIGITS - 1 - i))) & 0xF]


cdef inline void set_threshold(TraceState *state, uint64_t threshold) noexcept nogil:
    """Record `threshold`, unless a higher one is there: sampling is never undone."""
    cdef int length = DIGITS
    if state.has_th and state.th > threshold:
        return
    state.has_th = threshold < NEVER
    state.th = threshold
    write_digits(state.th_text, threshold)
    while length > 1 and state.th_text[length - 1] == c'0':
        length -= 1
    state.th_length = length


cdef inline void set_randomness(TraceState *state, uint64_t randomness) noexcept nogil:
    state.has_rv = True
    state.rv = randomness
    write_digits(state.rv_text, randomness)


cdef inline uint8_t *put(uint8_t *to, Bytes at, Bytes end) noexcept nogil:
    memcpy(to, at, end - at)
    return to + (end - at)


cdef inline uint8_t *write_ot(uint8_t *to, TraceState *state) noexcept nogil:
    """Write the `ot` member, rv and th first; nothing where it would be empty."""
    cdef Bytes at = state.ot
    cdef Bytes stop
    if state.has_rv:
        memcpy(to, b";rv:", 4)
        to += 4
        to = put(to, state.rv_text, state.rv_text + DIGITS)
    if state.has_th:
        memcpy(to, b";th:", 4)
        to += 4
        to = put(to, state.th_text, state.th_text + state.th_length)
    while at != NULL and at < state.ot_end:
        stop = find(at, state.ot_end, c';')
        if stop - at < 3 or (
            memcmp(at, b"rv:", 3) != 0 and memcmp(at, b"th:", 3) != 0
        ):
            to[0] = c';'
            to = put(to + 1, at, stop)
        at = stop + 1 if stop < state.ot_end else state.ot_end
    return to


cdef inline uint8_t *write_tracestate(uint8_t *to, TraceState *state) noexcept nogil:
    """Write at most MAX_WRITTEN bytes: `ot`, then the other members as they stood."""
    cdef Cursor rest
    cdef Cursor member
    cdef Bytes sign
    cdef uint8_t *start = to
    # write_ot puts ";" before each of its entries; the first one falls under "ot=".
    to = write_ot(start + 2, state)
    if to == start + 2:
        to = start
    else:
        memcpy(start, b"ot=", 3)
    rest.at = state.at
    rest.end = state.end
    while next_member(&rest, &member):
        sign = find(member.at, member.end, c'=')
        if sign == member.end or not is_short_key(member.at, sign):
            continue
        if sign - member.at == 2 and memcmp(member.at, b"ot", 2) == 0:
            continue
        if to != start:
            to[0] = c','
            to += 1
        to = put(to, member.at, member.end)
    return to
