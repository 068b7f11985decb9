"""What a thread writes to the segments of a store, in C without Python."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from k8strace._segment cimport (
    BLOCK, SECOND_HEAD, TRAILER_MAGIC, Head, Record, Trailer, header_crc,
)
from k8strace._segment cimport crc32c as update
from k8strace._threads cimport Job

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t pwritev(int fd, const iovec *vectors, int count, int64_t offset)

cdef extern from "<fcntl.h>" nogil:
    int O_RDWR, O_CREAT, O_EXCL, O_CLOEXEC
    int openat(int folder, const char *name, int flags, unsigned int mode)
    int posix_fallocate(int fd, int64_t offset, int64_t size)

cdef extern from "<sys/file.h>" nogil:
    int LOCK_EX, LOCK_NB
    int flock(int fd, int operation)

cdef extern from "<stdio.h>" nogil:
    int renameat(int old_folder, const char *old, int new_folder, const char *new)

cdef extern from "<unistd.h>" nogil:
    ssize_t pwrite(int fd, const void *data, size_t size, int64_t offset)
    int fdatasync(int fd)
    int fsync(int fd)
    int ftruncate(int fd, int64_t size)
    int unlinkat(int folder, const char *name, int flags)
    int close_file "close"(int fd)

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *now)

cdef enum:
    MOST_VECTORS = 1024  # what the system takes at once

cdef struct Appending:
    Job job
    int folder
    const char *new_name  # of a segment that is begun; NULL: `fd` is one
    const char *name
    int former  # the segment before it, ended at `former_size`; -1: none
    int64_t former_size
    int fd
    Head head
    int64_t capacity
    int64_t offset
    Record *records
    uint8_t *tails  # 16 bytes for each record: what pads it, and its trailer
    int count
    iovec *vectors
    int vector_count
    int error
    double seconds

cdef struct Mark:
    int fd
    int64_t offset
    uint32_t mark


cdef struct Removal:
    int fd
    int folder
    const char *name  # NULL: the file stays


cdef struct Marking:
    Job job
    Mark *marks
    int mark_count
    Removal *removals
    int removal_count
    bint syncs
    int error


cdef inline void append(Job *job) noexcept nogil:
    cdef Appending *w = <Appending *>job
    cdef timespec start, end
    cdef bint is_new = w.new_name != NULL
    clock_gettime(CLOCK_MONOTONIC, &start)
    seal_records(w)
    if is_new:
        w.error = begin_segment(w)
    if not w.error:
        w.error = write_all(w.fd, w.vectors, w.vector_count, w.offset)
    if not w.error and fdatasync(w.fd):
        w.error = errno
    if not w.error and is_new and fsync(w.folder):
        w.error = errno
    if w.error and w.fd >= 0:
        if is_new:
            unlinkat(w.folder, w.name, 0)
            unlinkat(w.folder, w.new_name, 0)
            close_file(w.fd)
            w.fd = -1
        else:
            ftruncate(w.fd, w.offset)
    clock_gettime(CLOCK_MONOTONIC, &end)
    w.seconds = <double>(end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9


cdef inline void seal_records(Appending *w) noexcept nogil:
    """Compute the checksums, and with them the trailers."""
    cdef iovec *vector = w.vectors
    cdef Record *record
    cdef Trailer trailer
    cdef uint64_t left
    cdef uint32_t crc
    cdef int i
    for i in range(w.count):
        record = &w.records[i]
        vector += 1
        crc = w.head.salt
        left = record.meta + record.length
        crc = update(crc, vector.iov_base, vector.iov_len)
        left -= vector.iov_len
        vector += 1
        while left:
            crc = update(crc, vector.iov_base, vector.iov_len)
            left -= vector.iov_len
            vector += 1
        while vector.iov_base != w.tails + 16 * i:  # chunks without bytes
            vector += 1
        record.body_crc = ~crc
        record.crc = header_crc(w.head.salt, record)
        trailer.magic = TRAILER_MAGIC
        trailer.crc = record.crc
        memcpy(
            <uint8_t *>vector.iov_base + vector.iov_len - sizeof(Trailer),
            &trailer, sizeof(Trailer),
        )
        vector += 1


cdef inline int begin_segment(Appending *w) noexcept nogil:
    """Make the file, with its place on the disk; zero, or the number of an error."""
    cdef uint8_t block[BLOCK]
    cdef iovec vector
    cdef int error
    w.fd = openat(w.folder, w.new_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    if w.fd < 0:
        return errno
    if flock(w.fd, LOCK_EX | LOCK_NB):
        return errno
    error = posix_fallocate(w.fd, 0, w.capacity)
    if error:
        return error
    memset(block, 0, BLOCK)
    memcpy(block, &w.head, sizeof(Head))
    memcpy(block + SECOND_HEAD, &w.head, sizeof(Head))
    vector.iov_base = block
    vector.iov_len = BLOCK
    error = write_all(w.fd, &vector, 1, 0)
    if error:
        return error
    if renameat(w.folder, w.new_name, w.folder, w.name):
        return errno
    if w.former >= 0:
        ftruncate(w.former, w.former_size)
    return 0


cdef inline int write_all(int fd, iovec *vectors, int count, int64_t offset) noexcept nogil:
    """Zero, or the number of an error. The vectors are used up."""
    cdef ssize_t done
    while count:
        if not vectors.iov_len:
            vectors += 1
            count -= 1
            continue
        done = pwritev(fd, vectors, min(count, <int>MOST_VECTORS), offset)
        if done < 0:
            if errno == EINTR:
                continue
            return errno
        offset += done
        while count and done >= <ssize_t>vectors.iov_len:
            done -= vectors.iov_len
            vectors += 1
            count -= 1
        if done:
            vectors.iov_base = <uint8_t *>vectors.iov_base + done
            vectors.iov_len -= done
    return 0


cdef inline void settle(Job *job) noexcept nogil:
    cdef Marking *w = <Marking *>job
    cdef Mark *mark
    cdef Removal *removal
    cdef int i
    for i in range(w.mark_count):
        mark = &w.marks[i]
        if pwrite(mark.fd, &mark.mark, sizeof(mark.mark), mark.offset + 4) < 0:
            w.error = errno
    for i in range(w.removal_count):
        removal = &w.removals[i]
        if removal.name != NULL:
            # Before it is closed: a file that can be locked is one that nobody cares for.
            if unlinkat(removal.folder, removal.name, 0):
                w.error = errno
        elif w.syncs and fdatasync(removal.fd):
            w.error = errno
        close_file(removal.fd)
