"""Heads and bodies of HTTP/1; see `_http1.pyi`."""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject *PyBytes_FromStringAndSize(const char *data, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject **data, Py_ssize_t size) except -1
    char *bytes_data "PyBytes_AS_STRING"(PyObject *data)
    void Py_XDECREF(PyObject *)

MAX_HEADERS = 256
MAX_FRAMING = 16 * 1024

cdef Py_ssize_t MOST_HEADERS = MAX_HEADERS
cdef Py_ssize_t MOST_FRAMING = MAX_FRAMING
cdef Py_ssize_t FIELD_COST = 160  # bytes of objects: a tuple and two of bytes
cdef Py_ssize_t PER_CHUNK = 16  # bytes of framing that a chunk excuses, and
cdef Py_ssize_t PER_BYTE = 2  # that a byte of data does, as in Go's reader
cdef int MAX_DIGITS = 15  # of a chunk's size: less than 2**60
cdef object EMPTY = b""
cdef int LENGTH_DIGITS = 18  # of a body, so that it is less than 2**63


class HeadError(ValueError):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


@cython.final
@cython.freelist(8)
cdef class Request:
    cdef readonly bytes method
    cdef readonly bytes target
    cdef readonly list headers
    cdef readonly Py_ssize_t length
    cdef readonly bint is_old
    cdef public bint keeps_alive
    cdef public bint expects_continue
    cdef readonly Py_ssize_t size
    cdef public object lease
    cdef public object coming
    cdef public object body
    cdef public object caller
    cdef public int encoding
    cdef public Py_ssize_t here
    cdef public double wait_until
    cdef bint has_too_many
    cdef bint is_closing

    def __cinit__(self):
        self.method = self.target = self.body = EMPTY
        self.headers = []

    def on_url(self, bytes data not None):
        self.target = data

    def on_header(self, bytes name not None, bytes value not None):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
        if len(self.headers) >= MOST_HEADERS:
            self.has_too_many = True
            raise ValueError
        if size and PyBytes_AS_STRING(value)[size - 1] in b" \t":
            value = value.rstrip(b" \t")
        self.headers.append((name.lower(), value))

    def get(self, bytes name not None):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
        cdef const char *data = PyBytes_AS_STRING(name)
        cdef tuple pair
        cdef bytes key
        for pair in self.headers:
            key = <bytes>pair[0]
            if (
                PyBytes_GET_SIZE(key) == size
                and memcmp(PyBytes_AS_STRING(key), data, size) == 0
            ):
                return pair[1]
        return None

    def parse(self, bytes data not None):
        try:
            self.read(data)
        except HeadError:
            self.guess(data)
            raise

    def guess(self, bytes data not None):
        lines = data.split(b"\r\n", MOST_HEADERS + 1)[1:MOST_HEADERS + 1]
        fields = [line.partition(b":") for line in lines]
        self.headers = [(one.lower(), value.strip(b" \t")) for one, _, value in fields]

    cdef int read(self, bytes data) except -1:
        cdef Py_ssize_t end
        self.size = PyBytes_GET_SIZE(data)
        parser = HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except HttpParserUpgrade:
            pass
        except HttpParserError as error:
            if self.has_too_many:
                text = f"the head has more than {MAX_HEADERS} fields"
                raise HeadError(431, text) from None
            raise HeadError(400, f"malformed request: {error}") from None
        end = data.find(b"\r\n")
        version = data[max(end - 9, 0):end]
        if version != b" HTTP/1.1":
            if version != b" HTTP/1.0":
                # llhttp takes some, and other protocols as well.
                text = "the request's protocol is neither HTTP/1.1 nor HTTP/1.0"
                raise HeadError(505 if version.startswith(b" HTTP/") else 400, text)
            self.is_old = True
        self.method = data[:data.find(b" ")]
        self.keeps_alive = not self.is_old
        return self.frame()

    cdef int frame(self) except -1:
        """Find out how long the body is, and whether the connection goes on.

        httptools has forgotten the latter where the request ended with its head.
        """
        cdef tuple pair
        cdef bytes key
        cdef Py_ssize_t hosts = 0
        coding = None
        for pair in self.headers:
            key = <bytes>pair[0]
            size = PyBytes_GET_SIZE(key)
            if size == 4 and key == b"host":
                hosts += 1
            elif size == 14 and key == b"content-length":
                self.length = read_length(pair[1])
            elif size == 17 and key == b"transfer-encoding":
                coding = pair[1] if coding is None else coding + b"," + pair[1]
            elif size == 10 and key == b"connection":
                self.read_connection(pair[1])
            elif size == 6 and key == b"expect" and not self.is_old:
                self.expects_continue = (<bytes>pair[1]).lower() == b"100-continue"
        if hosts != 1 and (hosts or not self.is_old):
            text = "malformed request: " + (
                "more than one Host" if hosts else "the header Host is missing"
            )
            raise HeadError(400, text)
        if coding is not None:
            if self.is_old:
                text = "malformed request: Transfer-Encoding in HTTP/1.0"
                raise HeadError(400, text)
            if (<bytes>coding).lower() != b"chunked":
                raise HeadError(501, "a transfer coding other than chunked")
            self.length = -1
        return 0

    cdef int read_connection(self, bytes value) except -1:
        for token in value.lower().split(b","):
            token = token.strip()
            if token == b"close":
                self.keeps_alive = False
                self.is_closing = True
            elif token == b"keep-alive" and not self.is_closing:
                self.keeps_alive = True
        return 0

    @property
    def cost(self):
        return self.size + FIELD_COST * len(self.headers)

    @property
    def path(self):
        path = self.split()[0]
        return unquote(path, errors="replace") if "%" in path else path

    @property
    def query(self):
        return self.split()[1]

    cdef tuple split(self):
        # llhttp takes targets of printable ASCII alone.
        target = self.target.decode("ascii", "replace")
        if not target.startswith("/"):
            _, _, rest = target.partition("://")
            _, slash, path = rest.partition("/")
            target = slash + path or target
        path, _, query = target.partition("#")[0].partition("?")
        return path, query


