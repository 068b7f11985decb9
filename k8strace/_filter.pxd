"""Leaving spans out of a request, or changing them, while it is read: one pass, no index.

What stays is copied as it stands, in runs as long as they go; a chunk in which nothing
changes is not copied at all. A resource or scope of which something changed gets a new
length when it ends: it is written in place, and what is behind it moved where the new
length takes more or fewer bytes. One that loses all its spans goes, too.

`filter_chunk` stops where its output has no room, says how much it wants, and goes on from
there. It has no state but what is in the struct, and that doesn't grow.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from k8strace._index cimport Walk, check_span, look_ahead
from k8strace._otlp cimport (
    CHILD,
    REQUEST_LEVEL,
    REQUEST_RESOURCE_SPANS,
    SCOPE_LEVEL,
    SPAN_ATTRIBUTE,
    SPAN_LEVEL,
    SPAN_TRACE_ID,
    SPAN_TRACE_STATE,
    TRACE_ID_SIZE,
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
    OK,
    Bytes,
    Code,
    Cursor,
    Field,
    next_field,
    varint_size,
    write_varint,
)

cdef enum:
    LEVELS = 3
    HEADER = 11  # bytes of a tag and a length, at the most
    TEXT = MAX_WRITTEN + 3  # in front of a tracestate: its tag, and a length of two bytes

cdef enum Choice:
    VALID  # keep the spans that `count` finds valid
    CHOSEN  # keep those whose verdict is not 0
    SAMPLED  # keep those that the sampler keeps

cdef struct Verdict:
    # Of a span: whether it stays, and what is put in the place of a part of it.
    bint is_kept
    Bytes cut  # NULL: it stays as it is
    Bytes cut_end
    uint64_t text_size
    uint8_t[TEXT] text
    Bytes text_start

cdef struct Counts:
    uint64_t spans
    uint64_t kept
    uint64_t first_lost  # the number of the first that isn't kept
    uint64_t[CAUSE_COUNT] rejected
    uint64_t kept_by_priority
    uint64_t out_by_priority
    uint64_t[POLICY_COUNT] kept_by
    uint64_t[POLICY_COUNT] out_by

cdef struct Open:
    # The chunk, or a resource or scope that is being read.
    Cursor left
    uint64_t header  # where its header is in the output
    uint64_t header_size
    Code flaw  # what is wrong with what it is in
    bint is_changed
    bint has_spans  # some of them stay
    bint has_lost  # some of them don't

cdef struct Filter:
    Choice choice
    Walk check  # VALID
    Bytes verdicts  # CHOSEN
    uint64_t verdict_count
    Sampler sampler  # SAMPLED
    Counts counts
    Bytes fault
    int level
    Open[LEVELS] open
    bint is_decided  # the next span's verdict is there already
    Verdict verdict
    uint8_t *out
    uint64_t room
    uint64_t written
    uint64_t wanted  # more than `room`: it can't go on without that much
    Bytes run  # what goes on in the output and isn't there yet
    Bytes run_end


cdef inline void start_chunk(Filter *f, Bytes at, Bytes end) noexcept nogil:
    f.level = REQUEST_LEVEL
    f.open[0].left.at = at
    f.open[0].left.end = end
    f.open[0].is_changed = False
    f.open[0].has_spans = False
    f.open[0].has_lost = False
    f.check.flaw = OK
    f.is_decided = False
    f.out = NULL
    f.room = 0
    f.written = 0
    f.wanted = 0
    f.run = at
    f.run_end = at
    f.fault = at


# The output


cdef inline uint64_t position(Filter *f) noexcept nogil:
    """Where the output goes on, once what is yet to be copied is there."""
    return f.written + <uint64_t>(f.run_end - f.run)


cdef inline bint has_room(Filter *f, uint64_t more) noexcept nogil:
    """Whether what is yet to be copied fits, and `more` behind it."""
    f.wanted = position(f) + more
    return f.wanted <= f.room


cdef inline void flush_run(Filter *f) noexcept nogil:
    cdef uint64_t size = <uint64_t>(f.run_end - f.run)
    if size:
        memcpy(f.out + f.written, f.run, size)
        f.written += size
        f.run = f.run_end


cdef inline bint copy_on(Filter *f, Bytes start, Bytes end) noexcept nogil:
    """Go on with these bytes; False where there is no room for those before them."""
    if start != f.run_end:
        if f.run != f.run_end:
            if not has_room(f, 0):
                return False
            flush_run(f)
        f.run = start
    f.run_end = end
    return True


cdef inline void take_back(Filter *f, uint64_t to) noexcept nogil:
    if to >= f.written:
        f.run_end = f.run + (to - f.written)
    else:
        f.written = to
        f.run_end = f.run


cdef inline bint write_span(Filter *f, Field *span) noexcept nogil:
    """A span that changed; False where it doesn't fit."""
    cdef Verdict *v = &f.verdict
    cdef uint64_t before = <uint64_t>(v.cut - span.body)
    cdef uint64_t size = before + v.text_size + <uint64_t>(span.end - v.cut_end)
    if not has_room(f, HEADER + before + v.text_size):
        return False
    flush_run(f)
    f.out[f.written] = CHILD
    f.written = <uint64_t>(write_varint(f.out + f.written + 1, size) - f.out)
    memcpy(f.out + f.written, span.body, before)
    f.written += before
    memcpy(f.out + f.written, v.text_start, v.text_size)
    f.written += v.text_size
    f.run = v.cut_end
    f.run_end = span.end
    return True


