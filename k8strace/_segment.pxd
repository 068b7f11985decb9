"""The segments of a store: their format, and how one is read, in C without Python.

A segment is a file: a block that has its head twice and its extent, and records behind one
another, each a multiple of eight bytes. The extent is the length that the file has: a
shorter file has lost records. Segments of older versions have none. A record is a header,
two runs of bytes (`meta`, and the spans as they stand in a request), padding and a trailer.
What is behind the last one is zeros. Checksums begin with the segment's salt, so that
nobody can send spans that look like a record to who has lost the thread. Numbers are as the
machine has them: on one that has them the other way round the head is of another version.

`done` is the only part of a record that is ever written again. It is zero, or what
`done_mark` makes of the header's checksum: no flipped bit turns the one into the other.
"""

from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<isa-l/crc.h>" nogil:
    unsigned int crc32_iscsi(unsigned char *buffer, int len, unsigned int init_crc)

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *buffer, size_t count, int64_t offset)

cdef enum:
    BLOCK = 4096  # bytes before the first record
    EXTENT = 1024
    SECOND_HEAD = 2048
    VERSION = 1
    WINDOW = 64 * 1024
    LARGEST = 0x7FFFFFFF  # bytes of spans in a record; what a gRPC message can be

cdef extern from *:
    """
    #define HEAD_MAGIC 0x316765735338F501ULL
    #define RECORD_MAGIC 0x8B53B1E7U
    #define TRAILER_MAGIC 0xE57A917DU
    #define DONE_MAGIC 0x5A3CD09EU
    """
    const uint64_t HEAD_MAGIC
    const uint32_t RECORD_MAGIC, TRAILER_MAGIC, DONE_MAGIC

cdef struct Head:
    uint64_t magic
    uint32_t version
    uint32_t salt
    uint64_t number
    uint32_t crc
    uint32_t spare

cdef struct Extent:
    uint64_t size
    uint32_t crc
    uint32_t spare

cdef struct Record:
    uint32_t magic
    uint32_t done
    uint32_t crc  # of what follows
    uint32_t body_crc
    uint64_t id  # grows from record to record
    uint64_t time  # ns since 1970
    uint64_t length
    uint32_t spans
    uint32_t meta

cdef struct Trailer:
    uint32_t magic
    uint32_t crc

cdef enum Kind:
    END = 0
    LIVE = 1
    DONE = 2
    DAMAGED = 3  # bytes of what was a record
    TORN = 4  # as the last: begun, and never finished
    UNREADABLE = 5

cdef struct Found:
    Kind kind
    int64_t offset
    int64_t total  # bytes up to what is behind it
    Record record  # of LIVE and DONE

cdef struct Window:
    int fd
    int error
    int64_t size  # of the file
    bint is_finished  # what was begun in it was, or is cut off: nothing is TORN
    int64_t start
    int64_t held
    uint8_t *buffer  # of WINDOW bytes


cdef inline uint32_t crc32c(uint32_t crc, const void *data, size_t size) noexcept nogil:
    cdef const uint8_t *place = <const uint8_t *>data
    cdef int step
    while size:
        step = <int>min(size, <size_t>0x40000000)
        crc = crc32_iscsi(<unsigned char *>place, step, crc)
        place += step
        size -= step
    return crc


cdef inline uint32_t head_crc(const Head *head) noexcept nogil:
    return ~crc32c(0xFFFFFFFF, head, 24)


cdef inline Extent extent_of(uint32_t salt, uint64_t size) noexcept nogil:
    cdef Extent extent
    extent.size = size
    extent.spare = 0
    extent.crc = ~crc32c(~salt, &extent.size, sizeof(extent.size))
    return extent


cdef inline uint32_t header_crc(uint32_t salt, const Record *record) noexcept nogil:
    return ~crc32c(salt, <const uint8_t *>record + 12, sizeof(Record) - 12)


cdef inline uint32_t done_mark(const Record *record) noexcept nogil:
    cdef uint32_t mark = record.crc ^ DONE_MAGIC
    return mark if mark else DONE_MAGIC


cdef inline int64_t size_of(uint64_t meta, uint64_t length) noexcept nogil:
    """Bytes of a record."""
    cdef int64_t size = sizeof(Record) + meta + length
    return (size + 7) // 8 * 8 + <int64_t>sizeof(Trailer)


