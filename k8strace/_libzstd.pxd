"""What is used of libzstd (<zstd.h>, its stable part)."""

cdef extern from "<zstd.h>" nogil:
    ctypedef enum ZSTD_cParameter:
        ZSTD_c_compressionLevel
        ZSTD_c_checksumFlag
    ctypedef enum ZSTD_dParameter:
        ZSTD_d_windowLogMax
    ctypedef enum ZSTD_ResetDirective:
        ZSTD_reset_session_only
    ctypedef enum ZSTD_EndDirective:
        ZSTD_e_continue
        ZSTD_e_end
    enum:
        ZSTD_BLOCKSIZE_MAX
    const unsigned ZSTD_MAGICNUMBER
    const unsigned ZSTD_MAGIC_SKIPPABLE_MASK
    const unsigned ZSTD_MAGIC_SKIPPABLE_START
    const unsigned long long ZSTD_CONTENTSIZE_UNKNOWN
    const unsigned long long ZSTD_CONTENTSIZE_ERROR

    ctypedef struct ZSTD_CCtx:
        pass
    ctypedef struct ZSTD_DCtx:
        pass
    ctypedef struct ZSTD_inBuffer:
        const void *src
        size_t size
        size_t pos
    ctypedef struct ZSTD_outBuffer:
        void *dst
        size_t size
        size_t pos

    unsigned ZSTD_isError(size_t code)
    const char *ZSTD_getErrorName(size_t code)
    size_t ZSTD_compressBound(size_t size)

    ZSTD_CCtx *ZSTD_createCCtx()
    size_t ZSTD_freeCCtx(ZSTD_CCtx *context)
    size_t ZSTD_sizeof_CCtx(const ZSTD_CCtx *context)
    size_t ZSTD_CCtx_setParameter(ZSTD_CCtx *context, ZSTD_cParameter name, int value)
    size_t ZSTD_CCtx_reset(ZSTD_CCtx *context, ZSTD_ResetDirective what)
    size_t ZSTD_CCtx_setPledgedSrcSize(ZSTD_CCtx *context, unsigned long long size)
    size_t ZSTD_compressStream2(
        ZSTD_CCtx *context, ZSTD_outBuffer *out, ZSTD_inBuffer *data, ZSTD_EndDirective end
    )

    ZSTD_DCtx *ZSTD_createDCtx()
    size_t ZSTD_freeDCtx(ZSTD_DCtx *context)
    size_t ZSTD_sizeof_DCtx(const ZSTD_DCtx *context)
    size_t ZSTD_DCtx_setParameter(ZSTD_DCtx *context, ZSTD_dParameter name, int value)
    size_t ZSTD_DCtx_reset(ZSTD_DCtx *context, ZSTD_ResetDirective what)
    size_t ZSTD_decompressDCtx(
        ZSTD_DCtx *context, void *out, size_t room, const void *data, size_t size
    )
    size_t ZSTD_decompressStream(
        ZSTD_DCtx *context, ZSTD_outBuffer *out, ZSTD_inBuffer *data
    )
    unsigned long long ZSTD_getFrameContentSize(const void *data, size_t size)
    size_t ZSTD_findFrameCompressedSize(const void *data, size_t size)
    unsigned ZSTD_getDictID_fromFrame(const void *data, size_t size)

cdef extern from "<zstd_errors.h>" nogil:
    ctypedef enum ZSTD_ErrorCode:
        ZSTD_error_memory_allocation
    ZSTD_ErrorCode ZSTD_getErrorCode(size_t code)