cdef inline bint close_message(Filter *f) noexcept nogil:
    """End the innermost resource or scope; False where there is no room for its length."""
    cdef Open *one = &f.open[f.level]
    cdef Open *parent = &f.open[f.level - 1]
    cdef uint64_t body = one.header + one.header_size
    cdef uint64_t size
    cdef uint64_t header_size
    if one.has_lost and not one.has_spans:
        take_back(f, one.header)
        parent.has_lost = True
    elif one.is_changed:
        if not has_room(f, HEADER):
            return False
        flush_run(f)
        size = f.written - body
        header_size = 1 + varint_size(size)
        if header_size != one.header_size:
            memmove(f.out + one.header + header_size, f.out + body, size)
            f.written = one.header + header_size + size
        f.out[one.header] = REQUEST_RESOURCE_SPANS if f.level == 1 else CHILD
        write_varint(f.out + one.header + 1, size)
    parent.is_changed |= one.is_changed
    parent.has_spans |= one.has_spans
    f.check.flaw = one.flaw
    f.level -= 1
    return True


# The spans


cdef inline void replace_tracestate(Filter *f, Field *old, Decision *d) noexcept nogil:
    """Note a span's new tracestate; `old` is of length 0 at its end where it had none."""
    cdef Verdict *v = &f.verdict
    cdef uint8_t *text = v.text + 3
    cdef uint8_t *end = write_tracestate(text, &d.state)
    cdef uint64_t size = <uint64_t>(end - text)
    if size == <uint64_t>(old.end - old.body) and memcmp(text, old.body, size) == 0:
        return
    text -= varint_size(size)
    write_varint(text, size)
    text -= 1
    text[0] = SPAN_TRACE_STATE
    v.text_start = text
    v.text_size = <uint64_t>(end - text)
    v.cut = old.start
    v.cut_end = old.end


