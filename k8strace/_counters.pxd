"""Counters for C: what counts on the hot path adds to them without a Python object."""

cimport cython
from libc.stdint cimport int64_t


cdef struct Spans:
    int64_t received
    int64_t recovered
    int64_t sent
    int64_t filtered
    int64_t sampled_out
    int64_t rejected
    int64_t refused
    int64_t stored
    int64_t parked
    int64_t holds_answers
    int64_t parks_on_disk


@cython.final
cdef class Value:
    cdef int64_t *count
    cdef int64_t own
    cdef object block  # keeps the memory that `count` is in

    cpdef add(self, int64_t amount)


@cython.final
cdef class Ledger:
    cdef Spans *spans
    cdef Spans own
    cdef object block
    cdef tuple key
    cdef dict reasons

    cpdef receive(self, int64_t spans)
    cpdef send(self, int64_t spans)
    cpdef park(self, int64_t spans)
    cpdef drop(self, int64_t spans, str reason)
