"""zstd in steps, by libzstd."""

from libc.stdint cimport uint8_t, uint32_t

cimport k8strace._libzstd as zstd
from k8strace._stream cimport (
    DECODER, FIRST_ROOM, Stream, begin_member, grown, little_endian,
)

cdef enum:
    ZSTD_LEVEL = 1
    ZSTD_RATIO = 32768  # a block of 128 KiB in four bytes
    WINDOW_LOG = 23  # RFC 8878 recommends to take windows of 8 MiB

cdef inline void inflate_zstd(Stream *s) noexcept nogil:
    cdef zstd.ZSTD_DCtx *context = <zstd.ZSTD_DCtx *>s.context
    cdef zstd.ZSTD_inBuffer data
    cdef zstd.ZSTD_outBuffer out
    cdef size_t left
    while s.problem == NULL and not s.is_over:
        if not s.is_inside:
            if not begin_member(s):
                return
            read_frame_header(s)
            continue
        if s.wanted > s.room or s.window > s.granted or context == NULL:
            return
        if s.frame:
            left = zstd.ZSTD_decompressDCtx(
                context, s.out + s.size, s.room - s.size,
                s.pieces[0].data + s.fed, s.frame,
            )
            if failed(s, left):
                return
            s.fed += s.frame
            s.size += left
            s.is_inside = False
            continue
        data.src, data.size, data.pos = s.pieces[0].data, s.pieces[0].size, s.fed
        out.dst, out.size, out.pos = s.out, s.room, s.size
        left = zstd.ZSTD_decompressStream(context, &out, &data)
        s.fed = data.pos
        s.size = out.pos
        if failed(s, left):
            return
        if s.size > s.limit:
            s.is_over = True
        elif left == 0:
            s.is_inside = False
        elif s.size == s.room:
            s.wanted = grown(s)
        elif s.fed == s.pieces[0].size:
            s.problem = b"truncated"


cdef inline void read_frame_header(Stream *s) noexcept nogil:
    """Find out what a frame needs; skip one that may be skipped."""
    cdef const uint8_t *data = s.pieces[0].data + s.fed
    cdef size_t size = s.pieces[0].size - s.fed
    cdef size_t window = 0
    cdef size_t whole
    cdef unsigned long long content
    cdef uint32_t magic
    if size < 4:
        s.problem = b"truncated"
        return
    magic = little_endian(data)
    if magic & zstd.ZSTD_MAGIC_SKIPPABLE_MASK == zstd.ZSTD_MAGIC_SKIPPABLE_START:
        whole = zstd.ZSTD_findFrameCompressedSize(data, size)
        if not failed(s, whole):
            s.fed += whole
            s.is_inside = False
        return
    if magic != zstd.ZSTD_MAGICNUMBER:
        s.problem = b"there is no frame where one should begin"
        return
    content = zstd.ZSTD_getFrameContentSize(data, size)
    if content == zstd.ZSTD_CONTENTSIZE_ERROR:
        s.problem = b"a frame's header is truncated or invalid"
        return
    if zstd.ZSTD_getDictID_fromFrame(data, size):
        s.problem = b"a dictionary would be needed"
        return
    if data[4] & 0x20 == 0:  # else the content is its window
        window = <size_t>1 << (10 + (data[5] >> 3))
        window += window // 8 * (data[5] & 7)
        if window > 1 << WINDOW_LOG:
            s.problem = b"a window of more than 8 MiB would be needed"
            return
    if content == zstd.ZSTD_CONTENTSIZE_UNKNOWN:
        s.frame = 0
        s.window = max(
            s.window,
            DECODER + window + 2 * min(window, <size_t>zstd.ZSTD_BLOCKSIZE_MAX),
        )
        if s.room == s.size:
            s.wanted = grown(s)
        return
    if content > s.limit - s.size:
        s.is_over = True
        return
    s.frame = zstd.ZSTD_findFrameCompressedSize(data, size)
    if failed(s, s.frame):
        return
    if content // ZSTD_RATIO > s.frame:
        s.problem = b"a frame cannot have the size that it says"
        return
    if s.size + content > s.room:
        # Of many frames, each does not grow the output by itself.
        s.wanted = max(s.size + <size_t>content, grown(s) if s.room else 0)


cdef inline bint failed(Stream *s, size_t code) noexcept nogil:
    if not zstd.ZSTD_isError(code):
        return False
    if zstd.ZSTD_getErrorCode(code) == zstd.ZSTD_error_memory_allocation:
        s.has_no_memory = True
    else:
        s.problem = zstd.ZSTD_getErrorName(code)
    return True


cdef inline void deflate_zstd(Stream *s) noexcept nogil:
    cdef zstd.ZSTD_CCtx *context = <zstd.ZSTD_CCtx *>s.context
    cdef zstd.ZSTD_inBuffer data
    cdef zstd.ZSTD_outBuffer out
    cdef size_t left
    cdef bint is_last
    if not s.is_inside:
        zstd.ZSTD_CCtx_reset(context, zstd.ZSTD_reset_session_only)
        zstd.ZSTD_CCtx_setPledgedSrcSize(context, s.limit)
        s.is_inside = True
    out.dst, out.size, out.pos = s.out, s.room, s.size
    while True:
        data.src, data.size, data.pos = NULL, 0, 0
        if s.piece < s.count:
            data.src, data.size = s.pieces[s.piece].data, s.pieces[s.piece].size
            data.pos = s.fed
        is_last = s.piece + 1 >= s.count
        left = zstd.ZSTD_compressStream2(
            context, &out, &data, zstd.ZSTD_e_end if is_last else zstd.ZSTD_e_continue
        )
        s.size = out.pos
        s.fed = data.pos
        if failed(s, left):
            return
        if is_last and left == 0:
            s.is_done = True
            return
        if not is_last and s.fed == data.size:
            s.piece += 1
            s.fed = 0
        elif s.size == s.room:
            s.wanted = s.room + s.room // 4 + FIRST_ROOM
            return
