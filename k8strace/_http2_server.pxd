"""What a server's session keeps of a request; `_http2_server.pyi` says what it promises."""

from libc.stdint cimport int32_t, uint8_t

from k8strace._frames cimport PREFIX_SIZE, Buffer, Head

cdef enum Stage:
    OPENING  # its headers come
    PREFIX  # the five bytes before the message come
    WAITING  # for room; what comes is held, a window at most
    BODY  # the message comes, into its place
    SINKING  # no gRPC: what comes is dropped, up to SINK bytes
    SERVED  # handed out, not answered
    ANSWERED

cdef enum:
    KNOWN_PATH = 512  # bytes; those of handlers are shorter, and of others no more is kept
    PAIR_OVERHEAD = 192  # bytes that keeping a piece of metadata costs besides its own
    MAX_KEPT = 1024 * 1024  # of metadata, by a connection's requests that aren't answered
    MAX_KEPT_IN_ALL = 32 * 1024 * 1024  # by those of all connections


cdef class Request:
    cdef readonly int32_t stream
    cdef readonly bytes path
    cdef readonly int encoding
    cdef readonly object deadline
    cdef readonly Py_ssize_t size
    cdef readonly str reason
    cdef readonly str text
    cdef public object task
    cdef bytes message
    cdef object lease
    cdef list pairs
    cdef Py_ssize_t kept  # what they count
    cdef bint has_too_much
    cdef double since  # when it began, was announced, or was admitted
    cdef Py_ssize_t received  # of the prefix, then of the message
    cdef uint8_t[PREFIX_SIZE] prefix
    cdef Stage stage
    cdef Head head
    cdef bint has_ended
    cdef Buffer held
    cdef bytes answer
    cdef Py_ssize_t sent  # of the answer
    cdef bint is_plain  # the answer is no gRPC
