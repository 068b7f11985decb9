"""Decisions of consistent probability sampling, and their record in a tracestate.

The same as the collector's probabilistic_sampler to the bit: for each mode, seed and
percentage, and for each tracestate, whether it can be read or not. Randomness and
thresholds are of 56 bits; a span is kept when its randomness reaches its threshold.
"""

from libc.math cimport frexp, round
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport strtod
from libc.string cimport memchr, memcmp, memcpy

from k8strace._wire cimport (
    FIXED64,
    LEN,
    OK,
    VARINT,
    Bytes,
    Cursor,
    Field,
    next_field,
)

cdef enum:
    DIGITS = 14  # hex digits of 56 bits
    MAX_TRACESTATE = 1024
    MAX_MEMBERS = 31  # the collector refuses the 32nd, which W3C would allow
    MAX_MEMBER_VALUE = 256
    MAX_KEY = 256
    MAX_TENANT = 241
    MAX_SYSTEM = 14
    MAX_OT = 256
    MAX_NUMBER = 256  # longer texts of sampling.priority are no numbers to us
    # "ot=rv:…;th:…," in front of all that a tracestate may have had
    MAX_WRITTEN = MAX_TRACESTATE + 48
    POLICY_COUNT = 5
    PRIORITY_KEY = 17  # the length of sampling.priority

cdef enum Mode:
    MODE_HASH_SEED
    MODE_PROPORTIONAL
    MODE_EQUALIZING
    MODE_NEVER

cdef enum Policy:
    BY_HASH
    BY_TRACE_ID
    BY_RANDOMNESS
    BY_PRIORITY
    BY_NOTHING

cdef enum Priority:
    PRIORITY_NONE
    PRIORITY_KEEP
    PRIORITY_DROP

cdef struct Sampler:
    Mode mode
    uint64_t threshold
    double ratio
    int precision
    uint32_t hashed_seed
    bint fail_closed

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

cdef struct Decision:
    bint kept
    bint undecidable
    bint writes  # the span's tracestate is to be replaced by `state`
    Policy policy
    Priority priority
    TraceState state

cdef extern from *:
    """
    #define K8STRACE_ALWAYS 0ULL
    #define K8STRACE_NEVER (1ULL << 56)
    #define K8STRACE_FNV_BASIS 2166136261U
    #define K8STRACE_FNV_PRIME 16777619U
    """
    const uint64_t ALWAYS "K8STRACE_ALWAYS"
    const uint64_t NEVER "K8STRACE_NEVER"
    const uint32_t FNV_BASIS "K8STRACE_FNV_BASIS"
    const uint32_t FNV_PRIME "K8STRACE_FNV_PRIME"


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


# Thresholds


cdef inline uint64_t threshold_of(double probability, int precision) noexcept nogil:
    """The threshold that keeps `probability`, rounded to `precision` hex digits.

    A probability below 2**-56 gives NEVER.
    """
    cdef int above
    cdef int below
    cdef int shift
    cdef uint64_t threshold
    if probability < 1.0 / <double>NEVER:
        return NEVER
    if probability >= 1.0:
        return ALWAYS
    # Digits that are all 0 or all f in the threshold come on top of `precision`.
    frexp(probability, &above)
    frexp(1.0 - probability, &below)
    precision += max(above / -4, below / -4)
    threshold = NEVER - <uint64_t>round(probability * <double>NEVER)
    if precision < DIGITS:
        shift = 4 * (DIGITS - precision)
        threshold += <uint64_t>1 << (shift - 1)
        threshold = threshold >> shift << shift
    return threshold


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


# The tracestate


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


# sampling.priority


cdef inline Priority priority_of_number(double value) noexcept nogil:
    if value == 0.0:
        return PRIORITY_DROP
    return PRIORITY_KEEP if value > 0.0 else PRIORITY_NONE


cdef inline bint is_word(Bytes at, Bytes end, const char *word, int length) noexcept nogil:
    cdef int i
    if end - at != length:
        return False
    for i in range(length):
        if (at[i] | 0x20) != <uint8_t>word[i]:
            return False
    return True


