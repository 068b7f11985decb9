"""What a thread writes to the segments of a store, in C without Python.

A segment of which a write or a sync failed takes no more records: pages that could not be
written may count as clean from then on, so that a second sync would say nothing.
"""

from libc.errno cimport EINTR, EIO, ENOENT, ESTALE, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from k8strace._segment cimport (
    BLOCK, EXTENT, SECOND_HEAD, TRAILER_MAGIC, WINDOW, Extent, Head, Record, Trailer,
    extent_of, header_crc, pread,
)
from k8strace._segment cimport crc32c as update
from k8strace._threads cimport Job

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t pwritev(int fd, const iovec *vectors, int count, int64_t offset)

cdef extern from "<fcntl.h>" nogil:
    int O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_CLOEXEC, O_NOFOLLOW
    int AT_SYMLINK_NOFOLLOW
    int openat(int folder, const char *name, int flags, unsigned int mode)
    int posix_fallocate(int fd, int64_t offset, int64_t size)

cdef extern from "<sys/stat.h>" nogil:
    cdef struct status "stat":
        uint64_t st_dev
        uint64_t st_ino
        int64_t st_size
    int stat_path "stat"(const char *path, status *into)
    int fstat(int fd, status *into)
    int fstatat(int folder, const char *name, status *into, int flags)
    int fchmod(int fd, unsigned int mode)

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
    const char *path  # of the folder
    const char *name
    const char *new_name  # of a segment that is begun; NULL: `fd` is one
    int former  # the segment before it, ended at `former_size`; -1: none
    uint32_t former_salt
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
    uint32_t salt
    int64_t end  # of a file that stays; -1: it is ended


cdef struct Marking:
    Job job
    Mark *marks
    int mark_count
    Removal *removals
    int removal_count
    int error


cdef struct Locating:
    Job job
    int folder
    const char *path
    int error


cdef struct Copying:
    Job job
    int fd
    int64_t offset
    int64_t size
    int folder
    const char *name
    bint wipes
    int error


cdef inline void append(Job *job) noexcept nogil:
    cdef Appending *w = <Appending *>job
    cdef timespec start, end
    cdef bint is_new = w.new_name != NULL
    cdef bint is_cut = not is_new and is_cut_short(w.fd, w.offset)
    clock_gettime(CLOCK_MONOTONIC, &start)
    seal_records(w)
    if is_new:
        w.error = begin_segment(w)
    elif is_cut:
        w.error = ESTALE
    if not w.error:
        w.error = write_all(w.fd, w.vectors, w.vector_count, w.offset)
    if not w.error and fdatasync(w.fd):
        w.error = errno
    if not w.error and is_new and fsync(w.folder):
        w.error = errno
    if not w.error:
        w.error = is_elsewhere(w.folder, w.path)
    if not w.error:
        w.error = is_another(w.fd, w.folder, w.name)
    if w.error and w.fd >= 0:
        if is_new:
            unlinkat(w.folder, w.name, 0)
            unlinkat(w.folder, w.new_name, 0)
            close_file(w.fd)
            w.fd = -1
        elif not is_cut:  # one that was cut short has to look so at the next start
            end_segment(w.fd, w.head.salt, w.offset)
    elif is_new and w.former >= 0:
        end_segment(w.former, w.former_salt, w.former_size)
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


cdef inline bint is_cut_short(int fd, int64_t offset) noexcept nogil:
    """Whether somebody has taken away what was written in front of `offset`."""
    cdef status ours
    return fstat(fd, &ours) == 0 and ours.st_size < offset


cdef inline int is_elsewhere(int folder, const char *path) noexcept nogil:
    """ESTALE where `path` is not `folder` any more, or the number of another error."""
    cdef status ours
    cdef status there
    if fstat(folder, &ours):
        return errno
    if stat_path(path, &there):
        return ESTALE if errno == ENOENT else errno
    if ours.st_dev != there.st_dev or ours.st_ino != there.st_ino:
        return ESTALE
    return 0


cdef inline int is_another(int fd, int folder, const char *name) noexcept nogil:
    """ESTALE where `name` is not the file `fd` any more, or the number of another error."""
    cdef status ours
    cdef status there
    if fstat(fd, &ours):
        return errno
    if fstatat(folder, name, &there, AT_SYMLINK_NOFOLLOW):
        return ESTALE if errno == ENOENT else errno
    if ours.st_dev != there.st_dev or ours.st_ino != there.st_ino:
        return ESTALE
    return 0


