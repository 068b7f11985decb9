"""Jobs of a store; `_store.pyi` says what they promise, `_segment.pxd` has the format."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from k8strace._segment cimport (
    BLOCK, EXTENT, HEAD_MAGIC, LARGEST, RECORD_MAGIC, SECOND_HEAD, VERSION, WINDOW, Extent,
    Head, Record, done_mark, extent_of, head_crc, size_of,
)
from k8strace._segment cimport crc32c as update
from k8strace._segment_reader cimport (
    CORRUPT_BODY, MOST_FOUND, NO_RECORD, WHOLE, Entry, Reading, scan,
)
from k8strace._segment_writer cimport (
    Appending, Copying, Locating, Mark, Marking, Removal, append, end_segment, iovec,
    locate, set_aside, settle,
)
from k8strace._threads cimport Port

FIRST_RECORD, FORMAT, LARGEST_BODY = <int>BLOCK, <int>VERSION, <int>LARGEST
RECORD, CORRUPT, LOST = <int>WHOLE, <int>CORRUPT_BODY, <int>NO_RECORD


def crc32c(data not None, uint32_t crc=0):
    cdef const unsigned char[::1] view = data
    return ~update(~crc, &view[0] if len(view) else NULL, len(view)) & 0xFFFFFFFF


def record_size(uint64_t meta, uint64_t length):
    return size_of(meta, length)


@cython.final
cdef class Append:
    """Rows of `parts` are (meta, chunks, spans); the first ids and offsets are given."""

    cdef Appending work
    cdef object rows, names

    def __cinit__(self, *args, **kwargs):
        self.work.fd = self.work.former = -1

    def __init__(
        self, list rows not None, uint64_t first_id, uint64_t time, uint32_t salt,
        int fd, int64_t offset, int folder, bytes path not None, bytes name not None,
    ):
        cdef Appending *w = &self.work
        cdef Record *record
        cdef int vectors = 0
        if w.records != NULL:
            raise ValueError("used already")
        self.rows = rows
        self.names = (path, name, name + b".new")
        w.folder = folder
        w.path = self.names[0]
        w.name = self.names[1]
        w.count = len(rows)
        for _, chunks, _ in rows:
            vectors += 3 + len(<tuple?>chunks)
        w.records = <Record *>calloc(w.count, sizeof(Record))
        w.tails = <uint8_t *>calloc(w.count, 16)
        w.vectors = <iovec *>calloc(vectors, sizeof(iovec))
        if w.records == NULL or w.tails == NULL or w.vectors == NULL:
            raise MemoryError
        w.fd = fd
        w.offset = offset
        w.head.salt = salt
        record = w.records
        for number, (meta, chunks, spans) in enumerate(rows):
            record.magic = RECORD_MAGIC
            record.id = first_id + <uint64_t>number
            record.time = time
            record.spans = spans
            record.meta = <uint32_t>len(<bytes?>meta)
            self.add(record, sizeof(Record))
            self.add(<const char *><bytes>meta, record.meta)
            for chunk in <tuple>chunks:
                record.length += len(<bytes?>chunk)
                self.add(<const char *><bytes>chunk, len(<bytes>chunk))
            if record.length > LARGEST:
                raise ValueError(f"a record of {record.length} bytes is too large")
            self.add(
                w.tails + 16 * <int>number,
                size_of(record.meta, record.length)
                - <int64_t>(sizeof(Record) + record.meta + record.length),
            )
            record += 1

    cdef void add(self, const void *data, size_t size) noexcept:
        self.work.vectors[self.work.vector_count].iov_base = <void *>data
        self.work.vectors[self.work.vector_count].iov_len = size
        self.work.vector_count += 1

    def begin(
        self, uint64_t number, int64_t capacity, int former, uint32_t former_salt,
        int64_t former_size,
    ):
        cdef Appending *w = &self.work
        w.new_name = self.names[2]
        w.capacity = capacity
        w.former = former
        w.former_salt = former_salt
        w.former_size = former_size
        w.head.magic = HEAD_MAGIC
        w.head.version = VERSION
        w.head.number = number
        w.head.crc = head_crc(&w.head)

    def submit(self, Port port not None, token):
        self.work.job.work = append
        port.submit(&self.work.job, self, token)

    @property
    def fd(self):
        return self.work.fd

    @property
    def places(self):
        cdef int64_t offset = self.work.offset
        cdef Record *record
        found = []
        for i in range(self.work.count):
            record = &self.work.records[i]
            found.append((offset, done_mark(record)))
            offset += size_of(record.meta, record.length)
        return found

    @property
    def error(self):
        return self.work.error

    @property
    def seconds(self):
        return self.work.seconds

    def __dealloc__(self):
        free(self.work.records)
        free(self.work.tails)
        free(self.work.vectors)


@cython.final
cdef class Settle:
    cdef Marking work
    cdef object names

    def __init__(self, list marks not None, closing not None):
        cdef Marking *w = &self.work
        cdef bytes name
        if w.marks != NULL:
            raise ValueError("used already")
        w.marks = <Mark *>calloc(len(marks) + 1, sizeof(Mark))
        w.removals = <Removal *>calloc(len(closing) + 1, sizeof(Removal))
        if w.marks == NULL or w.removals == NULL:
            raise MemoryError
        for fd, offset, mark in marks:
            w.marks[w.mark_count].fd = fd
            w.marks[w.mark_count].offset = offset
            w.marks[w.mark_count].mark = mark
            w.mark_count += 1
        self.names = [name for _, _, name, _, _ in closing]
        for fd, folder, name, salt, end in closing:
            w.removals[w.removal_count].fd = fd
            w.removals[w.removal_count].folder = folder
            if name is not None:
                w.removals[w.removal_count].name = name
            w.removals[w.removal_count].salt = salt
            w.removals[w.removal_count].end = end
            w.removal_count += 1

    def submit(self, Port port not None, token):
        self.work.job.work = settle
        port.submit(&self.work.job, self, token)

    @property
    def error(self):
        return self.work.error

    def __dealloc__(self):
        free(self.work.marks)
        free(self.work.removals)


@cython.final
cdef class Locate:
    cdef Locating work
    cdef bytes path

    def __init__(self, int folder, bytes path not None):
        self.path = path
        self.work.folder = folder
        self.work.path = self.path

    def submit(self, Port port not None, token):
        self.work.job.work = locate
        port.submit(&self.work.job, self, token)

    @property
    def error(self):
        return self.work.error


@cython.final
cdef class SetAside:
    cdef Copying work
    cdef bytes name

    def __init__(
        self, int fd, int64_t offset, int64_t size, int folder, bytes name not None,
        bint wipes,
    ):
        cdef Copying *w = &self.work
        self.name = name
        w.fd = fd
        w.offset = offset
        w.size = size
        w.folder = folder
        w.name = self.name
        w.wipes = wipes

    def submit(self, Port port not None, token):
        self.work.job.work = set_aside
        port.submit(&self.work.job, self, token)

    @property
    def error(self):
        return self.work.error


@cython.final
cdef class Scan:
    """Counts, or reads, what stands in a segment from `offset` to `end`."""

    cdef Reading work

    def __init__(
        self, int fd, int64_t end, uint32_t salt, int64_t offset=BLOCK,
        uint64_t last_id=0, size_t most=0,
    ):
        cdef Reading *w = &self.work
        if w.window.buffer != NULL:
            raise ValueError("used already")
        w.window.fd = fd
        w.window.size = end
        w.window.is_finished = most > 0
        w.window.buffer = <uint8_t *>malloc(WINDOW)
        w.salt = salt
        w.offset = offset
        w.last_id = last_id
        w.most = most
        w.counts = not most
        w.torn_at = -1
        if most:
            w.entries = <Entry *>calloc(MOST_FOUND, sizeof(Entry))
        if w.window.buffer == NULL or (most and w.entries == NULL):
            raise MemoryError

    def run(self):
        with nogil:
            scan(&self.work.job)

    def submit(self, Port port not None, token):
        self.work.job.work = scan
        port.submit(&self.work.job, self, token)

    @property
    def totals(self):
        w = &self.work
        return w.records, w.spans, w.size

    @property
    def torn_at(self):
        return None if self.work.torn_at < 0 else self.work.torn_at

    @property
    def offset(self):
        return self.work.offset

    @property
    def last_id(self):
        return self.work.last_id

    @property
    def error(self):
        return self.work.error

    def found(self):
        cdef Entry *entry
        cdef Record *record
        cdef const char *start
        rows = []
        for i in range(self.work.count):
            entry = &self.work.entries[i]
            record = &entry.found.record
            where = (<int>entry.what, entry.found.offset, entry.found.total)
            if entry.what == NO_RECORD:
                rows.append((*where, 0, 0, 0, 0, b"", b""))
                continue
            facts = (done_mark(record), record.time, record.spans, record.length)
            meta = body = b""
            if entry.what == WHOLE:
                start = <const char *>self.work.bytes + entry.place + sizeof(Record)
                meta = start[: record.meta]
                body = start[record.meta : record.meta + record.length]
            rows.append((*where, *facts, meta, body))
        return rows

    def __dealloc__(self):
        free(self.work.window.buffer)
        free(self.work.entries)
        free(self.work.bytes)


def read_head(bytes block not None):
    cdef Head head
    cdef const char *data = block
    if len(block) < BLOCK:
        return None
    for place in (0, <int>SECOND_HEAD):
        memcpy(&head, data + <int>place, sizeof(Head))
        if head.magic == HEAD_MAGIC and head_crc(&head) == head.crc:
            return head.number, head.salt, head.version
    return None


def read_extent(bytes block not None, uint32_t salt):
    cdef Extent extent, right
    if len(block) < BLOCK:
        return None
    memcpy(&extent, <const char *>block + <int>EXTENT, sizeof(Extent))
    right = extent_of(salt, extent.size)
    return extent.size if extent.size >= BLOCK and extent.crc == right.crc else None


def end_at(int fd, uint32_t salt, int64_t size):
    cdef int error
    with nogil:
        error = end_segment(fd, salt, size)
    return error
