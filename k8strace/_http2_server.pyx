"""gRPC servers' sessions; `_http2_server.pyi` says what they promise."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

cimport k8strace._nghttp2 as h2
from k8strace._encodings cimport AS_GZIP
from k8strace._frames cimport (
    HEADER_OVERHEAD, INTERNAL, INVALID_ARGUMENT, MAX_LENGTH, PREFIX_SIZE,
    RESOURCE_EXHAUSTED, UNAVAILABLE, UNIMPLEMENTED, append, copy_message, equals, header,
    length_of, literal, read_header, release, reserve,
)
from k8strace._http2 cimport Session, binary, callbacks, check, escaped, options

cdef enum:
    SINK = 64 * 1024
    GAPS = 64  # ranges of skipped stream ids that are remembered
    EXCESS = 4  # times the limit: where a block of headers ends its connection
    OVERSIZED = 4  # blocks of headers over the limit, after which a connection ends
    IGNORED = 256  # bytes of headers that nobody asked for, which count as a frame
    PING_STRIKES = 2  # as gRPC's servers
    WINDOW = 256 * 1024
    CONNECTION_WINDOW = 16 * 1024 * 1024

cdef double FORGIVEN = 16  # frames; gRPC's clients send several pings with each request
cdef double BYTES_FORGIVEN = 4096  # of an answer, for each frame
cdef double PING_INTERVAL_AT_REST = 2 * 3600  # seconds, as gRPC's servers

STREAM_WINDOW = <int>WINDOW
WHOLE, WAITS, REJECTED, CANCELLED = range(4)

from k8strace._http2 import HeadersTooLargeError

cdef bytes NOT_GRPC = b"gRPC only: POST with content-type application/grpc\n"


@cython.final
cdef class Request:
    def __cinit__(self):
        self.head.timeout = -1

    def __dealloc__(self):
        release(&self.held)

    @property
    def metadata(self):
        return tuple(self.pairs) if self.pairs else ()

    def take(self):
        message, lease = self.message, self.lease
        self.message = self.lease = None
        return message, lease


cdef class ServerSession(Session):
    def __init__(
        self,
        paths,
        admit,
        double now,
        *,
        Py_ssize_t max_message,
        uint32_t max_streams,
        uint32_t max_headers,
        bint metadata=False,
        double ping_interval=0,
        bint permits_pings=True,
        afford=None,
        give=None,
    ):
        cdef h2.settings_entry[3] settings
        self.paths = frozenset(paths)
        self.admit = admit
        self.afford = afford
        self.give = give
        self.now = now
        self.max_message = min(max_message, <Py_ssize_t>MAX_LENGTH)
        self.max_headers = max_headers
        self.keeps_metadata = metadata
        self.ping_interval = ping_interval
        self.permits_pings = permits_pings
        self.last_ping = -INFINITY
        self.streams = {}
        self.gaps = []
        check(h2.session_server_new2(&self.session, callbacks(), <void *>self, options()))
        settings[0].settings_id = h2.SETTINGS_MAX_CONCURRENT_STREAMS
        settings[0].value = max_streams
        settings[1].settings_id = h2.SETTINGS_INITIAL_WINDOW_SIZE
        settings[1].value = WINDOW
        settings[2].settings_id = h2.SETTINGS_MAX_HEADER_LIST_SIZE
        settings[2].value = max_headers
        self.configure(settings, 3)
        self.widen(0, CONNECTION_WINDOW)

    def receive(self, data, Py_ssize_t size, double now):
        self.feed(data, size, now)
        return self.take_events()

    def output(self):
        self.pump()
        return PyBytes_FromStringAndSize(<char *>self.out.data, self.out.size)

    def admitted(self, Request request not None, lease not None, double now):
        if request.stage != WAITING:
            return []
        request.lease = lease
        request.since = now
        self.begin_body(request)
        if request.held.size:
            memcpy(PyBytes_AS_STRING(request.message), request.held.data, request.held.size)
        self.drop_held(request)
        if request.has_ended:
            self.end(request)
        return self.take_events()

    def respond(self, Request request not None, bytes message not None):
        if request.stage == SERVED:
            self.send_answer(request, message, b"200", b"application/grpc")

    def fail(
        self, Request request not None, int code, str message not None,
        bytes details not None=b"",
    ):
        cdef h2.nv[6] nv
        cdef size_t count = 4
        if request.stage == ANSWERED:
            return
        if request.stage == OPENING:
            # Until a header block has ended, nothing else can come on its connection.
            self.terminate(h2.ENHANCE_YOUR_CALM)
            return
        number = b"%d" % code
        text = escaped(message)
        literal(&nv[0], b":status", b"200")
        literal(&nv[1], b"content-type", b"application/grpc")
        header(&nv[2], b"grpc-status", number, PyBytes_GET_SIZE(number))
        header(&nv[3], b"grpc-message", text, PyBytes_GET_SIZE(text))
        if details:
            details = binary(details)
            header(
                &nv[count], b"grpc-status-details-bin", details, PyBytes_GET_SIZE(details)
            )
            count += 1
        if code == UNIMPLEMENTED:
            literal(&nv[count], b"grpc-accept-encoding", b"identity,gzip,zstd,snappy")
            count += 1
        self.send_headers(request, nv, count)

    def late(self, double now, double begin, double after, double rate):
        cdef Request request
        cdef double allowed
        found = []
        for request in self.streams.values():
            allowed = now - request.since - (begin if request.stage == PREFIX else after)
            if (
                (request.stage < SERVED and request.stage != WAITING)
                and allowed > 0
                and request.received < allowed * rate
            ):
                found.append(request)
        return found

    @property
    def requests(self):
        return list(self.streams.values())

    def notice(self):
        check(h2.submit_shutdown_notice(self.session))

    def close(self):
        cdef Request request
        for request in list(self.streams.values()):
            self.gone(request)
        self.streams.clear()
        if self.paid:
            self.give(self.paid * STREAM_COST)
            self.paid = 0
        self.admit = self.afford = None
        return self.take_events()

    def tidy(self):
        cdef Py_ssize_t needed = len(self.streams) // STREAMS * STREAMS
        if self.paid > needed:
            self.give((self.paid - needed) * STREAM_COST)
            self.paid = needed

    @property
    def upkeep(self):
        return self.paid * STREAM_COST + self.kept + self.early

    cdef int send_answer(
        self, Request request, bytes body, const char *status, const char *content_type
    ) except -1:
        cdef h2.nv[2] nv
        cdef h2.data_provider provider
        self.settle(request)
        request.answer = body
        provider.source.ptr = <void *>request
        provider.read_callback = read_answer
        literal(&nv[0], b":status", status)
        literal(&nv[1], b"content-type", content_type)
        check(h2.submit_response(self.session, request.stream, nv, 2, &provider))
        return 0

    cdef int send_headers(self, Request request, const h2.nv *nv, size_t count) except -1:
        self.settle(request)
        check(h2.submit_response(self.session, request.stream, nv, count, NULL))
        return 0

    cdef int ended(self, void *owner) except -1:
        """The answer is sent: what more comes of its request is not wanted."""
        if owner != NULL and not (<Request>owner).has_ended:
            self.reset((<Request>owner).stream, h2.NO_ERROR)
        return 0

    cdef int settle(self, Request request) except -1:
        request.stage = ANSWERED
        request.message = request.lease = None
        self.drop_kept(request)
        self.drop_held(request)
        return self.sending(0)

    cdef int sending(self, Py_ssize_t size) except -1:
        """Part of an answer: for each, clients ping and widen windows, as gRPC's do."""
        self.strikes = 0
        self.last_ping = -INFINITY
        return self.forgive(size / BYTES_FORGIVEN)

    cdef int reject(self, Request request, str reason, int code, str text) except -1:
        request.reason = reason
        request.text = text
        request.path = None
        self.fail(request, code, text)
        self.events.append((REJECTED, request))
        return 0

    cdef int reject_http(self, Request request) except -1:
        cdef h2.nv[1] nv
        request.reason = "unsupported"
        request.text = "no gRPC request"
        if request.head.is_head:
            literal(&nv[0], b":status", b"415")
            self.send_headers(request, nv, 1)
        else:
            request.is_plain = True
            self.send_answer(request, NOT_GRPC, b"415", b"text/plain")
        self.events.append((REJECTED, request))
        return 0

    cdef int begin_frame(self, int kind, int32_t stream, size_t size) except -1:
        """A new stream's id is above all before it; libnghttp2 ignores one that isn't.

        It reads the headers of those, and of streams above their number, and says nothing.
        """
        if self.unread:
            self.allowance -= self.unread // IGNORED
            self.unread = 0
            self.count_flood()
        if kind == h2.HEADERS or kind == h2.CONTINUATION:
            self.unread = size
        elif kind == h2.PRIORITY:
            # From 1.65 on libnghttp2 reads these frames and does not report them.
            return self.count_flood()
        if kind != h2.HEADERS or stream & 1 == 0:
            return 0
        if stream > self.last_id:
            if stream > self.last_id + 2:
                self.gaps.append((self.last_id, stream))
                del self.gaps[:-GAPS]
            self.last_id = stream
            return 0
        for before, after in self.gaps:
            if before < stream < after:
                return self.terminate(h2.PROTOCOL_ERROR)
        return 0

    cdef int begin_headers(self, int32_t stream) except -1:
        cdef Request request
        self.unread = 0
        if stream in self.streams:
            return 0
        if len(self.streams) >= self.paid + STREAMS and not self.pays():
            return self.refuse_stream(stream)
        request = Request()
        request.stream = stream
        request.since = self.now
        self.streams[stream] = request
        check(h2.session_set_stream_user_data(self.session, stream, <void *>request))
        return 0

    cdef int take_header(
        self, void *owner, const uint8_t *name, size_t name_size,
        const uint8_t *value, size_t size,
    ) except -1:
        cdef Request request
        self.unread = 0
        if owner == NULL:
            self.stray += name_size + size + HEADER_OVERHEAD
            return self.check_headers(self.stray)
        request = <Request>owner
        request.head.size += name_size + size + HEADER_OVERHEAD
        if request.head.size > self.max_headers:
            return self.check_headers(request.head.size)
        if request.stage != OPENING:
            return 0
        if equals(name, name_size, b":path"):
            # Most requests of a connection have the same.
            if self.last_path is None or not equals(value, size, self.last_path):
                self.last_path = value[:min(size, <size_t>KNOWN_PATH)]
            request.path = self.last_path
        elif (
            not read_header(&request.head, name, name_size, value, size)
            and self.keeps_metadata
            and not (name_size > 4 and memcmp(name + name_size - 4, b"-bin", 4) == 0)
        ):
            self.keep_pair(request, name[:name_size], value[:size])
        return 0

    cdef int check_headers(self, size_t size) except -1:
        """End the connection for a block that is many times too large: each of its bytes
        may stand for kilobytes, which all have to be read."""
        if size > <size_t>(EXCESS * self.max_headers):
            raise HeadersTooLargeError(
                f"a request's headers are larger than {EXCESS * self.max_headers} bytes"
            )
        return 0

    cdef bint pays(self) except -1:
        """Whether there is room for some streams more."""
        if self.afford is not None:
            if not self.afford(STREAMS * STREAM_COST):
                return False
            self.paid += STREAMS
        return True

    cdef int refuse_stream(self, int32_t stream) except -1:
        cdef Request request = Request()
        request.stream = stream
        request.stage = ANSWERED
        request.reason = "memory"
        request.text = "there is no room for the stream"
        self.stray = 0
        self.reset(stream, h2.REFUSED_STREAM)
        self.events.append((REJECTED, request))
        return self.count_flood()

    cdef bint keep_bytes(self, Request request, Py_ssize_t size) except -1:
        """Whether there is room for bytes that are kept with a request."""
        if self.kept + size > MAX_KEPT:
            return False
        if self.afford is not None and not self.afford(size):
            return False
        self.kept += size
        request.kept += size
        return True

    cdef int keep_pair(self, Request request, bytes name, bytes value) except -1:
        if not self.keep_bytes(request, len(name) + len(value) + PAIR_OVERHEAD):
            request.has_too_much = True
            return 0
        if request.pairs is None:
            request.pairs = []
        request.pairs.append((name.decode("latin-1"), value.decode("latin-1")))
        return 0

    cdef int drop_kept(self, Request request) except -1:
        if request.kept:
            self.kept -= request.kept
            if self.give is not None:
                self.give(request.kept)
            request.kept = 0
        request.pairs = None
        return 0

    cdef int drop_held(self, Request request) except -1:
        self.give_held(request.held.capacity)
        release(&request.held)
        return 0

    cdef int give_held(self, Py_ssize_t size) except -1:
        self.early -= size
        if size and self.give is not None:
            self.give(size)
        return 0

    cdef int hold_early(
        self, Request request, const uint8_t *data, Py_ssize_t size
    ) except -1:
        """Hold what came before it may: a window of it at the most, and its place is paid
        for before it grows. Where there is an upkeep, that is the bound of all of them."""
        cdef Py_ssize_t needed = request.held.size + size
        cdef Py_ssize_t capacity = max(needed, min(2 * needed, WINDOW))
        cdef Py_ssize_t more = capacity - <Py_ssize_t>request.held.capacity
        if needed > <Py_ssize_t>request.held.capacity:
            if self.afford is None and self.early + more > MAX_KEPT or (
                self.afford is not None and not self.afford(more)
            ):
                text = "there is no room for what comes before the message is admitted"
                return self.reject(request, "memory", UNAVAILABLE, text)
            self.early += more
            if not reserve(&request.held, capacity):
                raise MemoryError
        if not append(&request.held, data, size):
            raise MemoryError
        return 0

    cdef int opened(self, Request request) except -1:
        """The header block is complete."""
        cdef Head *head = &request.head
        request.stage = PREFIX
        if head.size > self.max_headers:
            text = f"headers are larger than {self.max_headers} bytes"
            self.reject(request, "msg_too_large", RESOURCE_EXHAUSTED, text)
            self.oversized += 1
            return self.terminate(h2.ENHANCE_YOUR_CALM) if self.oversized > OVERSIZED else 0
        if not (head.is_post and head.is_grpc):
            request.stage = SINKING
            return 0
        if request.has_too_much:
            text = "there is no room for the request's metadata"
            return self.reject(request, "memory", UNAVAILABLE, text)
        if request.path not in self.paths:
            text = f"unknown method {request.path[:200].decode('latin-1')!r}"
            return self.reject(request, "unknown_method", UNIMPLEMENTED, text)
        if head.encoding < 0:
            text = "the message's encoding is not supported: use gzip, zstd, snappy or none"
            return self.reject(request, "unsupported", UNIMPLEMENTED, text)
        if head.has_bad_timeout:
            text = "grpc-timeout is malformed"
            return self.reject(request, "decode_error", INVALID_ARGUMENT, text)
        if head.timeout >= 0:
            request.deadline = self.now + head.timeout
        return 0

    cdef int take_data(self, void *owner, const uint8_t *data, Py_ssize_t size) except -1:
        cdef Request request
        cdef Py_ssize_t part
        if owner == NULL:
            return 0
        request = <Request>owner
        if request.stage == SINKING:
            request.received += size
            return self.reject_http(request) if request.received > SINK else 0
        if request.stage == PREFIX:
            part = min(size, PREFIX_SIZE - request.received)
            memcpy(request.prefix + request.received, data, part)
            request.received += part
            if request.received < PREFIX_SIZE:
                return 0
            data += part
            size -= part
            self.announced(request, size)
        if request.stage != BODY and request.stage != WAITING:
            return 0
        if size > request.size - request.received:
            text = "a unary call has one message"
            return self.reject(request, "decode_error", INTERNAL, text)
        if request.stage == BODY:
            memcpy(PyBytes_AS_STRING(request.message) + request.received, data, size)
            self.body_bytes += size
        else:
            self.hold_early(request, data, size)
        request.received += size
        return 0

    cdef int announced(self, Request request, Py_ssize_t here) except -1:
        """The prefix is complete: the message's size is known."""
        cdef uint8_t flags = request.prefix[0]
        request.size = length_of(request.prefix)
        request.received = 0
        request.since = self.now
        if flags > 1 or (flags and not request.head.encoding):
            text = "the message's flags don't fit grpc-encoding"
            return self.reject(request, "decode_error", INTERNAL, text)
        if request.size > self.max_message:
            text = f"message is larger than {self.max_message} bytes"
            return self.reject(request, "msg_too_large", RESOURCE_EXHAUSTED, text)
        request.encoding = request.head.encoding if flags else 0
        request.lease = self.admit(request.size, max(request.size - here, 0))
        if request.lease is None:
            request.stage = WAITING
            self.events.append((WAITS, request))
            return 0
        return self.begin_body(request)

    cdef int begin_body(self, Request request) except -1:
        request.message = PyBytes_FromStringAndSize(NULL, request.size)
        request.stage = BODY
        if request.size + PREFIX_SIZE > WINDOW and not request.has_ended:
            self.widen(request.stream, <int32_t>(request.size + PREFIX_SIZE))
        return 0

    cdef int end(self, Request request) except -1:
        """The client has sent all that it will."""
        request.has_ended = True
        if request.stage == SINKING:
            return self.reject_http(request)
        if request.stage == PREFIX or (
            request.stage in (BODY, WAITING) and request.received < request.size
        ):
            text = "the call ended before its message"
            return self.reject(request, "incomplete", INVALID_ARGUMENT, text)
        if request.stage == BODY:
            if not request.encoding and begins_as_gzip(request.message):
                request.encoding = AS_GZIP
            request.stage = SERVED
            self.forgive(FORGIVEN)
            self.events.append((WHOLE, request))
        return 0

    cdef int invalid(self, void *owner, int code) except -1:
        """libnghttp2 resets the stream: a header with a control character in it, say."""
        cdef Request request = <Request>owner
        if request.stage != SERVED and request.reason is None:
            why = (<bytes>h2.strerror(code)).decode()
            request.reason = "decode_error"
            request.text = f"the call breaks the rules of HTTP/2: {why}"
        return 0

    cdef int closed(self, int32_t stream, uint32_t code) except -1:
        request = self.streams.pop(stream, None)
        return 0 if request is None else self.gone(request)

    cdef int gone(self, Request request) except -1:
        if request.stage == ANSWERED:
            return 0
        if request.stage != SERVED and request.reason is None:
            request.reason = "incomplete"
            request.text = "the call ended before its message"
        request.stage = ANSWERED
        request.message = request.lease = None
        self.drop_kept(request)
        self.drop_held(request)
        self.events.append((CANCELLED, request))
        return 0

    cdef int take_frame(self, const h2.frame *frame, void *owner) except -1:
        cdef int kind = frame.hd.type
        cdef Request request
        if kind == h2.DATA or kind == h2.HEADERS:
            if owner == NULL:
                return 0
            request = <Request>owner
            if request.stage == OPENING:
                self.opened(request)
            if frame.hd.flags & h2.FLAG_END_STREAM:
                return self.end(request)
            if kind == h2.DATA and frame.hd.length == 0:
                return self.count_flood()
            return 0
        if kind == h2.SETTINGS:
            self.is_up = True
        elif kind == h2.PING:
            if frame.hd.flags & h2.FLAG_ACK:
                self.pongs += 1
                return 0
            self.pinged()
        elif kind == h2.GOAWAY or kind == h2.PRIORITY:
            return 0
        return self.count_flood()

    cdef int pinged(self) except -1:
        """Pings while nothing is answered are a keepalive, which has to be permitted."""
        cdef bint permitted = self.permits_pings or len(self.streams) > 0
        cdef double interval = self.ping_interval if permitted else PING_INTERVAL_AT_REST
        if self.ping_interval > 0 and self.now - self.last_ping < interval:
            self.strikes += 1
            if self.strikes > PING_STRIKES:
                # The word by which gRPC's clients know why (gRFC A8).
                self.terminate(h2.ENHANCE_YOUR_CALM, b"too_many_pings")
        self.last_ping = self.now
        return 0


cdef inline bint begins_as_gzip(bytes message) noexcept:
    """No request of protobuf begins so, and some clients compress without saying it."""
    return PyBytes_GET_SIZE(message) >= 2 and memcmp(
        PyBytes_AS_STRING(message), b"\x1f\x8b", 2
    ) == 0


cdef ssize_t read_answer(
    h2.session *session,
    int32_t stream,
    uint8_t *out,
    size_t room,
    uint32_t *flags,
    h2.data_source *source,
    void *owner,
) noexcept:
    cdef Request request = <Request>source.ptr
    cdef Py_ssize_t total = PyBytes_GET_SIZE(request.answer)
    cdef Py_ssize_t size
    cdef h2.nv[1] nv
    size = copy_message(
        out, room, PyBytes_AS_STRING(request.answer), total, request.sent, request.is_plain
    )
    request.sent += size
    (<ServerSession>owner).sending(size)
    if request.sent == total + (0 if request.is_plain else PREFIX_SIZE):
        flags[0] = h2.DATA_FLAG_EOF
        if not request.is_plain:
            flags[0] |= h2.DATA_FLAG_NO_END_STREAM
            literal(&nv[0], b"grpc-status", b"0")
            h2.submit_trailer(session, stream, nv, 1)
    return size
