"""What is done to a body in steps: the struct that they share."""

from libc.stdint cimport uint8_t, uint32_t

from k8strace._threads cimport Job

cdef enum:
    AT_ONCE = 1024 * 1024  # bytes, in or out, that the event loop can wait for
    FIRST_ROOM = 16 * 1024  # where the size isn't known
    DECODER = 128 * 1024  # bytes that a decoder has, but for a window; the larger of both
    MOST_MEMBERS = 4096
    FEW = 8  # pieces without an allocation

ctypedef void (*Step)(Stream *) noexcept nogil

cdef struct Piece:
    const uint8_t *data
    size_t size

cdef struct Stream:
    Job job  # the first, so that a job is its stream
    Step step
    void *context
    Piece *pieces
    Piece[FEW] few
    size_t count  # of the pieces
    size_t piece  # the present one
    size_t fed  # bytes of it that were read
    uint8_t *out
    size_t size  # of the output up to now
    size_t room
    size_t wanted
    size_t limit
    size_t window  # bytes that the decoder needs besides
    size_t granted  # of them
    size_t frame  # bytes of a zstd frame that is decoded at once; 0: in steps
    int members
    bint is_inside  # of a member
    bint is_done
    bint is_over  # the limit
    bint has_no_memory
    const char *problem

cdef inline size_t grown(Stream *s) noexcept nogil:
    """More room, up to a byte that shows what is over the limit."""
    cdef size_t more = s.room if s.room < AT_ONCE else s.room // 4
    return min(s.room + max(more, <size_t>FIRST_ROOM), s.limit + 1)


cdef inline uint32_t little_endian(const uint8_t *data) noexcept nogil:
    return (
        data[0]
        | <uint32_t>data[1] << 8
        | <uint32_t>data[2] << 16
        | <uint32_t>data[3] << 24
    )


cdef inline bint begin_member(Stream *s) noexcept nogil:
    """Whether there is one more that may begin."""
    if s.fed == s.pieces[0].size and s.members:
        s.is_done = True
        return False
    if s.members == MOST_MEMBERS:
        s.problem = b"more than 4096 members"
        return False
    s.members += 1
    s.is_inside = True
    return True
