"""The base of sessions; `_http2.pyx` says what is overridden, and when it is called."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

cimport k8strace._nghttp2 as h2
from k8strace._frames cimport Buffer

cdef enum:
    OUTPUT = 256 * 1024  # bytes after which `pump` returns, for the transport to say more


cdef class Session:
    cdef h2.session *session
    cdef Buffer out
    cdef size_t queued  # bytes that are to be sent and are not in `out`
    cdef list events
    cdef object error
    cdef bytes why  # debug data for the GOAWAY that ends the session
    cdef double now
    cdef double allowance  # of frames that bring nothing
    cdef readonly bint is_up
    cdef readonly int pongs

    cdef int configure(self, const h2.settings_entry *settings, size_t count) except -1
    cdef int widen(self, int32_t stream, int32_t size) except -1
    cdef const uint8_t *address(self, data, Py_ssize_t size) except NULL
    cdef int feed(self, data, Py_ssize_t size, double now) except -1
    cdef int pump(self) except -1
    cdef int raise_kept(self) except -1
    cdef int keep(self, const uint8_t *data, size_t size) except -1
    cdef int keep_goaway(self, const uint8_t *data) except -1
    cdef int terminate(self, uint32_t code, bytes why=*) except -1
    cdef int reset(self, int32_t stream, uint32_t code) except -1
    cdef int forgive(self, double frames) except -1
    cdef int count_flood(self) except -1
    cdef list take_events(self)

    cdef int begin_frame(self, int kind, int32_t stream, size_t size) except -1
    cdef int begin_headers(self, int32_t stream) except -1
    cdef int take_header(
        self,
        void *owner,
        const uint8_t *name,
        size_t name_size,
        const uint8_t *value,
        size_t size,
    ) except -1
    cdef int take_data(self, void *owner, const uint8_t *data, Py_ssize_t size) except -1
    cdef int take_frame(self, const h2.frame *frame, void *owner) except -1
    cdef int ended(self, void *owner) except -1
    cdef int not_sent(self, int32_t stream, void *owner) except -1
    cdef int invalid(self, void *owner, int code) except -1
    cdef int send_data(self, void *source, const uint8_t *head, size_t size) except -1
    cdef int closed(self, int32_t stream, uint32_t code) except -1

cdef const h2.session_callbacks *callbacks() noexcept
cdef const h2.option *options() noexcept
cdef int check(int code) except -1
cdef bytes escaped(str text)  # for grpc-message
cdef bytes binary(bytes value)  # for a -bin header