cdef inline int read_all(int fd, void *into, int64_t count, int64_t offset) noexcept nogil:
    """Zero, or the number of an error; a file that ends before is one."""
    cdef int64_t done = 0
    cdef ssize_t got
    while done < count:
        got = pread(fd, <uint8_t *>into + done, count - done, offset + done)
        if got > 0:
            done += got
        elif got == 0:
            return EIO
        elif errno != EINTR:
            return errno
    return 0


cdef inline const uint8_t *peek(Window *w, int64_t offset, int64_t count) noexcept nogil:
    """A few bytes at `offset`; NULL where the file ends before, or `error` is set."""
    if offset < w.start or offset + count > w.start + w.held:
        if offset + count > w.size or w.error:
            return NULL
        w.start = offset
        w.held = min(w.size - offset, <int64_t>WINDOW)
        w.error = read_all(w.fd, w.buffer, w.held, offset)
        if w.error:
            w.held = 0
            return NULL
    return w.buffer + (offset - w.start)


cdef inline bint is_record(
    const Record *record, uint32_t salt, uint64_t last_id
) noexcept nogil:
    return (
        record.magic == RECORD_MAGIC
        and record.id > last_id
        and record.length <= LARGEST
        and header_crc(salt, record) == record.crc
    )


cdef inline bint is_at(
    Window *w, int64_t offset, uint32_t salt, uint64_t last_id
) noexcept nogil:
    cdef Record record
    cdef const uint8_t *place = peek(w, offset, sizeof(Record))
    if place == NULL:
        return False
    memcpy(&record, place, sizeof(Record))
    return is_record(&record, salt, last_id)


cdef inline int64_t next_record(
    Window *w, int64_t offset, uint32_t salt, uint64_t last_id
) noexcept nogil:
    """Where the next record begins; -1: there is none."""
    while offset + <int64_t>sizeof(Record) <= w.size and not w.error:
        if is_at(w, offset, salt, last_id):
            return offset
        offset += 8
    return -1


cdef inline int64_t last_word(Window *w, int64_t offset, int64_t end) noexcept nogil:
    """Where the last eight bytes before `end` stand that aren't zeros; -1: none are."""
    cdef int64_t last = -1
    cdef uint64_t word
    cdef const uint8_t *place
    while offset < end:
        word = 0
        place = peek(w, offset, min(<int64_t>8, end - offset))
        if place == NULL:
            break
        memcpy(&word, place, min(<int64_t>8, end - offset))
        if word:
            last = offset
        offset += 8
    return last


cdef inline void find(
    Window *w, int64_t offset, uint32_t salt, uint64_t last_id, Found *found
) noexcept nogil:
    """What stands at `offset`; zeros before a record are passed over."""
    cdef const uint8_t *place
    cdef int64_t after, last
    cdef uint64_t trailer = 0
    found.offset = offset
    found.total = 0
    if is_at(w, offset, salt, last_id):
        memcpy(&found.record, peek(w, offset, sizeof(Record)), sizeof(Record))
        found.total = size_of(found.record.meta, found.record.length)
        after = offset + found.total
        found.kind = LIVE
        if found.record.done == done_mark(&found.record):
            found.kind = DONE
        place = peek(w, after - <int64_t>sizeof(Trailer), sizeof(Trailer))
        if place != NULL:
            memcpy(&trailer, place, sizeof(trailer))
        if after > w.size:
            # Not begun and never finished: there was room for all of it.
            found.kind = DAMAGED
            found.total = w.size - offset
        elif (
            not w.is_finished
            and not trailer
            and next_record(w, after, salt, found.record.id) < 0
        ):
            found.kind = TORN
            found.total = w.size - offset
    else:
        after = next_record(w, offset + 8, salt, last_id)
        last = last_word(w, offset, w.size if after < 0 else after)
        if last < 0:
            if after >= 0 and not w.error:
                find(w, after, salt, last_id, found)
                return
            found.kind = END
        elif after >= 0:
            found.kind = DAMAGED
            found.total = after - offset
        else:
            place = peek(w, last, min(<int64_t>8, w.size - last))
            if place != NULL:
                memcpy(&trailer, place, min(<int64_t>8, w.size - last))
            found.kind = TORN
            found.total = w.size - offset
            if (
                w.is_finished
                or <uint32_t>trailer == TRAILER_MAGIC
                or w.size - offset < size_of(0, 0)
            ):
                found.kind = DAMAGED
                found.total = min(last + 8, w.size) - offset
    if w.error:
        found.kind = UNREADABLE
        found.total = w.size - offset
