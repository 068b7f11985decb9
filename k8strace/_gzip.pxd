"""gzip in steps, by ISA-L; and zlib and raw deflate, which are read only."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

cimport k8strace._isal as isal
from k8strace._isal cimport ISAL_DEF_LVL1_DEFAULT
from k8strace._stream cimport FIRST_ROOM, Stream, begin_member, grown, little_endian

cdef enum:
    GZIP_RATIO = 1032  # deflate cannot pack more densely
    FEED = 1024 * 1024 * 1024  # ISA-L counts in 32 bits
    SMALL = 1024  # deflated with fixed tables: making some takes ten times the CPU

cdef struct Deflater:
    isal.isal_zstream stream
    uint8_t[ISAL_DEF_LVL1_DEFAULT] tables

cdef inline size_t likely_size(Stream *s) noexcept nogil:
    """The size that the last gzip member says it has, if it can be true."""
    cdef size_t size = s.pieces[0].size
    cdef size_t found
    if size < 4:
        return 0
    found = little_endian(s.pieces[0].data + size - 4)
    return found if found <= min(s.limit, GZIP_RATIO * size) else grown(s)


cdef inline void inflate_gzip(Stream *s) noexcept nogil:
    inflate(s, isal.ISAL_GZIP)


cdef inline void inflate_zlib(Stream *s) noexcept nogil:
    inflate(s, isal.ISAL_ZLIB)


cdef inline void inflate_deflate(Stream *s) noexcept nogil:
    """What HTTP calls deflate is zlib (RFC 9110, 8.4.1.2); some send raw deflate."""
    inflate(s, isal.ISAL_ZLIB if is_zlib(s) else isal.ISAL_DEFLATE)


cdef inline bint is_zlib(Stream *s) noexcept nogil:
    """Whether it begins as RFC 1950 says; no writer of raw deflate begins so."""
    cdef const uint8_t *data = s.pieces[0].data
    return (
        s.pieces[0].size >= 2
        and data[0] & 0x0F == 8
        and data[0] >> 4 <= 7
        and (data[0] << 8 | data[1]) % 31 == 0
    )


cdef inline void inflate(Stream *s, uint32_t wrapper) noexcept nogil:
    cdef isal.inflate_state *state = <isal.inflate_state *>s.context
    cdef const uint8_t *end = s.pieces[0].data + s.pieces[0].size
    cdef size_t before
    cdef int code
    while s.wanted <= s.room:
        if not s.is_inside:
            if not begin_wrapped(s, wrapper):
                return
            isal.isal_inflate_reset(state)
            state.crc_flag = wrapper
        state.next_in = <uint8_t *>s.pieces[0].data + s.fed
        state.avail_in = <uint32_t>min(<size_t>(end - state.next_in), <size_t>FEED)
        state.next_out = s.out + s.size
        state.avail_out = <uint32_t>(s.room - s.size)
        before = s.fed + s.size
        code = isal.isal_inflate(state)
        s.fed = state.next_in - s.pieces[0].data
        s.size = state.next_out - s.out
        if code != isal.ISAL_DECOMP_OK:
            s.problem = inflate_problem(code)
            return
        if s.size > s.limit:
            s.is_over = True
            return
        if state.block_state == isal.ISAL_BLOCK_FINISH:
            s.is_inside = False
            # ISA-L reads ahead by words, and keeps what is behind a short trailer.
            s.fed -= state.read_in_length // 8
        elif s.size == s.room:
            s.wanted = grown(s)
        elif s.fed == s.pieces[0].size:
            s.problem = b"truncated"
            return
        elif s.fed + s.size == before:
            s.problem = b"invalid data"
            return


cdef inline bint begin_wrapped(Stream *s, uint32_t wrapper) noexcept nogil:
    """Whether a gzip member begins, or the one stream of zlib or deflate."""
    cdef const uint8_t *data = s.pieces[0].data + s.fed
    cdef size_t size = s.pieces[0].size - s.fed
    if wrapper != isal.ISAL_GZIP and s.members and size:
        s.problem = b"data stands behind its end"
        return False
    if not begin_member(s):
        return False
    if wrapper == isal.ISAL_ZLIB:
        if size >= 2 and not is_zlib(s):
            s.problem = b"it does not begin with a zlib header"
        elif size >= 2 and data[1] & 0x20:
            s.problem = b"a dictionary would be needed"
    elif wrapper == isal.ISAL_GZIP:
        if size and data[0] != 0x1F:
            s.problem = inflate_problem(isal.ISAL_INVALID_WRAPPER)
        elif size > 3 and data[3] & 0xE0:
            s.problem = b"flags that gzip does not have"  # ISA-L takes them
    return s.problem == NULL


cdef inline const char *inflate_problem(int code) noexcept nogil:
    if code == isal.ISAL_INVALID_WRAPPER:
        return b"there is no member where one should begin"
    if code == isal.ISAL_UNSUPPORTED_METHOD:
        return b"another method than deflate"
    if code == isal.ISAL_INCORRECT_CHECKSUM:
        return b"checksum or size don't match"
    return b"invalid data"


cdef inline void deflate_small(Stream *s) noexcept nogil:
    """A message that isn't worth Huffman tables of its own."""
    cdef isal.isal_zstream *z = &(<Deflater *>s.context).stream
    cdef uint8_t[SMALL] data
    cdef size_t size = 0
    for s.piece in range(s.count):
        memcpy(data + size, s.pieces[s.piece].data, s.pieces[s.piece].size)
        size += s.pieces[s.piece].size
    isal.isal_deflate_stateless_init(z)
    z.gzip_flag = isal.IGZIP_GZIP
    z.end_of_stream = 1
    z.next_in = data
    z.avail_in = <uint32_t>size
    z.next_out = s.out
    z.avail_out = <uint32_t>s.room
    if isal.isal_deflate_stateless(z) != isal.COMP_OK:
        s.problem = b"not compressed"
        return
    s.size = s.room - z.avail_out
    s.is_done = True


cdef inline void deflate_gzip(Stream *s) noexcept nogil:
    cdef Deflater *context = <Deflater *>s.context
    cdef isal.isal_zstream *z = &context.stream
    if not s.is_inside:
        isal.isal_deflate_init(z)
        z.level = 1
        z.level_buf = context.tables
        z.level_buf_size = ISAL_DEF_LVL1_DEFAULT
        z.gzip_flag = isal.IGZIP_GZIP
        z.flush = isal.NO_FLUSH
        z.avail_in = 0
        s.is_inside = True
    while True:
        if z.avail_in == 0 and s.piece < s.count:
            z.next_in = <uint8_t *>s.pieces[s.piece].data
            z.avail_in = <uint32_t>s.pieces[s.piece].size
            s.piece += 1
        z.end_of_stream = s.piece == s.count
        z.next_out = s.out + s.size
        z.avail_out = <uint32_t>(s.room - s.size)
        if isal.isal_deflate(z) != isal.COMP_OK:
            s.problem = b"not compressed"
            return
        s.size = s.room - z.avail_out
        if z.internal_state.state == isal.ZSTATE_END:
            s.is_done = True
            return
        if z.avail_out == 0:
            s.wanted = s.room + s.room // 4 + FIRST_ROOM
            return
