"""lz4 frames in steps, by liblz4."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport strcmp

cimport k8strace._liblz4 as lz4
from k8strace._stream cimport DECODER, Stream, begin_member, grown, little_endian

cdef enum:
    LZ4_RATIO = 255  # each byte of a match's length stands for so many
    LZ4_HEADER = 7  # bytes of the shortest
    MAGIC_NUMBER = 0x184D2204
    SKIPPABLE_MASK = 0xFFFFFFF0
    SKIPPABLE = 0x184D2A50
    HAS_SIZE = 0x08
    HAS_DICTIONARY = 0x01
    SMALLEST_BLOCK = 4  # stands for 64 KiB; each next one is four times as large

cdef inline void inflate_lz4(Stream *s) noexcept nogil:
    cdef size_t left, taken, made
    while s.problem == NULL and not s.is_over:
        if not s.is_inside:
            if not begin_member(s):
                return
            read_lz4_header(s)
            continue
        if s.wanted > s.room or s.window > s.granted or s.context == NULL:
            return
        taken = s.pieces[0].size - s.fed
        made = s.room - s.size
        left = lz4.LZ4F_decompress(
            <lz4.LZ4F_dctx *>s.context,
            s.out + s.size,
            &made,
            s.pieces[0].data + s.fed,
            &taken,
            NULL,
        )
        s.fed += taken
        s.size += made
        if lz4.LZ4F_isError(left):
            s.problem = lz4.LZ4F_getErrorName(left)
            s.has_no_memory = strcmp(s.problem, b"ERROR_allocation_failed") == 0
        elif s.size > s.limit:
            s.is_over = True
        elif left == 0:
            s.is_inside = False
        elif s.size == s.room:
            s.wanted = grown(s)
        elif s.fed == s.pieces[0].size:
            s.problem = b"truncated"
        elif not (taken or made):
            s.problem = b"invalid data"


cdef inline void read_lz4_header(Stream *s) noexcept nogil:
    """Find out what a frame needs; skip one that may be skipped."""
    cdef const uint8_t *data = s.pieces[0].data + s.fed
    cdef size_t size = s.pieces[0].size - s.fed
    cdef size_t content = 0
    cdef uint32_t magic
    cdef int block
    if size < LZ4_HEADER:
        s.problem = b"truncated"
        return
    magic = little_endian(data)
    if magic & <uint32_t>SKIPPABLE_MASK == SKIPPABLE:
        if size < 8 or little_endian(data + 4) > size - 8:
            s.problem = b"truncated"
            return
        s.fed += 8 + <size_t>little_endian(data + 4)
        s.is_inside = False
        return
    if magic != MAGIC_NUMBER:
        s.problem = b"there is no frame where one should begin"
        return
    if data[4] & HAS_DICTIONARY:
        s.problem = b"a dictionary would be needed"
        return
    block = (data[5] >> 4 & 7) - SMALLEST_BLOCK
    if block < 0:
        s.problem = b"a frame's header has an unknown size of blocks"
        return
    # A block that came in part, one that did not fit, and what blocks refer back to.
    s.window = max(s.window, DECODER + (<size_t>2 << (16 + 2 * block)))
    if data[4] & HAS_SIZE:
        if size < LZ4_HEADER + 8:
            s.problem = b"truncated"
            return
        content = little_endian(data + 6) | <size_t>little_endian(data + 10) << 32
        if content > s.limit - s.size:
            s.is_over = True
            return
        if content // LZ4_RATIO > size:
            s.problem = b"truncated, or a frame cannot have the size that it says"
            return
    if s.size + content > s.room:
        s.wanted = max(s.size + content, grown(s) if s.room else 0)
    elif s.size == s.room:
        s.wanted = grown(s)
