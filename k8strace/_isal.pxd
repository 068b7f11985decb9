"""What is used of ISA-L's igzip (<isa-l/igzip_lib.h>)."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

cdef extern from "<isa-l/igzip_lib.h>" nogil:
    enum:
        COMP_OK
        IGZIP_GZIP
        ISAL_DEF_LVL1_DEFAULT
        NO_FLUSH
        ZSTATE_END

        ISAL_BLOCK_FINISH
        ISAL_DECOMP_OK
        ISAL_DEFLATE
        ISAL_GZIP
        ISAL_INCORRECT_CHECKSUM
        ISAL_INVALID_WRAPPER
        ISAL_UNSUPPORTED_METHOD
        ISAL_ZLIB

    struct isal_zstate:
        int state

    struct isal_zstream:
        uint8_t *next_in
        uint32_t avail_in
        uint8_t *next_out
        uint32_t avail_out
        uint32_t level
        uint32_t level_buf_size
        uint8_t *level_buf
        uint16_t end_of_stream
        uint16_t flush
        uint16_t gzip_flag
        isal_zstate internal_state

    struct inflate_state:
        uint8_t *next_out
        uint32_t avail_out
        uint8_t *next_in
        uint32_t avail_in
        int32_t read_in_length
        int block_state
        uint32_t crc_flag

    void isal_deflate_init(isal_zstream *stream)
    void isal_deflate_stateless_init(isal_zstream *stream)
    int isal_deflate(isal_zstream *stream)
    int isal_deflate_stateless(isal_zstream *stream)
    void isal_inflate_init(inflate_state *state)
    void isal_inflate_reset(inflate_state *state)
    int isal_inflate(inflate_state *state)
