"""The base of gRPC sessions over nghttp2; `_http2.pyi` says what it promises.

Rules for it and for the sessions that derive from it:
1. No sockets, clocks or tasks: bytes and the time come in, events and bytes go out.
2. nghttp2's callbacks never raise. They keep the error and return CALLBACK_FAILURE, and
   the method that led to them raises it.
3. What a peer can make a session keep has a limit.

A session overrides what it wants to know of: `begin_frame`, `begin_headers`,
`take_header`, `take_data`, `take_frame`, `ended` (all of a stream was sent), `not_sent`,
`invalid` (what came on a stream breaks HTTP/2's rules, and ends it), `closed`; and
`send_data`, which hands out what a source of data has without copying it. `owner` is the
object of the stream, as the session gave it to nghttp2, or NULL.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint8_t, uint32_t

cimport k8strace._nghttp2 as h2
from k8strace._frames cimport append, release

from binascii import b2a_base64
from urllib.parse import quote

from k8strace.errors import K8sTraceError

cdef enum:
    FRAME_HEAD = 9
    GOAWAY_SIZE = FRAME_HEAD + 8  # without debug data

cdef double FLOOD_BURST = 1000  # frames that ask for work and bring none; nghttp2's limit
cdef double FLOOD_RATE = 100  # of them in a second

cdef h2.session_callbacks *_callbacks = NULL
cdef h2.option *_options = NULL

# What stands unescaped in a grpc-message: printable ASCII but for the percent sign.
cdef str UNESCAPED = "".join(chr(code) for code in range(0x20, 0x7F) if code != 0x25)


class ProtocolError(K8sTraceError):
    reason = None


class HeadersTooLargeError(ProtocolError):
    reason = "msg_too_large"


cdef class Session:
    def __cinit__(self):
        self.events = []
        self.allowance = FLOOD_BURST

    def __dealloc__(self):
        h2.session_del(self.session)
        release(&self.out)

    @property
    def is_over(self):
        return not (
            h2.session_want_read(self.session) or h2.session_want_write(self.session)
        )

    @property
    def has_output(self):
        return h2.session_want_write(self.session) != 0

    def ping(self):
        check(h2.submit_ping(self.session, h2.FLAG_NONE, NULL))

    def goaway(self):
        check(
            h2.submit_goaway(
                self.session,
                h2.FLAG_NONE,
                h2.session_get_last_proc_stream_id(self.session),
                h2.NO_ERROR,
                NULL,
                0,
            )
        )

    cdef int configure(self, const h2.settings_entry *settings, size_t count) except -1:
        check(h2.submit_settings(self.session, h2.FLAG_NONE, settings, count))
        return 0

    cdef int widen(self, int32_t stream, int32_t size) except -1:
        check(h2.session_set_local_window_size(self.session, h2.FLAG_NONE, stream, size))
        return 0

    cdef const uint8_t *address(self, data, Py_ssize_t size) except NULL:
        if not 0 <= size <= len(data):
            raise ValueError(f"{size} bytes of {len(data)}")
        if isinstance(data, bytearray):
            return <const uint8_t *>PyByteArray_AS_STRING(data)
        return <const uint8_t *>PyBytes_AS_STRING(<bytes?>data)

    cdef int feed(self, data, Py_ssize_t size, double now) except -1:
        cdef const uint8_t *at = self.address(data, size)
        cdef ssize_t taken
        self.forgive((now - self.now) * FLOOD_RATE)
        self.now = now
        taken = h2.session_mem_recv(self.session, at, size)
        self.raise_kept()
        if taken < 0:
            raise ProtocolError((<bytes>h2.strerror(<int>taken)).decode())
        return 0

    cdef int pump(self) except -1:
        """Move what is to be sent into `out`, and what `send_data` has where it puts it."""
        cdef const uint8_t *data = NULL
        cdef ssize_t size = 0
        self.out.size = 0
        self.queued = 0
        while self.out.size + self.queued < OUTPUT:
            size = h2.session_mem_send(self.session, &data)
            if size <= 0:
                break
            if self.why is not None and size == GOAWAY_SIZE and data[3] == h2.GOAWAY:
                self.keep_goaway(data)
            else:
                self.keep(data, size)
        self.raise_kept()
        if size < 0:
            raise ProtocolError((<bytes>h2.strerror(<int>size)).decode())
        return 0

    cdef int keep(self, const uint8_t *data, size_t size) except -1:
        if not append(&self.out, data, size):
            raise MemoryError
        return 0

    cdef int keep_goaway(self, const uint8_t *data) except -1:
        """A GOAWAY with debug data: libnghttp2 can end a session only without any."""
        cdef uint32_t length = GOAWAY_SIZE - FRAME_HEAD + len(self.why)
        cdef uint8_t[3] field = [length >> 16 & 0xFF, length >> 8 & 0xFF, length & 0xFF]
        self.keep(field, 3)
        self.keep(data + 3, GOAWAY_SIZE - 3)
        return self.keep(<const uint8_t *>PyBytes_AS_STRING(self.why), len(self.why))

    cdef int terminate(self, uint32_t code, bytes why=None) except -1:
        """End the session by a GOAWAY, whose debug data says why."""
        if self.why is None:
            self.why = why
        check(h2.session_terminate_session(self.session, code))
        return 0

    cdef int reset(self, int32_t stream, uint32_t code) except -1:
        check(h2.submit_rst_stream(self.session, h2.FLAG_NONE, stream, code))
        return 0

    cdef int forgive(self, double frames) except -1:
        self.allowance = min(FLOOD_BURST, self.allowance + frames)
        return 0

    cdef int count_flood(self) except -1:
        self.allowance -= 1
        if self.allowance < 0:
            self.allowance = INFINITY  # once is enough
            self.terminate(h2.ENHANCE_YOUR_CALM, b"too_many_empty_frames")
        return 0

    cdef list take_events(self):
        events = self.events
        if events:
            self.events = []
        return events

    cdef int raise_kept(self) except -1:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return 0

    cdef int begin_frame(self, int kind, int32_t stream, size_t size) except -1:
        return 0

    cdef int begin_headers(self, int32_t stream) except -1:
        return 0

    cdef int take_header(
        self,
        void *owner,
        const uint8_t *name,
        size_t name_size,
        const uint8_t *value,
        size_t size,
    ) except -1:
        return 0

    cdef int take_data(self, void *owner, const uint8_t *data, Py_ssize_t size) except -1:
        return 0

    cdef int take_frame(self, const h2.frame *frame, void *owner) except -1:
        return 0

    cdef int ended(self, void *owner) except -1:
        return 0

    cdef int not_sent(self, int32_t stream, void *owner) except -1:
        return 0

    cdef int invalid(self, void *owner, int code) except -1:
        return 0

    cdef int send_data(self, void *source, const uint8_t *head, size_t size) except -1:
        return 0

    cdef int closed(self, int32_t stream, uint32_t code) except -1:
        return 0


cdef int check(int code) except -1:
    if code < 0:
        raise ProtocolError((<bytes>h2.strerror(code)).decode())
    return 0


cdef bytes escaped(str text):
    return quote(text, safe=UNESCAPED, errors="replace").encode()


cdef bytes binary(bytes value):
    return b2a_base64(value, newline=False).rstrip(b"=")


cdef int on_begin_frame(
    h2.session *session, const h2.frame_hd *head, void *owner
) noexcept:
    try:
        return (<Session>owner).begin_frame(head.type, head.stream_id, head.length)
    except BaseException as error:
        return keep_error(owner, error)


cdef int on_begin_headers(h2.session *session, const h2.frame *frame, void *owner) noexcept:
    try:
        return (<Session>owner).begin_headers(frame.hd.stream_id)
    except BaseException as error:
        return keep_error(owner, error)


cdef int on_header(
    h2.session *session,
    const h2.frame *frame,
    const uint8_t *name,
    size_t name_size,
    const uint8_t *value,
    size_t size,
    uint8_t flags,
    void *owner,
) noexcept:
    cdef void *stream = h2.session_get_stream_user_data(session, frame.hd.stream_id)
    # Space around a value is no part of it (RFC 9110, 5.5).
    while size and (value[0] == b" " or value[0] == b"\t"):
        value += 1
        size -= 1
    while size and (value[size - 1] == b" " or value[size - 1] == b"\t"):
        size -= 1
    try:
        return (<Session>owner).take_header(stream, name, name_size, value, size)
    except BaseException as error:
        return keep_error(owner, error)


cdef int on_frame(h2.session *session, const h2.frame *frame, void *owner) noexcept:
    cdef void *stream = NULL
    if frame.hd.stream_id:
        stream = h2.session_get_stream_user_data(session, frame.hd.stream_id)
    try:
        return (<Session>owner).take_frame(frame, stream)
    except BaseException as error:
        return keep_error(owner, error)


cdef int on_invalid(
    h2.session *session, const h2.frame *frame, int code, void *owner
) noexcept:
    cdef void *stream = NULL
    if frame.hd.stream_id:
        stream = h2.session_get_stream_user_data(session, frame.hd.stream_id)
    try:
        return 0 if stream == NULL else (<Session>owner).invalid(stream, code)
    except BaseException as error:
        return keep_error(owner, error)


cdef int on_data(
    h2.session *session,
    uint8_t flags,
    int32_t stream_id,
    const uint8_t *data,
    size_t size,
    void *owner,
) noexcept:
    cdef void *stream = h2.session_get_stream_user_data(session, stream_id)
    try:
        check(h2.session_consume_connection(session, size))
        return (<Session>owner).take_data(stream, data, <Py_ssize_t>size)
    except BaseException as error:
        return keep_error(owner, error)


cdef int on_sent(h2.session *session, const h2.frame *frame, void *owner) noexcept:
    cdef void *stream
    cdef int kind = frame.hd.type
    if kind != h2.HEADERS and kind != h2.DATA or frame.hd.flags & h2.FLAG_END_STREAM == 0:
        return 0
    stream = h2.session_get_stream_user_data(session, frame.hd.stream_id)
    try:
        return (<Session>owner).ended(stream)
    except BaseException as error:
        return keep_error(owner, error)


cdef int on_not_sent(
    h2.session *session, const h2.frame *frame, int code, void *owner
) noexcept:
    cdef void *stream
    if frame.hd.type != h2.HEADERS:
        return 0
    stream = h2.session_get_stream_user_data(session, frame.hd.stream_id)
    try:
        return (<Session>owner).not_sent(frame.hd.stream_id, stream)
    except BaseException as error:
        return keep_error(owner, error)


cdef int on_send_data(
    h2.session *session,
    h2.frame *frame,
    const uint8_t *head,
    size_t size,
    h2.data_source *source,
    void *owner,
) noexcept:
    try:
        return (<Session>owner).send_data(source.ptr, head, size)
    except BaseException as error:
        return keep_error(owner, error)


cdef int on_close(
    h2.session *session, int32_t stream_id, uint32_t code, void *owner
) noexcept:
    try:
        return (<Session>owner).closed(stream_id, code)
    except BaseException as error:
        return keep_error(owner, error)


cdef int keep_error(void *owner, error) noexcept:
    if (<Session>owner).error is None:
        (<Session>owner).error = error
    return h2.ERR_CALLBACK_FAILURE


cdef const h2.session_callbacks *callbacks() noexcept:
    return _callbacks


cdef const h2.option *options() noexcept:
    return _options


cdef void prepare() except *:
    global _callbacks, _options
    if h2.session_callbacks_new(&_callbacks) or h2.option_new(&_options):
        raise MemoryError
    h2.set_on_begin_frame(_callbacks, on_begin_frame)
    h2.set_on_begin_headers(_callbacks, on_begin_headers)
    h2.set_on_header(_callbacks, on_header)
    h2.set_on_frame_recv(_callbacks, on_frame)
    h2.set_on_invalid(_callbacks, on_invalid)
    h2.set_on_data_chunk_recv(_callbacks, on_data)
    h2.set_on_frame_send(_callbacks, on_sent)
    h2.set_on_frame_not_send(_callbacks, on_not_sent)
    h2.set_on_stream_close(_callbacks, on_close)
    h2.set_send_data(_callbacks, on_send_data)
    # What a stream may send is said when its message is admitted, not as it comes.
    h2.option_set_no_auto_window_update(_options, 1)
    h2.take_outer_space(_options)

prepare()