cdef inline Priority priority_of_text(Bytes at, Bytes end) noexcept nogil:
    """What a text says that Go's strconv.ParseFloat can read; other texts say nothing."""
    cdef char[MAX_NUMBER + 1] text
    cdef int length = 0
    cdef bint negative = False
    cdef bint is_hex = False
    cdef bint digits = False
    cdef bint point = False
    cdef bint exponent = False
    cdef bint after_digit = False
    cdef double value
    cdef char *stop
    if end - at > MAX_NUMBER:
        return PRIORITY_NONE
    if at < end and at[0] in (c'+', c'-'):
        negative = at[0] == c'-'
        at += 1
    if is_word(at, end, b"inf", 3) or is_word(at, end, b"infinity", 8):
        return PRIORITY_NONE if negative else PRIORITY_KEEP
    if end - at > 2 and at[0] == c'0' and (at[1] | 0x20) == c'x':
        is_hex = True
        text[0] = c'0'
        text[1] = c'x'
        length = 2
        at += 2
        after_digit = True
    while at < end:
        if at[0] == c'_':
            # Go lets underscores stand between digits, strtod doesn't.
            if not after_digit or at + 1 == end:
                return PRIORITY_NONE
            if not (is_digit(at[1]) or (is_hex and not exponent and hex_value(at[1]) >= 0)):
                return PRIORITY_NONE
            after_digit = False
            at += 1
            continue
        if is_digit(at[0]) or (is_hex and not exponent and hex_value(at[0]) >= 0):
            digits = True
            after_digit = True
        elif at[0] == c'.' and not point and not exponent:
            point = True
            after_digit = False
        elif (at[0] | 0x20) == (c'p' if is_hex else c'e') and digits and not exponent:
            exponent = True
            digits = False
            after_digit = False
            if at + 1 < end and at[1] in (c'+', c'-'):
                text[length] = <char>at[0]
                length += 1
                at += 1
        else:
            return PRIORITY_NONE
        text[length] = <char>at[0]
        length += 1
        at += 1
    if not digits or (is_hex and not exponent):
        return PRIORITY_NONE
    text[length] = 0
    value = strtod(text, &stop)
    if value > 1.7976931348623157e308:
        return PRIORITY_NONE
    return PRIORITY_NONE if negative and value != 0.0 else priority_of_number(value)


cdef inline Priority priority_of_value(Bytes at, Bytes end, Priority before) noexcept nogil:
    """What an AnyValue says: its last member counts."""
    cdef Cursor c
    cdef Field f
    cdef int64_t integer
    cdef double number
    cdef Priority said = before
    c.at = at
    c.end = end
    while c.at < c.end and next_field(&c, &f, 0) == OK:
        if f.tag == (1 << 3 | LEN):
            said = priority_of_text(f.body, f.end)
        elif f.tag == (3 << 3 | VARINT):
            integer = <int64_t>f.value
            said = PRIORITY_DROP if integer == 0 else PRIORITY_KEEP
            if integer < 0:
                said = PRIORITY_NONE
        elif f.tag == (4 << 3 | FIXED64):
            memcpy(&number, f.body, 8)
            said = priority_of_number(number)
        elif f.tag in (2 << 3 | VARINT, 5 << 3 | LEN, 6 << 3 | LEN, 7 << 3 | LEN, 8 << 3):
            said = PRIORITY_NONE
    return said


cdef inline bint read_priority(Bytes at, Bytes end, Priority *said) noexcept nogil:
    """Whether a KeyValue is sampling.priority, and what it says."""
    cdef Cursor c
    cdef Field f
    cdef bint found = False
    # Nearly every KeyValue is key, value and nothing else: its key's length decides.
    if end - at > 2 and at[0] == 0x0A and at[1] < 0x80 and at[1] != PRIORITY_KEY:
        c.at = at + 2 + at[1]
        if end - c.at >= 2 and c.at[0] == 0x12 and c.at[1] < 0x80:
            if c.at + 2 + c.at[1] == end:
                return False
    said[0] = PRIORITY_NONE
    c.at = at
    c.end = end
    while c.at < c.end and next_field(&c, &f, 0) == OK:
        if f.tag == (1 << 3 | LEN):
            found = f.end - f.body == PRIORITY_KEY and (
                memcmp(f.body, b"sampling.priority", PRIORITY_KEY) == 0
            )
        elif f.tag == (2 << 3 | LEN):
            said[0] = priority_of_value(f.body, f.end, said[0])
    return found


