"""Single values of spans and resources, for columns.

Of several equal fields the last counts, as in protobuf; what isn't there is empty or 0.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from k8strace._index cimport Gap, Index, Node, SpanEntry
from k8strace._otlp cimport (
    KEY,
    OWN,
    RESOURCE_ATTRIBUTE,
    RESOURCE_LEVEL,
    SCOPE_LEVEL,
    SPAN_END,
    SPAN_FLAGS,
    SPAN_KIND,
    SPAN_LEVEL,
    SPAN_NAME,
    SPAN_PARENT_ID,
    SPAN_SPAN_ID,
    SPAN_START,
    SPAN_STATUS,
    SPAN_TRACE_ID,
    SPAN_TRACE_STATE,
    STATUS_CODE,
    STRING_VALUE,
    VALUE,
)
from k8strace._wire cimport OK, Bytes, Cursor, Field, next_field

cdef struct SpanValues:
    Field trace_id
    Field span_id
    Field parent_id
    Field trace_state
    Field name
    uint64_t start
    uint64_t end
    uint32_t flags
    int32_t kind
    int32_t status


cdef inline void read_values(SpanEntry *span, SpanValues *v) noexcept nogil:
    """Read a span that was walked over."""
    cdef Cursor c
    cdef Cursor inner
    cdef Field f
    memset(v, 0, sizeof(v[0]))
    c.at = span.body
    c.end = span.end
    while c.at < c.end and next_field(&c, &f, SPAN_LEVEL) == OK:
        if f.tag == SPAN_TRACE_ID:
            v.trace_id = f
        elif f.tag == SPAN_SPAN_ID:
            v.span_id = f
        elif f.tag == SPAN_PARENT_ID:
            v.parent_id = f
        elif f.tag == SPAN_TRACE_STATE:
            v.trace_state = f
        elif f.tag == SPAN_NAME:
            v.name = f
        elif f.tag == SPAN_KIND:
            v.kind = <int32_t>f.value
        elif f.tag == SPAN_START:
            memcpy(&v.start, f.body, 8)
        elif f.tag == SPAN_END:
            memcpy(&v.end, f.body, 8)
        elif f.tag == SPAN_FLAGS:
            memcpy(&v.flags, f.body, 4)
        elif f.tag == SPAN_STATUS:
            inner.at = f.body
            inner.end = f.end
            while inner.at < inner.end and next_field(&inner, &f, SPAN_LEVEL + 1) == OK:
                if f.tag == STATUS_CODE:
                    v.status = <int32_t>f.value


cdef inline bint is_service_name(Bytes at, Bytes end, Field *name) noexcept nogil:
    """Whether a KeyValue is service.name, and its string."""
    cdef Cursor c
    cdef Cursor value
    cdef Field f
    cdef bint found = False
    memset(name, 0, sizeof(name[0]))
    c.at = at
    c.end = end
    while c.at < c.end and next_field(&c, &f, SPAN_LEVEL) == OK:
        if f.tag == KEY:
            found = f.end - f.body == 12 and memcmp(f.body, b"service.name", 12) == 0
        elif f.tag == VALUE:
            value.at = f.body
            value.end = f.end
            while value.at < value.end and next_field(&value, &f, SPAN_LEVEL + 1) == OK:
                memset(name, 0, sizeof(name[0]))
                if f.tag == STRING_VALUE:
                    name[0] = f
    return found


cdef inline void read_service(Index *index, Node *resource, Field *name) noexcept nogil:
    """The resource's service.name; of several the first counts, as in the collector."""
    cdef Gap *gaps = <Gap *>index.gaps[<int>RESOURCE_LEVEL].items
    cdef Cursor c
    cdef Cursor inner
    cdef Field f
    cdef uint64_t i
    for i in range(resource.first_gap, resource.end_gap):
        c.at = gaps[i].start
        c.end = gaps[i].end
        while c.at < c.end and next_field(&c, &f, RESOURCE_LEVEL) == OK:
            if f.tag != OWN:
                continue
            inner.at = f.body
            inner.end = f.end
            while inner.at < inner.end and next_field(&inner, &f, SCOPE_LEVEL) == OK:
                if f.tag == RESOURCE_ATTRIBUTE and is_service_name(f.body, f.end, name):
                    return
    memset(name, 0, sizeof(name[0]))
