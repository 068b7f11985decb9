"""gRPC clients' sessions; `_http2_client.pyi` says what they promise."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

cimport k8strace._nghttp2 as h2
from k8strace._encodings cimport AS_IDENTITY
from k8strace._frames cimport (
    MAX_LENGTH, PREFIX_SIZE, encoding_name, encoding_of, equals, header, length_of, literal,
    write_prefix,
)
from k8strace._http2 cimport OUTPUT, Session, callbacks, check, options

cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    int MSG_DONTWAIT, MSG_NOSIGNAL
    ssize_t sendmsg(int fd, const msghdr *message, int flags)

cdef enum:
    COPY_BELOW = 4096  # shorter pieces are copied: a buffer of its own costs more
    FIXED_HEADERS = 9
    WINDOW = 64 * 1024
    CONNECTION_WINDOW = 4 * 1024 * 1024
    MAX_HEADERS = 16 * 1024
    MAX_TYPE = 128  # bytes that are kept of a content type
    MAX_TEXT = 256  # and of a GOAWAY's debug data
    LAST_STREAM = 0x7FFFFFFF - 2 * 65536  # there are none above 0x7FFFFFFF


@cython.final
cdef class Call:
    cdef readonly int32_t stream
    cdef readonly int http_status
    cdef readonly bytes status
    cdef readonly bytes text
    cdef readonly bytes details
    cdef readonly bytes content_type  # where it is not gRPC's
    cdef readonly bytes retry_after
    cdef readonly bytes answer
    cdef readonly str problem
    cdef readonly uint32_t error
    cdef readonly bint is_refused
    cdef readonly bint is_unsent
    cdef readonly double deadline
    cdef readonly int encoding  # of the answer
    cdef public object future
    cdef bint is_told  # or nobody wants to know
    cdef bint is_begun  # to be sent
    cdef tuple chunks  # what is to be sent, its prefix first
    cdef Py_ssize_t chunk
    cdef Py_ssize_t offset  # in the present chunk
    cdef Py_ssize_t left
    cdef uint8_t[PREFIX_SIZE] prefix
    cdef Py_ssize_t received
    cdef Py_ssize_t size  # of the answer; negative: not known
    cdef Py_ssize_t header_size

    def __cinit__(self):
        self.size = -1


cdef struct Piece:  # of what is to be sent next
    Py_ssize_t chunk  # which of those that are `pinned`; negative: a part of `out`
    Py_ssize_t start
    Py_ssize_t size


@cython.final
cdef class ClientSession(Session):
    cdef dict calls
    cdef Piece *pieces
    cdef iovec *places  # of the pieces, as many as there is room for
    cdef Py_ssize_t piece_count
    cdef Py_ssize_t piece_room
    cdef size_t cut  # how much of `out` is in pieces
    cdef list pinned  # chunks of messages
    cdef bytes authority
    cdef bytes scheme
    cdef bytes user_agent
    cdef Py_ssize_t max_answer
    cdef object metadata
    cdef list encoded  # metadata as bytes: most calls have the same
    cdef readonly bint is_going
    cdef readonly int64_t goaway_code
    cdef readonly bytes goaway_text

    def __init__(
        self,
        bytes authority not None,
        double now,
        *,
        bytes scheme not None=b"http",
        bytes user_agent not None=b"",
        Py_ssize_t max_answer,
        int32_t first_stream=1,
    ):
        cdef h2.settings_entry[3] settings
        self.authority = authority
        self.scheme = scheme
        self.user_agent = user_agent
        self.max_answer = min(max_answer, <Py_ssize_t>MAX_LENGTH)
        self.now = now
        self.calls = {}
        self.pinned = []
        self.goaway_code = -1
        self.goaway_text = b""
        check(h2.session_client_new2(&self.session, callbacks(), <void *>self, options()))
        check(h2.session_set_next_stream_id(self.session, first_stream))
        settings[0].settings_id = h2.SETTINGS_ENABLE_PUSH
        settings[0].value = 0
        settings[1].settings_id = h2.SETTINGS_INITIAL_WINDOW_SIZE
        settings[1].value = WINDOW
        settings[2].settings_id = h2.SETTINGS_MAX_HEADER_LIST_SIZE
        settings[2].value = MAX_HEADERS
        self.configure(settings, 3)
        self.widen(0, CONNECTION_WINDOW)

    def __dealloc__(self):
        free(self.pieces)
        free(self.places)

    @property
    def running(self):
        return len(self.calls)

    def request(
        self,
        bytes path not None,
        tuple chunks not None,
        *,
        int encoding=0,
        bytes timeout=None,
        metadata=(),
        double deadline=INFINITY,
    ):
        cdef h2.nv *nv
        cdef size_t count = 0
        cdef h2.data_provider provider
        cdef int32_t stream
        cdef Py_ssize_t size = 0
        cdef Call call = Call()
        cdef bytes chunk
        cdef bytes name
        cdef bytes value
        for chunk in chunks:
            size += PyBytes_GET_SIZE(chunk)
        if size > MAX_LENGTH:
            raise ValueError(f"a message of {size} bytes")
        write_prefix(call.prefix, encoding != AS_IDENTITY, size)
        prefix = PyBytes_FromStringAndSize(<char *>call.prefix, PREFIX_SIZE)
        call.chunks = (prefix, *chunks)
        call.left = size + PREFIX_SIZE
        call.deadline = deadline
        if metadata is not self.metadata:
            self.encoded = [(one.encode(), other.encode()) for one, other in metadata]
            self.metadata = metadata
        nv = <h2.nv *>malloc((FIXED_HEADERS + len(self.encoded)) * sizeof(h2.nv))
        if nv == NULL:
            raise MemoryError
        literal(&nv[0], b":method", b"POST")
        header(&nv[1], b":scheme", self.scheme, PyBytes_GET_SIZE(self.scheme))
        header(&nv[2], b":path", path, PyBytes_GET_SIZE(path))
        header(&nv[3], b":authority", self.authority, PyBytes_GET_SIZE(self.authority))
        literal(&nv[4], b"te", b"trailers")
        literal(&nv[5], b"content-type", b"application/grpc")
        # No grpc-accept-encoding: answers are so short that compressing them only costs.
        # Those of grpc-go and gRPC's core come compressed without it.
        count = 6
        if self.user_agent:
            value = self.user_agent
            header(&nv[count], b"user-agent", value, PyBytes_GET_SIZE(value))
            count += 1
        if encoding != AS_IDENTITY:
            literal(&nv[count], b"grpc-encoding", encoding_name(encoding))
            count += 1
        if timeout is not None:
            header(&nv[count], b"grpc-timeout", timeout, PyBytes_GET_SIZE(timeout))
            count += 1
        for name, value in self.encoded:
            header(&nv[count], name, value, PyBytes_GET_SIZE(value))
            nv[count].flags = 0
            count += 1
        provider.source.ptr = <void *>call
        provider.read_callback = read_message
        stream = h2.submit_request(
            self.session, NULL, nv, count, &provider, <void *>call
        )
        free(nv)
        check(stream)
        call.stream = stream
        self.calls[stream] = call
        if stream >= LAST_STREAM:
            self.is_going = True
        return call

    def cancel(self, Call call not None):
        if self.calls.get(call.stream) is call and not call.is_told:
            call.is_told = True
            self.drop(call)

    def late(self, double now):
        cdef Call call
        return [
            call
            for call in self.calls.values()
            if call.deadline <= now and not call.is_told
        ]

    @property
    def next_deadline(self):
        cdef Call call
        cdef double found = INFINITY
        for call in self.calls.values():
            if call.deadline < found and not call.is_told:
                found = call.deadline
        return found

    def receive(self, data, Py_ssize_t size, double now):
        self.feed(data, size, now)
        return self.take_events()

    def output(self):
        self.gather()
        return self.buffers(0)

    def send(self, int fd):
        cdef msghdr message
        cdef iovec *place
        cdef Piece *piece
        cdef const char *data
        cdef ssize_t sent
        cdef Py_ssize_t i
        self.gather()
        if not self.piece_count:
            return None
        for i in range(self.piece_count):
            piece = self.pieces + i
            place = self.places + i
            data = <const char *>self.out.data
            if piece.chunk >= 0:
                data = PyBytes_AS_STRING(<bytes>self.pinned[piece.chunk])
            place.iov_base = <void *>(data + piece.start)
            place.iov_len = piece.size
        memset(&message, 0, sizeof(message))
        message.msg_iov = self.places
        message.msg_iovlen = self.piece_count
        while True:
            sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0 or errno != EINTR:
                break
        return self.buffers(max(sent, 0))

    def finished(self):
        return self.take_events()

    def close(self):
        cdef Call call
        for call in list(self.calls.values()):
            call.is_unsent = not call.is_begun
            self.finish(call)
        self.calls.clear()
        return self.take_events()

    cdef int gather(self) except -1:
        """Have nghttp2 say what comes next, in pieces that stand where they are."""
        self.piece_count = 0
        self.cut = 0
        self.pinned.clear()
        self.pump()
        return self.cut_out()

    cdef int cut_out(self) except -1:
        """Make a piece of what came to `out` since the last one."""
        if self.out.size > self.cut:
            self.add_piece(-1, self.cut, self.out.size - self.cut)
            self.cut = self.out.size
        return 0

    cdef int add_piece(self, Py_ssize_t chunk, Py_ssize_t start, Py_ssize_t size) except -1:
        cdef Piece *piece
        cdef void *moved
        if self.piece_count == self.piece_room:
            self.piece_room = max(2 * self.piece_room, 64)
            moved = realloc(self.pieces, self.piece_room * sizeof(Piece))
            if moved == NULL:
                raise MemoryError
            self.pieces = <Piece *>moved
            moved = realloc(self.places, self.piece_room * sizeof(iovec))
            if moved == NULL:
                raise MemoryError
            self.places = <iovec *>moved
        piece = self.pieces + self.piece_count
        piece.chunk = chunk
        piece.start = start
        piece.size = size
        self.piece_count += 1
        return 0

    cdef list buffers(self, Py_ssize_t skipped):
        """The pieces as Python's buffers, but for the first bytes."""
        cdef list found = []
        cdef Piece *piece
        cdef const char *head
        cdef Py_ssize_t part
        cdef Py_ssize_t i
        for i in range(self.piece_count):
            piece = self.pieces + i
            part = min(skipped, piece.size)
            skipped -= part
            piece.start += part
            piece.size -= part
            if not piece.size:
                continue
            if piece.chunk < 0:
                head = <char *>self.out.data + piece.start
                found.append(PyBytes_FromStringAndSize(head, piece.size))
                continue
            chunk = <bytes>self.pinned[piece.chunk]
            if piece.size < PyBytes_GET_SIZE(chunk):
                chunk = memoryview(chunk)[piece.start:piece.start + piece.size]
            found.append(chunk)
        self.pinned.clear()
        return found

    cdef int send_data(self, void *source, const uint8_t *head, size_t size) except -1:
        """Write a DATA frame: its head, and slices of the message's chunks."""
        cdef Call call = <Call>source
        cdef bytes chunk
        cdef Py_ssize_t left = <Py_ssize_t>size
        cdef Py_ssize_t part
        self.keep(head, 9)
        self.forgive(1)  # grpc-go asks for a pong for every DATA frame, at most
        while left:
            chunk = <bytes>call.chunks[call.chunk]
            part = min(left, PyBytes_GET_SIZE(chunk) - call.offset)
            if part < COPY_BELOW:
                self.keep(<const uint8_t *>PyBytes_AS_STRING(chunk) + call.offset, part)
            else:
                self.cut_out()
                self.pinned.append(chunk)
                self.add_piece(len(self.pinned) - 1, call.offset, part)
                self.queued += part
            left -= part
            call.offset += part
            if call.offset == PyBytes_GET_SIZE(chunk):
                call.chunk += 1
                call.offset = 0
        if call.left == 0:
            call.chunks = None
        # nghttp2 goes on by itself as far as the server's windows let it.
        return h2.ERR_PAUSE if self.queued + self.out.size >= OUTPUT else 0

    cdef int take_header(
        self,
        void *owner,
        const uint8_t *name,
        size_t name_size,
        const uint8_t *value,
        size_t size,
    ) except -1:
        cdef Call call
        if owner == NULL:
            return 0
        call = <Call>owner
        call.header_size += name_size + size
        if call.header_size > MAX_HEADERS:
            return self.abandon(call, f"headers are larger than {MAX_HEADERS} bytes")
        if equals(name, name_size, b":status"):
            # nghttp2 lets no status pass but one of three digits.
            call.http_status = 100 * value[0] + 10 * value[1] + value[2] - 111 * c'0'
        elif equals(name, name_size, b"grpc-encoding"):
            call.encoding = max(encoding_of(value, size), <int>AS_IDENTITY)
        elif equals(name, name_size, b"grpc-status"):
            call.status = value[:size]
        elif equals(name, name_size, b"grpc-message"):
            call.text = value[:size]
        elif equals(name, name_size, b"grpc-status-details-bin"):
            call.details = value[:size]
        elif equals(name, name_size, b"retry-after"):
            call.retry_after = value[:size]
        elif equals(name, name_size, b"content-type"):
            if size < 16 or memcmp(value, b"application/grpc", 16) != 0:
                call.content_type = value[:min(size, <size_t>MAX_TYPE)]
        return 0

    cdef int take_data(self, void *owner, const uint8_t *data, Py_ssize_t size) except -1:
        cdef Call call
        cdef Py_ssize_t part
        if owner == NULL:
            return 0
        call = <Call>owner
        if (
            call.http_status != 200
            or call.problem is not None
            or call.content_type is not None
        ):
            return 0
        if call.size < 0:
            part = min(size, PREFIX_SIZE - call.received)
            memcpy(call.prefix + call.received, data, part)
            call.received += part
            if call.received < PREFIX_SIZE:
                return 0
            data += part
            size -= part
            call.received = 0
            call.size = length_of(call.prefix)
            if call.prefix[0] and call.encoding == AS_IDENTITY:
                return self.abandon(call, "the answer is compressed, unasked")
            if call.prefix[0] == 0:
                call.encoding = AS_IDENTITY
            if call.size > self.max_answer:
                return self.abandon(call, f"an answer of {call.size} bytes")
            call.answer = PyBytes_FromStringAndSize(NULL, call.size)
            if call.size + PREFIX_SIZE > WINDOW:
                self.widen(call.stream, <int32_t>(call.size + PREFIX_SIZE))
        if size > call.size - call.received:
            return self.abandon(call, "the answer has more than one message")
        memcpy(PyBytes_AS_STRING(call.answer) + call.received, data, size)
        call.received += size
        return 0

    cdef int abandon(self, Call call, str problem) except -1:
        if call.problem is None:
            call.problem = problem
            self.reset(call.stream, h2.CANCEL)
        return 0

    cdef int take_frame(self, const h2.frame *frame, void *owner) except -1:
        cdef int kind = frame.hd.type
        if kind == h2.SETTINGS:
            self.is_up = True
        elif kind == h2.GOAWAY:
            self.is_going = True
            self.goaway_code = frame.goaway.error_code
            self.goaway_text = frame.goaway.opaque_data[
                :min(frame.goaway.opaque_data_len, <size_t>MAX_TEXT)
            ]
            self.take_back()
        elif kind == h2.PING and frame.hd.flags & h2.FLAG_ACK:
            self.pongs += 1
            return 0
        elif kind != h2.PING:
            return 0
        return self.count_flood()

    cdef int take_back(self) except -1:
        """Those that have not begun may go elsewhere; here they would have to wait."""
        cdef Call call
        for call in self.calls.values():
            if not call.is_begun and not call.is_told:
                call.is_unsent = True
                self.drop(call)
                self.finish(call)
        return 0

    cdef int drop(self, Call call) except -1:
        """It stays among the calls until nghttp2, which points to it, is done with it."""
        call.chunks = None
        return self.reset(call.stream, h2.CANCEL)

    cdef int not_sent(self, int32_t stream, void *owner) except -1:
        """A request that could not even begin, mostly since no more streams are taken."""
        call = self.calls.get(stream)
        if call is not None:
            (<Call>call).is_unsent = self.is_going
            if not self.is_going:
                (<Call>call).problem = "the request's headers cannot be sent"
        return self.closed(stream, h2.REFUSED_STREAM)

    cdef int closed(self, int32_t stream, uint32_t code) except -1:
        call = self.calls.pop(stream, None)
        if call is None:
            return 0
        (<Call>call).error = code
        (<Call>call).is_refused = code == h2.REFUSED_STREAM
        return self.finish(call)

    cdef int finish(self, Call call) except -1:
        call.chunks = None
        if call.answer is not None and call.received < call.size:
            call.answer = None
        if not call.is_told:
            call.is_told = True
            self.events.append(call)
        return 0


cdef ssize_t read_message(
    h2.session *session,
    int32_t stream,
    uint8_t *out,
    size_t room,
    uint32_t *flags,
    h2.data_source *source,
    void *owner,
) noexcept:
    """How much of the message the next DATA frame has; `send_data` writes it."""
    cdef Call call = <Call>source.ptr
    cdef Py_ssize_t size = min(call.left, <Py_ssize_t>room)
    if call.chunks is None:
        return h2.ERR_TEMPORAL_CALLBACK_FAILURE
    call.is_begun = True
    call.left -= size
    flags[0] = h2.DATA_FLAG_NO_COPY
    if call.left == 0:
        flags[0] |= h2.DATA_FLAG_EOF
    return size
