"""What a server's session keeps of a request; `_http2_server.pyi` says what it promises."""

from libc.stdint cimport int32_t, uint8_t

cimport k8strace._nghttp2 as h2
from k8strace._frames cimport PREFIX_SIZE, Buffer, Head
from k8strace._http2 cimport Session

cdef enum Stage:
    OPENING  # its headers come
    PREFIX  # the five bytes before the message come
    WAITING  # for room; what comes is held, a window at most
    BODY  # the message comes, into its place
    SINKING  # no gRPC: what comes is dropped, up to SINK bytes
    SERVED  # handed out, not answered
    ANSWERED
    ASKED  # who the caller is; what comes is held, a window at most

cdef enum:
    KNOWN_PATH = 512  # bytes; those of handlers are shorter, and of others no more is kept
    PAIR_OVERHEAD = 192  # bytes that keeping a piece of metadata costs besides its own
    MAX_KEPT = 1024 * 1024  # of metadata, by a connection's requests that aren't answered
    STREAM_COST = 1024  # bytes that an open stream costs, its answer's headers among them
    STREAMS = 8  # are paid for at a time; as many are in what a connection costs


cdef class Request:
    cdef readonly int32_t stream
    cdef readonly bytes path
    cdef readonly int encoding
    cdef readonly object deadline
    cdef readonly Py_ssize_t size
    cdef readonly str reason
    cdef readonly str text
    cdef public object task
    cdef public object caller
    cdef readonly bytes credential
    cdef bytes message
    cdef object lease
    cdef list pairs
    cdef readonly Py_ssize_t kept  # what they count
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


cdef class ServerSession(Session):
    cdef dict streams
    cdef object admit
    cdef object afford
    cdef object give
    cdef Py_ssize_t paid  # streams
    cdef size_t unread  # bytes of a frame of headers that nghttp2 may ignore
    cdef Py_ssize_t stray  # bytes of headers of a stream that was refused
    cdef int oversized  # blocks of headers
    cdef readonly Py_ssize_t body_bytes
    cdef frozenset paths
    cdef bytes last_path
    cdef Py_ssize_t max_message
    cdef Py_ssize_t max_headers
    cdef bint keeps_metadata
    cdef Py_ssize_t kept
    cdef Py_ssize_t early  # bytes that are held for messages that wait, as they grow
    cdef double last_ping
    cdef double ping_interval
    cdef bint permits_pings
    cdef int strikes
    cdef int32_t last_id
    cdef list gaps

    cdef int send_answer(
        self, Request request, bytes body, const char *status, const char *content_type
    ) except -1
    cdef int send_headers(self, Request request, const h2.nv *nv, size_t count) except -1
    cdef int settle(self, Request request) except -1
    cdef int sending(self, Py_ssize_t size) except -1
    cdef int reject(self, Request request, str reason, int code, str text) except -1
    cdef int reject_http(self, Request request) except -1
    cdef bint keep_bytes(self, Request request, Py_ssize_t size) except -1
    cdef int keep_pair(self, Request request, bytes name, bytes value) except -1
    cdef int drop_kept(self, Request request) except -1
    cdef int drop_held(self, Request request) except -1
    cdef int give_held(self, Py_ssize_t size) except -1
    cdef int hold_early(
        self, Request request, const uint8_t *data, Py_ssize_t size
    ) except -1
    cdef bint pays(self) except -1
    cdef int refuse_stream(self, int32_t stream) except -1
    cdef int check_headers(self, size_t size) except -1
    cdef int opened(self, Request request) except -1
    cdef int announced(self, Request request, Py_ssize_t here) except -1
    cdef int begin_body(self, Request request) except -1
    cdef int end(self, Request request) except -1
    cdef int gone(self, Request request) except -1
    cdef int pinged(self) except -1
