"""What both sides of gRPC over HTTP/2 share: output, headers, message prefixes."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, strlen

cimport k8strace._nghttp2 as h2
from k8strace._encodings cimport AS_GZIP, AS_IDENTITY, AS_SNAPPY, AS_ZSTD

cdef enum:
    PREFIX_SIZE = 5  # flags and length, before every gRPC message
    MAX_LENGTH = 0x7FFFFFFF - PREFIX_SIZE  # a window has to hold a message and its prefix
    STATIC = h2.NV_FLAG_NO_COPY_NAME | h2.NV_FLAG_NO_COPY_VALUE
    TIMEOUT_DIGITS = 8
    HEADER_OVERHEAD = 32  # what a header counts besides its bytes (RFC 9113, 6.5.2)

cdef enum Status:  # those that sessions give themselves
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

cdef struct Buffer:
    uint8_t *data
    size_t size
    size_t capacity


cdef inline bint reserve(Buffer *b, size_t capacity) noexcept nogil:
    """Make place for `capacity` bytes in all; whether there was memory for it."""
    cdef uint8_t *grown
    if capacity <= b.capacity:
        return True
    grown = <uint8_t *>realloc(b.data, capacity)
    if grown == NULL:
        return False
    b.data = grown
    b.capacity = capacity
    return True


cdef inline bint append(Buffer *b, const uint8_t *data, size_t size) noexcept nogil:
    """Whether there was memory for it."""
    if size == 0:
        return True
    if size > b.capacity - b.size:
        if not reserve(b, max(2 * b.capacity, b.size + size, <size_t>1024)):
            return False
    memcpy(b.data + b.size, data, size)
    b.size += size
    return True


cdef inline void release(Buffer *b) noexcept nogil:
    free(b.data)
    b.data = NULL
    b.size = 0
    b.capacity = 0


cdef inline void literal(h2.nv *nv, const char *name, const char *value) noexcept nogil:
    """A header of two C literals."""
    nv.name = <uint8_t *>name
    nv.namelen = strlen(name)
    nv.value = <uint8_t *>value
    nv.valuelen = strlen(value)
    nv.flags = STATIC


cdef inline void header(
    h2.nv *nv, const char *name, const char *value, size_t size
) noexcept nogil:
    """A header whose value nghttp2 copies."""
    nv.name = <uint8_t *>name
    nv.namelen = strlen(name)
    nv.value = <uint8_t *>value
    nv.valuelen = size
    nv.flags = h2.NV_FLAG_NO_COPY_NAME


cdef inline bint equals(const uint8_t *data, size_t size, const char *text) noexcept nogil:
    return size == strlen(text) and memcmp(data, text, size) == 0


cdef inline bint begins(const uint8_t *data, size_t size, const char *text) noexcept nogil:
    return size >= strlen(text) and memcmp(data, text, strlen(text)) == 0


cdef inline bint is_grpc(const uint8_t *value, size_t size) noexcept nogil:
    """Whether a content type is gRPC's: alone, with a format, or with parameters."""
    return begins(value, size, b"application/grpc") and (
        size == 16 or value[16] == c'+' or value[16] == c';'
    )


cdef inline double timeout_of(const uint8_t *value, size_t size) noexcept nogil:
    """Seconds of a `grpc-timeout`; negative for what is none."""
    cdef double number = 0
    cdef size_t i
    if size < 2 or size > TIMEOUT_DIGITS + 1:
        return -1
    for i in range(size - 1):
        if not c'0' <= value[i] <= c'9':
            return -1
        number = number * 10 + (value[i] - c'0')
    if value[size - 1] == c'H':
        return number * 3600
    if value[size - 1] == c'M':
        return number * 60
    if value[size - 1] == c'S':
        return number
    if value[size - 1] == c'm':
        return number / 1e3
    if value[size - 1] == c'u':
        return number / 1e6
    if value[size - 1] == c'n':
        return number / 1e9
    return -1


cdef inline uint32_t length_of(const uint8_t *prefix) noexcept nogil:
    return (
        <uint32_t>prefix[1] << 24
        | <uint32_t>prefix[2] << 16
        | <uint32_t>prefix[3] << 8
        | prefix[4]
    )


cdef inline void write_prefix(uint8_t *prefix, bint compressed, size_t size) noexcept nogil:
    prefix[0] = compressed
    prefix[1] = <uint8_t>(size >> 24)
    prefix[2] = <uint8_t>(size >> 16)
    prefix[3] = <uint8_t>(size >> 8)
    prefix[4] = <uint8_t>size


cdef inline Py_ssize_t copy_message(
    uint8_t *out,
    Py_ssize_t room,
    const char *body,
    Py_ssize_t size,
    Py_ssize_t sent,
    bint is_plain,
) noexcept nogil:
    """Write what follows `sent` bytes of prefix (but for a plain one) and body."""
    cdef uint8_t[PREFIX_SIZE] prefix
    cdef Py_ssize_t written = 0
    cdef Py_ssize_t part
    if not is_plain:
        if sent < PREFIX_SIZE:
            write_prefix(prefix, False, size)
            written = min(PREFIX_SIZE - sent, room)
            memcpy(out, prefix + sent, written)
        sent += written - PREFIX_SIZE
        if sent < 0:
            return written
    part = min(size - sent, room - written)
    memcpy(out + written, body + sent, part)
    return written + part


cdef inline int encoding_of(const uint8_t *value, size_t size) noexcept nogil:
    """A grpc-encoding's number; negative for one that is not known."""
    if equals(value, size, b"identity"):
        return AS_IDENTITY
    if equals(value, size, b"gzip"):
        return AS_GZIP
    if equals(value, size, b"zstd"):
        return AS_ZSTD
    return AS_SNAPPY if equals(value, size, b"snappy") else -1


cdef inline const char *encoding_name(int encoding) noexcept nogil:
    """What grpc-encoding calls it."""
    if encoding == AS_GZIP:
        return b"gzip"
    if encoding == AS_ZSTD:
        return b"zstd"
    return b"snappy" if encoding == AS_SNAPPY else b"identity"


cdef struct Head:
    Py_ssize_t size  # as SETTINGS_MAX_HEADER_LIST_SIZE counts
    double timeout  # seconds; negative: none
    bint is_post
    bint is_head
    bint is_grpc
    int encoding  # negative: an unknown one
    bint has_bad_timeout


cdef inline bint read_header(
    Head *head, const uint8_t *name, size_t name_size, const uint8_t *value, size_t size
) noexcept nogil:
    """Whether the header is one that the protocol has and this reads."""
    if equals(name, name_size, b":method"):
        head.is_post = equals(value, size, b"POST")
        head.is_head = equals(value, size, b"HEAD")
    elif equals(name, name_size, b"content-type"):
        head.is_grpc = is_grpc(value, size)
    elif equals(name, name_size, b"grpc-timeout"):
        head.timeout = timeout_of(value, size)
        head.has_bad_timeout = head.timeout < 0
    elif equals(name, name_size, b"grpc-encoding"):
        head.encoding = encoding_of(value, size)
    else:
        return (
            name[0] == c':'
            or begins(name, name_size, b"grpc-")
            or equals(name, name_size, b"te")
        )
    return True