# Decisions


cdef inline void start_sampler(
    Sampler *s, int mode, double percentage, uint32_t seed, int precision, bint fail_closed
) noexcept nogil:
    # The collector's percentage is a float32, and so is its product for the hash.
    cdef float percent = <float>min(percentage, 100.0)
    cdef uint32_t scaled
    cdef int i
    s.mode = <Mode>mode
    s.precision = precision
    s.fail_closed = fail_closed
    s.ratio = max(<double>percent / 100.0, 1.0 / <double>NEVER)
    s.hashed_seed = FNV_BASIS
    for i in range(4):
        s.hashed_seed = (s.hashed_seed ^ ((seed >> (8 * i)) & 0xFF)) * FNV_PRIME
    if s.mode == MODE_HASH_SEED:
        scaled = <uint32_t>(percent * <float>163.84)
        s.threshold = <uint64_t>(0x4000 - scaled) << 42
    else:
        s.threshold = threshold_of(s.ratio, precision)
    if percent == 0.0 or s.threshold == NEVER and s.mode == MODE_HASH_SEED:
        s.mode = MODE_NEVER
        s.threshold = NEVER


cdef inline uint64_t hashed(Sampler *s, Bytes trace_id) noexcept nogil:
    """56 bits made of a 32-bit hash, the 14 bits that decide in front."""
    cdef uint32_t state = s.hashed_seed
    cdef uint64_t bucket
    cdef uint64_t unused
    cdef int i
    for i in range(16):
        state = (state ^ trace_id[i]) * FNV_PRIME
    bucket = state & 0x3FFF
    unused = state >> 18
    return (0x3FFF - bucket) << 42 | (unused ^ unused << 10) << 14 | bucket


cdef inline uint64_t low_bits(Bytes trace_id) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(9, 16):
        value = value << 8 | trace_id[i]
    return value


cdef inline uint64_t threshold_for(Sampler *s, TraceState *state) noexcept nogil:
    if s.mode == MODE_PROPORTIONAL and state.has_th:
        return threshold_of(
            <double>(NEVER - state.th) / <double>NEVER * s.ratio, s.precision
        )
    if s.mode == MODE_EQUALIZING and state.has_th and s.threshold < state.th:
        return state.th
    return s.threshold


cdef inline void decide(
    Sampler *s, Bytes trace_id, Bytes tracestate, Bytes end, Decision *d
) noexcept nogil:
    """Decide on a span; `trace_id` is NULL where it is zero, `d.priority` is set."""
    cdef TraceState *state = &d.state
    cdef bint good = read_tracestate(state, tracestate, end)
    cdef uint64_t randomness = NEVER - 1
    cdef uint64_t threshold
    d.policy = BY_NOTHING
    d.undecidable = not good
    d.writes = good
    if s.mode == MODE_NEVER:
        d.policy = BY_PRIORITY
        d.writes = True
    elif s.mode == MODE_HASH_SEED:
        if trace_id != NULL:
            d.policy = BY_HASH
            randomness = hashed(s, trace_id)
        if not good or state.has_rv or state.has_th:
            # What a consistent sampler wrote is left alone.
            d.undecidable = True
            d.writes = False
        else:
            set_randomness(state, randomness)
    elif good:
        if state.has_rv:
            d.policy = BY_RANDOMNESS
            randomness = state.rv
        elif trace_id != NULL:
            d.policy = BY_TRACE_ID
            randomness = low_bits(trace_id)
    if not d.undecidable:
        if d.policy == BY_NOTHING:
            d.undecidable = True
        elif state.has_th and state.th > randomness:
            # A span that its own threshold should have dropped: the threshold is wrong.
            state.has_th = False
            d.undecidable = True
    if not d.undecidable:
        threshold = threshold_for(s, state)
    else:
        threshold = NEVER if s.fail_closed else ALWAYS
    if d.priority != PRIORITY_NONE:
        threshold = ALWAYS if d.priority == PRIORITY_KEEP else NEVER
        d.policy = BY_PRIORITY
    d.kept = threshold <= randomness
    d.writes = d.writes and d.kept
    if d.writes:
        set_threshold(state, threshold)