@cython.final
cdef class Body:
    cdef PyObject *data
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t size
    cdef int exports

    def __cinit__(self, Py_ssize_t capacity):
        if capacity <= 0:
            raise ValueError(f"the capacity is {capacity}, not above 0")
        self.data = PyBytes_FromStringAndSize(NULL, capacity)
        self.capacity = capacity

    def __init__(self, Py_ssize_t capacity):
        pass

    def __dealloc__(self):
        Py_XDECREF(self.data)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.data == NULL:
            raise BufferError("the body was taken")
        PyBuffer_FillInfo(
            buffer, self, bytes_data(self.data) + self.size, self.capacity - self.size,
            0, flags,
        )
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    @property
    def is_full(self):
        return self.size == self.capacity

    def advance(self, Py_ssize_t size):
        if size < 0 or size > self.capacity - self.size:
            raise ValueError(f"{size} bytes more than there is place for")
        self.size += size

    def fill(self, data not None, Py_ssize_t start, Py_ssize_t end):
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= start <= end <= view.len:
                raise ValueError(f"no bytes {start} to {end} of {view.len}")
            self.append(<const uint8_t *>view.buf + start, end - start)
        finally:
            PyBuffer_Release(&view)

    cdef int append(self, const uint8_t *data, Py_ssize_t size) except -1:
        if self.data == NULL or size > self.capacity - self.size:
            raise ValueError(f"{size} bytes more than there is place for")
        memcpy(bytes_data(self.data) + self.size, data, size)
        self.size += size
        return 0

    def grow(self, Py_ssize_t capacity):
        if self.exports or self.data == NULL:
            raise BufferError("somebody has the body")
        if capacity > self.capacity:
            self.resize(capacity)

    cdef int resize(self, Py_ssize_t capacity) except -1:
        self.capacity = 0  # where that fails there is nothing
        _PyBytes_Resize(&self.data, capacity)
        self.capacity = capacity
        return 0

    def take(self):
        if self.data == NULL:
            raise BufferError("the body was taken")
        if self.size < self.capacity:
            if self.exports:
                raise BufferError("somebody has the body")
            if not self.size:
                return EMPTY
            self.resize(self.size)
        # Who has the buffer still has only its end, where nothing is.
        taken = <bytes><object>self.data
        if not self.exports:
            Py_XDECREF(self.data)
            self.data = NULL
        return taken


cdef enum Step:
    SIZE_FIRST  # a digit has to come
    SIZE
    EXTENSION
    SIZE_END  # \n
    DATA
    DATA_CR
    DATA_END
    TRAILER  # the beginning of a line
    NAME
    FIELD
    FIELD_END
    LAST_END
    COMPLETE