cdef inline Code sample_span(Filter *f, Field *span) noexcept nogil:
    cdef Counts *n = &f.counts
    cdef Cursor c
    cdef Field field
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
        code = next_field(&c, &field, SPAN_LEVEL)
        if code != OK:
            f.fault = c.at
            return code
        if field.tag == SPAN_ATTRIBUTE:
            # Of several the first counts, as in the collector.
            if not has_priority and read_priority(field.body, field.end, &said):
                has_priority = True
                d.priority = said
        elif field.tag == SPAN_TRACE_ID:
            trace_id = field.body if field.end - field.body == TRACE_ID_SIZE else NULL
        elif field.tag == SPAN_TRACE_STATE:
            tracestate = field
    if trace_id != NULL and is_zero(trace_id):
        trace_id = NULL
    decide(&f.sampler, trace_id, tracestate.body, tracestate.end, &d)
    f.verdict.is_kept = d.kept
    if not d.kept:
        n.out_by[<int>d.policy] += 1
        n.out_by_priority += d.priority == PRIORITY_DROP
        if d.undecidable and d.priority == PRIORITY_NONE:
            n.rejected[<int>d.cause] += 1
        return OK
    n.kept_by[<int>d.policy] += 1
    n.kept_by_priority += d.priority == PRIORITY_KEEP
    if d.writes:
        replace_tracestate(f, &tracestate, &d)
    return OK


cdef inline Code check_fields_of(Filter *f, Field *span) noexcept nogil:
    cdef Cursor c
    cdef Field field
    cdef Code code
    c.at = span.body
    c.end = span.end
    while c.at < c.end:
        code = next_field(&c, &field, SPAN_LEVEL)
        if code != OK:
            f.fault = c.at
            return code
    return OK


cdef inline Code decide_span(Filter *f, Field *span) noexcept nogil:
    cdef Verdict *v = &f.verdict
    cdef uint64_t valid = f.check.spans
    cdef Code code
    v.cut = NULL
    if f.choice == SAMPLED:
        code = sample_span(f, span)
    elif f.choice == VALID:
        code = check_span(&f.check, span)
        f.fault = f.check.fault
        v.is_kept = f.check.spans != valid
    else:
        code = check_fields_of(f, span)
        v.is_kept = False
        if f.counts.spans < f.verdict_count:
            v.is_kept = f.verdicts[f.counts.spans] != 0
    if code == OK:
        if not v.is_kept and f.counts.kept == f.counts.spans:
            f.counts.first_lost = f.counts.spans
        f.counts.spans += 1
        f.counts.kept += v.is_kept
        f.is_decided = True
    return code


cdef inline Code filter_chunk(Filter *f) noexcept nogil:
    """Go on with the chunk until it ends, or `wanted` is above `room`."""
    cdef Open *one
    cdef Open *inner
    cdef Bytes before
    cdef Field field
    cdef Code code
    cdef bint fits
    cdef uint32_t child
    while True:
        one = &f.open[f.level]
        child = REQUEST_RESOURCE_SPANS if f.level == REQUEST_LEVEL else CHILD
        if one.left.at == one.left.end:
            if f.level == REQUEST_LEVEL:
                if one.is_changed and has_room(f, 0):
                    flush_run(f)
                return OK
            if not close_message(f):
                return OK
            continue
        before = one.left.at
        code = next_field(&one.left, &field, f.level)
        if code != OK:
            f.fault = one.left.at
            return code
        if f.level == SCOPE_LEVEL and field.tag == child:
            if not f.is_decided:
                code = decide_span(f, &field)
                if code != OK:
                    return code
            if not f.verdict.is_kept:
                one.has_lost = True
                one.is_changed = True
                fits = True
            elif f.verdict.cut == NULL:
                one.has_spans = True
                fits = copy_on(f, field.start, field.end)
            else:
                one.has_spans = True
                one.is_changed = True
                fits = write_span(f, &field)
            f.is_decided = not fits
        elif field.tag == child:
            fits = copy_on(f, field.start, field.body)
            if fits:
                f.level += 1
                inner = &f.open[f.level]
                inner.left.at = field.body
                inner.left.end = field.end
                inner.header_size = <uint64_t>(field.body - field.start)
                inner.header = position(f) - inner.header_size
                inner.is_changed = False
                inner.has_spans = False
                inner.has_lost = False
                inner.flaw = f.check.flaw
                code = look_ahead(&f.check, &field, f.level)
                if code != OK:
                    f.fault = f.check.fault
                    return code
        else:
            code = check_own(&field, f.level, &f.fault)
            if code != OK:
                return code
            fits = copy_on(f, field.start, field.end)
        if not fits:
            one.left.at = before
            return OK
