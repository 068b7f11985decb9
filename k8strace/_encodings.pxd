"""The encodings that a message can have."""

cdef enum Encoding:
    AS_IDENTITY
    AS_GZIP
    AS_ZSTD
    AS_ZLIB
    AS_DEFLATE  # zlib, or what it wraps
    AS_SNAPPY  # its frames, or one block
    AS_SNAPPY_FRAMED
    AS_LZ4
