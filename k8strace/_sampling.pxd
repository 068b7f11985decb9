"""Decisions of consistent probability sampling.

The same as the collector's probabilistic_sampler to the bit, for each mode, seed and
percentage, and for each tracestate, whether it can be read or not. Randomness and
thresholds are of 56 bits; a span is kept when its randomness reaches its threshold.
"""

from libc.math cimport frexp, round
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport strtod
from libc.string cimport memcmp, memcpy

from k8strace._tracestate cimport (
    ALWAYS,
    DIGITS,
    NEVER,
    TraceState,
    hex_value,
    is_digit,
    read_tracestate,
    set_randomness,
    set_threshold,
)
from k8strace._wire cimport FIXED64, LEN, OK, VARINT, Bytes, Cursor, Field, next_field

cdef enum:
    MAX_NUMBER = 256  # longer texts of sampling.priority are no numbers to us
    POLICY_COUNT = 5
    CAUSE_COUNT = 4
    PRIORITY_KEY = 17  # the length of sampling.priority
    FNV_PRIME = 16777619

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

cdef enum Cause:  # why nothing can be decided about a span
    NO_TRACE_ID
    BAD_TRACESTATE
    SAMPLED_BEFORE  # by a consistent sampler: a hash would not be consistent with it
    WRONG_THRESHOLD  # one that should have dropped the span

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

cdef struct Decision:
    bint kept
    bint undecidable
    Cause cause
    bint writes  # the span's tracestate is to be replaced by `state`
    Policy policy
    Priority priority
    TraceState state

cdef extern from *:
    """
    #define K8STRACE_FNV_BASIS 2166136261U
    """
    const uint32_t FNV_BASIS "K8STRACE_FNV_BASIS"


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
    d.cause = BAD_TRACESTATE
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
            d.cause = SAMPLED_BEFORE if good else BAD_TRACESTATE
            d.writes = False
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
            d.cause = NO_TRACE_ID
        elif state.has_th and state.th > randomness:
            # A span that its own threshold should have dropped: the threshold is wrong.
            state.has_th = False
            d.undecidable = True
            d.cause = WRONG_THRESHOLD
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
        if s.mode == MODE_HASH_SEED:
            set_randomness(state, randomness)
        set_threshold(state, threshold)