cdef inline void locate(Job *job) noexcept nogil:
    cdef Locating *w = <Locating *>job
    w.error = is_elsewhere(w.folder, w.path)


cdef inline int end_segment(int fd, uint32_t salt, int64_t size) noexcept nogil:
    """Cut the file to `size`; zero, or the number of an error.

    The extent is on the disk before: a file that is shorter without is damaged.
    """
    cdef Extent extent = extent_of(salt, size)
    cdef iovec vector
    cdef int error
    vector.iov_base = &extent
    vector.iov_len = sizeof(Extent)
    error = write_all(fd, &vector, 1, EXTENT)
    if error:
        return error
    if fdatasync(fd) or ftruncate(fd, size):
        return errno
    return 0


cdef inline int begin_segment(Appending *w) noexcept nogil:
    """Make the file, with its place on the disk; zero, or the number of an error.

    It has its name when its head is on the disk: one without a head is damaged.
    """
    cdef uint8_t block[BLOCK]
    cdef Extent extent = extent_of(w.head.salt, w.capacity)
    cdef iovec vector
    cdef int error
    w.fd = openat(w.folder, w.new_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    if w.fd < 0:
        return errno
    fchmod(w.fd, 0o600)  # whatever the umask is; some filesystems have no modes
    if flock(w.fd, LOCK_EX | LOCK_NB):
        return errno
    error = posix_fallocate(w.fd, 0, w.capacity)
    if error:
        return error
    memset(block, 0, BLOCK)
    memcpy(block, &w.head, sizeof(Head))
    memcpy(block + EXTENT, &extent, sizeof(Extent))
    memcpy(block + SECOND_HEAD, &w.head, sizeof(Head))
    vector.iov_base = block
    vector.iov_len = BLOCK
    error = write_all(w.fd, &vector, 1, 0)
    if error:
        return error
    if fdatasync(w.fd) or renameat(w.folder, w.new_name, w.folder, w.name):
        return errno
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
    cdef int folder = -1  # of which files were removed
    cdef int i
    for i in range(w.mark_count):
        mark = &w.marks[i]
        if pwrite(mark.fd, &mark.mark, sizeof(mark.mark), mark.offset + 4) < 0:
            w.error = errno
    for i in range(w.removal_count):
        removal = &w.removals[i]
        if removal.name != NULL:
            if folder >= 0 and folder != removal.folder and fsync(folder):
                w.error = errno
            folder = removal.folder
            # Before it is closed: a file that can be locked is one that nobody cares for.
            if unlinkat(removal.folder, removal.name, 0) and errno != ENOENT:
                w.error = errno
        elif removal.end >= 0:
            if end_segment(removal.fd, removal.salt, removal.end):
                w.error = errno
        elif fdatasync(removal.fd):
            w.error = errno
        close_file(removal.fd)
    if folder >= 0 and fsync(folder):
        w.error = errno


cdef inline void set_aside(Job *job) noexcept nogil:
    cdef Copying *w = <Copying *>job
    cdef int into = openat(
        w.folder, w.name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0o600
    )
    if into < 0:
        w.error = errno
        return
    fchmod(into, 0o600)
    w.error = copy(w.fd, w.offset, w.size, into)
    if not w.error and (fsync(into) or fsync(w.folder)):
        w.error = errno
    close_file(into)
    if w.error:
        unlinkat(w.folder, w.name, 0)
    elif w.wipes:
        w.error = wipe(w.fd, w.offset, w.size)


cdef inline int copy(int fd, int64_t offset, int64_t size, int into) noexcept nogil:
    """Zero, or the number of an error."""
    cdef uint8_t buffer[WINDOW]
    cdef iovec vector
    cdef int64_t done = 0
    cdef ssize_t got
    cdef int error
    while done < size:
        got = pread(fd, buffer, min(size - done, <int64_t>WINDOW), offset + done)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            return errno if got else EIO
        vector.iov_base = buffer
        vector.iov_len = got
        error = write_all(into, &vector, 1, done)
        if error:
            return error
        done += got
    return 0


cdef inline int wipe(int fd, int64_t offset, int64_t size) noexcept nogil:
    """Leave zeros; zero, or the number of an error."""
    cdef uint8_t buffer[WINDOW]
    cdef iovec vector
    cdef int64_t done = 0
    cdef int error
    memset(buffer, 0, WINDOW)
    while done < size:
        vector.iov_base = buffer
        vector.iov_len = min(size - done, <int64_t>WINDOW)
        done += vector.iov_len
        error = write_all(fd, &vector, 1, offset + done - <int64_t>vector.iov_len)
        if error:
            return error
    return 0
