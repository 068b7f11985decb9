"""How much there is in a request to be read; `_complexity.pyi` says what it promises."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from k8strace._otlp cimport REQUEST_LEVEL, SPAN, take_fields
from k8strace._wire cimport OK, TOO_BIG, Bytes, Code

from k8strace.errors import MalformedPayloadError


def fields_within(tuple chunks not None, uint64_t most):
    cdef uint64_t left = most
    cdef Code code
    cdef bytes chunk
    cdef Bytes at
    cdef Bytes end
    for held in chunks:
        chunk = held
        at = <Bytes>PyBytes_AS_STRING(chunk)
        end = at + PyBytes_GET_SIZE(chunk)
        with nogil:
            code = take_fields(&left, REQUEST_LEVEL, SPAN, at, end, REQUEST_LEVEL)
        if code == TOO_BIG:
            return None
        if code != OK:
            raise MalformedPayloadError("its fields cannot be counted", 0)
    return most - left
