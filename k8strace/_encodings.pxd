"""The encodings that a message can have."""

cdef enum Encoding:
    AS_IDENTITY
    AS_GZIP
    AS_ZSTD