@cython.final
cdef class Chunks:
    cdef Step step
    cdef uint64_t left  # of the chunk
    cdef int digits
    cdef Py_ssize_t framing  # bytes that no data has excused
    cdef const char *error

    @property
    def is_complete(self):
        return self.step == COMPLETE

    def decode(
        self, data not None, Py_ssize_t start, Py_ssize_t end, Body body
    ):
        cdef Py_buffer view
        cdef const uint8_t *at
        cdef Py_ssize_t size
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= start <= end <= view.len:
                raise ValueError(f"no bytes {start} to {end} of {view.len}")
            at = <const uint8_t *>view.buf
            while start < end and self.step != COMPLETE:
                if self.step != DATA:
                    start += self.frame(at + start, end - start)
                    if self.error != NULL:
                        text = f"malformed chunked body: {self.error.decode()}"
                        raise HeadError(400, text)
                    continue
                size = min(end - start, <Py_ssize_t>self.left)
                if body is not None:
                    size = min(size, body.capacity - body.size)
                    if not size:
                        break
                    body.append(at + start, size)
                start += size
                self.left -= size
                if not self.left:
                    self.step = DATA_CR
        finally:
            PyBuffer_Release(&view)
        return start

    cdef Py_ssize_t frame(self, const uint8_t *data, Py_ssize_t size) noexcept nogil:
        """Read what is not data; returns how many bytes, and sets `error`."""
        cdef Py_ssize_t at = 0
        cdef uint8_t byte
        cdef int digit
        while at < size and self.step != DATA and self.step != COMPLETE:
            byte = data[at]
            at += 1
            self.framing += 1
            if self.framing > MOST_FRAMING:
                self.error = b"too much beside its data (extensions, trailers)"
                return at
            if self.step == SIZE_FIRST or self.step == SIZE:
                digit = hex_digit(byte)
                if digit >= 0:
                    self.digits += 1
                    self.left = self.left * 16 + digit
                    self.step = SIZE
                    if self.digits > MAX_DIGITS:
                        self.error = b"a chunk's size is too long"
                        return at
                elif self.step == SIZE and byte == c";":
                    self.step = EXTENSION
                elif self.step == SIZE and byte == c"\r":
                    self.step = SIZE_END
                else:
                    self.error = b"a chunk's size is not a hexadecimal number"
                    return at
            elif self.step == EXTENSION or self.step == FIELD:
                if byte == c"\r":
                    self.step = SIZE_END if self.step == EXTENSION else FIELD_END
                elif byte < 32 and byte != c"\t" or byte == 127:
                    self.error = b"a control character in an extension or a trailer"
                    return at
            elif self.step == TRAILER and byte == c"\r":
                self.step = LAST_END
            elif self.step == NAME and byte == c":":
                self.step = FIELD
            elif self.step == TRAILER or self.step == NAME:
                if not is_token(byte):
                    self.error = b"a trailer that is not a field"
                    return at
                self.step = NAME
            elif self.step == DATA_CR:
                if byte != c"\r":
                    self.error = b"a chunk is longer than its size"
                    return at
                self.step = DATA_END
            else:
                if byte != c"\n":
                    self.error = b"a line does not end in CR LF"
                    return at
                if self.step == SIZE_END:
                    self.begin_chunk()
                elif self.step == DATA_END:
                    self.step = SIZE_FIRST
                elif self.step == FIELD_END:
                    self.step = TRAILER
                else:
                    self.step = COMPLETE
        return at

    cdef void begin_chunk(self) noexcept nogil:
        cdef uint64_t excused = PER_CHUNK + PER_BYTE * self.left
        self.digits = 0
        if not self.left:
            self.step = TRAILER
            return
        self.framing = 0 if <uint64_t>self.framing <= excused else (
            self.framing - <Py_ssize_t>excused
        )
        self.step = DATA


cdef Py_ssize_t read_length(bytes value) except -1:
    """A Content-Length, of which llhttp has seen that it is one, up to 2**64."""
    value = value.lstrip(b"0")
    if PyBytes_GET_SIZE(value) > LENGTH_DIGITS:
        raise HeadError(400, "malformed request: Content-Length overflow")
    return int(value or b"0")


cdef bint is_token(uint8_t byte) noexcept nogil:
    """Whether a field's name can have it (RFC 9110, section 5.6.2)."""
    if byte <= 32 or byte >= 127:
        return False
    return memchr(b"\"(),/:;<=>?@[\\]{}", byte, 17) == NULL


cdef int hex_digit(uint8_t byte) noexcept nogil:
    if c"0" <= byte <= c"9":
        return byte - c"0"
    if c"a" <= byte | 32 <= c"f":
        return (byte | 32) - c"a" + 10
    return -1
