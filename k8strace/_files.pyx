"""Files as jobs of threads; `_files.pyi` says what it promises."""

cimport cython
from libc.errno cimport EFBIG, EINTR, EINVAL, EISDIR, ENOMEM, errno
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, realloc
from posix.fcntl cimport O_NONBLOCK, O_RDONLY, open as open_file
from posix.stat cimport S_ISDIR, S_ISREG, fstat, stat, struct_stat
from posix.unistd cimport close as close_file
from posix.unistd cimport fdatasync, ftruncate
from posix.unistd cimport read as read_file
from posix.unistd cimport write as write_file

from k8strace._threads cimport Job, Port

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC, O_NOCTTY

cdef enum:
    FIRST = 16 * 1024  # bytes

cdef struct Signature:
    int64_t device, inode, size, seconds, nanoseconds

cdef struct Reading:
    Job job  # the first, so that a job is its work
    const char *path
    size_t most
    Signature seen
    Signature signature
    char *bytes
    size_t count
    int error
    bint is_known  # there is something in `seen`
    bint is_same  # as what was seen: nothing was read


@cython.final
cdef class Read:
    cdef Reading work
    cdef bytes path

    def __init__(self, bytes path not None, size_t most, tuple seen=None):
        cdef Signature *known = &self.work.seen
        if self.path is not None:
            raise ValueError("used already")
        if 0 in path:
            raise ValueError("embedded null byte")
        self.path = path
        self.work.path = path
        self.work.most = most
        if seen is not None:
            (known.device, known.inode, known.size, known.seconds,
             known.nanoseconds) = seen
            self.work.is_known = True

    def run(self):
        with nogil:
            read_all(&self.work.job)

    def submit(self, Port port not None, token):
        self.work.job.work = read_all
        port.submit(&self.work.job, self, token)

    @property
    def error(self):
        return self.work.error

    @property
    def signature(self):
        s = &self.work.signature
        return s.device, s.inode, s.size, s.seconds, s.nanoseconds

    @property
    def content(self):
        if self.work.is_same or self.work.error:
            return None
        return <bytes>self.work.bytes[: self.work.count]

    def __dealloc__(self):
        free(self.work.bytes)


cdef struct Part:
    const char *data
    size_t size

cdef struct Appending:
    Job job  # the first, so that a job is its work
    Part *parts
    int count
    int file
    int64_t end  # where the file ends now
    int error
    bint is_torn  # some of it is there, and could not be taken back

cdef struct Syncing:
    Job job  # the first, so that a job is its work
    int file
    int error


@cython.final
cdef class Append:
    cdef Appending work
    cdef tuple parts

    def __init__(self, int file, tuple parts not None):
        cdef Part *part
        cdef bytes held  # by `parts`
        if self.parts is not None:
            raise ValueError("used already")
        self.parts = parts
        self.work.file = file
        self.work.parts = part = <Part *>calloc(len(parts) + 1, sizeof(Part))
        if part == NULL:
            raise MemoryError
        for data in parts:
            held = data
            part.data = held
            part.size = len(held)
            part += 1
            self.work.count += 1

    def submit(self, Port port not None, token):
        self.work.job.work = append_all
        port.submit(&self.work.job, self, token)

    @property
    def error(self):
        return self.work.error

    @property
    def end(self):
        return self.work.end

    @property
    def is_torn(self):
        return self.work.is_torn

    def __dealloc__(self):
        free(self.work.parts)


@cython.final
cdef class Sync:
    cdef Syncing work

    def __init__(self, int file):
        self.work.file = file

    def submit(self, Port port not None, token):
        self.work.job.work = sync
        port.submit(&self.work.job, self, token)

    @property
    def error(self):
        return self.work.error


cdef void append_all(Job *job) noexcept nogil:
    cdef Appending *work = <Appending *>job
    cdef struct_stat found
    cdef int i
    if fstat(work.file, &found):
        work.error = errno
        return
    work.end = found.st_size
    for i in range(work.count):
        work.error = write_all(work.file, &work.parts[i])
        if work.error:
            work.is_torn = ftruncate(work.file, found.st_size) != 0
            return
    for i in range(work.count):
        work.end += work.parts[i].size


cdef int write_all(int file, const Part *part) noexcept nogil:
    cdef size_t done = 0
    cdef ssize_t written
    while done < part.size:
        written = write_file(file, part.data + done, part.size - done)
        if written < 0 and errno != EINTR:
            return errno
        done += max(written, 0)
    return 0


cdef void sync(Job *job) noexcept nogil:
    cdef Syncing *work = <Syncing *>job
    if fdatasync(work.file):
        work.error = errno
    close_file(work.file)


cdef void sign(Signature *self, const struct_stat *found) noexcept nogil:
    self.device = found.st_dev
    self.inode = found.st_ino
    self.size = found.st_size
    self.seconds = found.st_mtim.tv_sec
    self.nanoseconds = found.st_mtim.tv_nsec


cdef bint are_same(const Signature *one, const Signature *other) noexcept nogil:
    return (
        one.device == other.device and one.inode == other.inode
        and one.size == other.size and one.seconds == other.seconds
        and one.nanoseconds == other.nanoseconds
    )


cdef void read_all(Job *job) noexcept nogil:
    cdef Reading *work = <Reading *>job
    cdef struct_stat found
    cdef int file
    if stat(work.path, &found):
        work.error = errno
        return
    sign(&work.signature, &found)
    if work.is_known and are_same(&work.signature, &work.seen):
        work.is_same = True
        return
    # Without O_NONBLOCK a named pipe is waited for that nobody writes to.
    file = open_file(work.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    if file < 0:
        work.error = errno
        return
    if fstat(file, &found):
        work.error = errno
    elif not S_ISREG(found.st_mode):
        work.error = EISDIR if S_ISDIR(found.st_mode) else EINVAL
    else:
        sign(&work.signature, &found)
        work.error = read_into(work, file)
    close_file(file)


cdef int read_into(Reading *work, int file) noexcept nogil:
    """Read the file whole; returns an error of the system."""
    cdef size_t size = FIRST
    cdef char *grown
    cdef ssize_t got
    while True:
        size = min(size, work.most + 1)
        grown = <char *>realloc(work.bytes, size)
        if grown == NULL:
            return ENOMEM
        work.bytes = grown
        while work.count < size:
            got = read_file(file, work.bytes + work.count, size - work.count)
            if got < 0 and errno != EINTR:
                return errno
            if not got:
                return 0
            work.count += max(got, 0)
        if work.count > work.most:
            return EFBIG
        size *= 4
