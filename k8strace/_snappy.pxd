"""snappy in steps, by libsnappy: one block, or the framing format of many.

The framing format is google/snappy's framing_format.txt; it has a checksum for each 64 KiB,
and is what Go's programs mean by `grpc-encoding: snappy`. A block has no checksum.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

cimport k8strace._libsnappy as snappy
from k8strace._stream cimport Stream, grown, little_endian

cdef extern from "<isa-l/crc.h>" nogil:
    unsigned int crc32_iscsi(unsigned char *buffer, int size, unsigned int begin)

cdef enum:
    CHUNK = 64 * 1024  # bytes of content that a chunk of the framing format has at most
    CHUNK_HEADER = 4  # its kind, and its length in three bytes
    CHECKSUM = 4
    IDENTIFIER_SIZE = 10
    SNAPPY_RATIO = 22  # three bytes of a block copy 64 at the most

    COMPRESSED = 0x00
    UNCOMPRESSED = 0x01
    FIRST_SKIPPABLE = 0x80
    IDENTIFIER = 0xFF

cdef inline const char *identifier() noexcept nogil:
    """The chunk that a framed stream begins with."""
    return b"\xff\x06\x00\x00sNaPpY"


cdef inline bint is_framed(Stream *s) noexcept nogil:
    return (
        s.pieces[0].size >= IDENTIFIER_SIZE
        and memcmp(s.pieces[0].data, identifier(), IDENTIFIER_SIZE) == 0
    )


cdef inline uint32_t masked_crc(const uint8_t *data, size_t size) noexcept nogil:
    """The CRC-32C of `data` as the framing format stores it."""
    cdef uint32_t crc = ~crc32_iscsi(<unsigned char *>data, <int>size, 0xFFFFFFFF)
    return (crc >> 15 | crc << 17) + <uint32_t>0xA282EAD8


cdef inline bint read_length(
    Stream *s, const uint8_t *block, size_t size, size_t *length
) noexcept nogil:
    """The length that a block says its content has; False if it cannot be true."""
    if (
        snappy.snappy_uncompressed_length(<const char *>block, size, length)
        != snappy.SNAPPY_OK
    ):
        s.problem = b"a block's length is truncated or invalid"
        return False
    if length[0] > SNAPPY_RATIO * size:
        s.problem = b"truncated, or a block cannot have the size that it says"
        return False
    return True


cdef inline void inflate_block(Stream *s) noexcept nogil:
    cdef size_t length
    if not read_length(s, s.pieces[0].data, s.pieces[0].size, &length):
        return
    if length > s.limit:
        s.is_over = True
        return
    s.wanted = length
    if s.out == NULL:
        return
    if not unpack_block(s, s.pieces[0].data, s.pieces[0].size, length):
        s.problem = b"a block is truncated or invalid"
        return
    s.is_done = True


cdef inline bint unpack_block(
    Stream *s, const uint8_t *block, size_t size, size_t length
) noexcept nogil:
    if (
        snappy.snappy_uncompress(
            <const char *>block, size, <char *>s.out + s.size, &length
        ) != snappy.SNAPPY_OK
    ):
        return False
    s.size += length
    return True


cdef inline void inflate_snappy(Stream *s) noexcept nogil:
    """Frames or one block; no bytes are the frames that Go writes for no bytes."""
    if s.pieces[0].size == 0 or is_framed(s):
        inflate_snappy_framed(s)
    else:
        inflate_block(s)


cdef inline void inflate_snappy_framed(Stream *s) noexcept nogil:
    cdef const uint8_t *chunk
    cdef size_t left, size
    while True:
        left = s.pieces[0].size - s.fed
        if left == 0:
            s.is_done = True
            return
        if left < CHUNK_HEADER:
            s.problem = b"truncated"
            return
        chunk = s.pieces[0].data + s.fed
        size = chunk[1] | <size_t>chunk[2] << 8 | <size_t>chunk[3] << 16
        if s.fed == 0 and chunk[0] != IDENTIFIER:
            s.problem = b"frames do not begin with a stream identifier"
            return
        if size > left - CHUNK_HEADER:
            s.problem = b"truncated"
            return
        if chunk[0] == IDENTIFIER:
            if size + CHUNK_HEADER != IDENTIFIER_SIZE or memcmp(
                chunk, identifier(), IDENTIFIER_SIZE
            ):
                s.problem = b"a stream identifier is wrong"
                return
        elif chunk[0] < FIRST_SKIPPABLE:
            if not inflate_chunk(s, chunk[0], chunk + CHUNK_HEADER, size):
                return
        s.fed += CHUNK_HEADER + size


cdef inline bint inflate_chunk(
    Stream *s, int kind, const uint8_t *data, size_t size
) noexcept nogil:
    """Whether it is done; else it has a problem, or wants more room."""
    cdef size_t length = size - CHECKSUM
    if kind > UNCOMPRESSED:
        s.problem = b"a chunk is of an unknown kind that must not be skipped"
        return False
    if size < CHECKSUM:
        s.problem = b"a chunk is shorter than its checksum"
        return False
    if kind == COMPRESSED and not read_length(
        s, data + CHECKSUM, size - CHECKSUM, &length
    ):
        return False
    if length > CHUNK:
        s.problem = b"a chunk has more than 64 KiB"
        return False
    if length > s.limit - s.size:
        s.is_over = True
        return False
    if s.size + length > s.room or s.out == NULL:
        # Of many chunks, each does not grow the output by itself.
        s.wanted = max(s.size + length, grown(s) if s.room else 0)
        return False
    if kind == UNCOMPRESSED:
        memcpy(s.out + s.size, data + CHECKSUM, length)
        s.size += length
    elif not unpack_block(s, data + CHECKSUM, size - CHECKSUM, length):
        s.problem = b"a block is truncated or invalid"
        return False
    if masked_crc(s.out + s.size - length, length) != little_endian(data):
        s.problem = b"a chunk's checksum does not match"
        return False
    return True


cdef inline size_t snappy_bound(size_t size) noexcept nogil:
    """Bytes that so many take in frames, with room for compressing the last chunk."""
    cdef size_t chunks = size // CHUNK + 1
    return (
        IDENTIFIER_SIZE
        + size
        + chunks * (CHUNK_HEADER + CHECKSUM)
        + snappy.snappy_max_compressed_length(CHUNK)
    )


cdef inline void deflate_snappy(Stream *s) noexcept nogil:
    """Frames of 64 KiB; what does not compress by an eighth goes as it is."""
    cdef uint8_t *scratch = <uint8_t *>s.context
    cdef const uint8_t *content
    cdef uint8_t *chunk
    cdef size_t left = s.limit
    cdef size_t size, packed
    cdef uint32_t crc
    memcpy(s.out, identifier(), IDENTIFIER_SIZE)
    s.size = IDENTIFIER_SIZE
    while left:
        size = min(left, <size_t>CHUNK)
        content = gathered(s, scratch, size)
        left -= size
        crc = masked_crc(content, size)
        chunk = s.out + s.size
        packed = s.room - s.size - CHUNK_HEADER - CHECKSUM
        if (
            snappy.snappy_compress(
                <const char *>content,
                size,
                <char *>chunk + CHUNK_HEADER + CHECKSUM,
                &packed,
            ) != snappy.SNAPPY_OK
        ):
            s.problem = b"not compressed"
            return
        chunk[0] = COMPRESSED
        if packed >= size - size // 8:
            chunk[0] = UNCOMPRESSED
            memcpy(chunk + CHUNK_HEADER + CHECKSUM, content, size)
            packed = size
        write_little_endian(chunk + 1, packed + CHECKSUM, 3)
        write_little_endian(chunk + CHUNK_HEADER, crc, CHECKSUM)
        s.size += CHUNK_HEADER + CHECKSUM + packed
    s.is_done = True


cdef inline void write_little_endian(
    uint8_t *out, size_t value, int size
) noexcept nogil:
    cdef int place
    for place in range(size):
        out[place] = value >> 8 * place & 0xFF


cdef inline const uint8_t *gathered(
    Stream *s, uint8_t *scratch, size_t size
) noexcept nogil:
    """The next `size` bytes of the pieces, copied to `scratch` where they don't adjoin."""
    cdef size_t copied = 0
    cdef size_t part
    cdef const uint8_t *begin
    while True:
        begin = s.pieces[s.piece].data + s.fed
        part = s.pieces[s.piece].size - s.fed
        if part >= size - copied:
            part = size - copied
            s.fed += part
            if copied == 0:
                return begin
            memcpy(scratch + copied, begin, part)
            return scratch
        memcpy(scratch + copied, begin, part)
        copied += part
        s.piece += 1
        s.fed = 0
