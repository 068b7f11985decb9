"""What is used of liblz4 (<lz4frame.h>, its stable part)."""

cdef extern from "<lz4frame.h>" nogil:
    enum:
        LZ4F_VERSION
    ctypedef struct LZ4F_dctx:
        pass
    ctypedef struct LZ4F_decompressOptions_t:
        pass

    unsigned LZ4F_isError(size_t code)
    const char *LZ4F_getErrorName(size_t code)
    size_t LZ4F_createDecompressionContext(LZ4F_dctx **context, unsigned version)
    size_t LZ4F_freeDecompressionContext(LZ4F_dctx *context)
    size_t LZ4F_decompress(
        LZ4F_dctx *context,
        void *out,
        size_t *out_size,
        const void *data,
        size_t *size,
        const LZ4F_decompressOptions_t *options,
    )
