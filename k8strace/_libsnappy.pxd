"""What is used of libsnappy (<snappy-c.h>)."""

cdef extern from "<snappy-c.h>" nogil:
    ctypedef enum snappy_status:
        SNAPPY_OK

    size_t snappy_max_compressed_length(size_t size)
    snappy_status snappy_compress(
        const char *data, size_t size, char *out, size_t *out_size
    )
    snappy_status snappy_uncompress(
        const char *data, size_t size, char *out, size_t *out_size
    )
    snappy_status snappy_uncompressed_length(
        const char *data, size_t size, size_t *result
    )
