"""What a thread reads of a segment of a store, in C without Python."""

from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc

from k8strace._segment cimport (
    DAMAGED, DONE, END, LIVE, TORN, UNREADABLE, Found, Record, Window, find, read_all,
)
from k8strace._segment cimport crc32c as update
from k8strace._threads cimport Job

cdef enum:
    MOST_FOUND = 512  # records that are read at once

cdef enum What:
    WHOLE = 0
    CORRUPT_BODY = 1
    NO_RECORD = 2

cdef struct Entry:
    Found found
    What what
    size_t place  # of its bytes


cdef struct Reading:
    Job job
    Window window
    uint32_t salt
    uint64_t last_id
    int64_t offset
    size_t most  # bytes to read
    bint counts  # instead of reading
    uint8_t *bytes
    size_t held
    size_t room
    Entry *entries
    int count
    int64_t records
    int64_t spans
    int64_t size
    int64_t torn_at  # -1: nowhere
    uint64_t oldest
    int error


cdef inline void scan(Job *job) noexcept nogil:
    cdef Reading *w = <Reading *>job
    cdef Found found
    while w.offset < w.window.size:
        find(&w.window, w.offset, w.salt, w.last_id, &found)
        if found.kind == UNREADABLE:
            w.error = w.window.error
            return
        if found.kind == END:
            w.offset = w.window.size
            return
        if found.kind == TORN:
            w.torn_at = found.offset
            w.offset = w.window.size
            return
        if found.kind != DONE:
            if w.counts:
                w.records += 1
                if found.kind == LIVE:
                    w.spans += found.record.spans
                    w.size += found.record.length
            elif w.count == MOST_FOUND or not take(w, &found):
                return
        if found.kind != DAMAGED:
            w.last_id = found.record.id
        w.offset = found.offset + found.total


cdef inline bint take(Reading *w, Found *found) noexcept nogil:
    """Read a record into `bytes`; False: it waits for the next time, or `error` is set."""
    cdef Entry *entry = &w.entries[w.count]
    cdef size_t total = found.total
    cdef size_t body
    cdef uint8_t *larger
    entry.found = found[0]
    entry.what = NO_RECORD
    entry.place = w.held
    if found.kind == LIVE:
        if w.count and w.held + total > w.most:
            return False
        if w.held + total > w.room:
            larger = <uint8_t *>realloc(w.bytes, max(w.held + total, w.most))
            if larger == NULL:
                w.error = ENOMEM
                return False
            w.bytes = larger
            w.room = max(w.held + total, w.most)
        w.error = read_all(w.window.fd, w.bytes + w.held, total, found.offset)
        if w.error:
            return False
        body = found.record.meta + found.record.length
        entry.what = CORRUPT_BODY
        if found.record.body_crc == ~update(
            w.salt, w.bytes + w.held + sizeof(Record), body
        ):
            entry.what = WHOLE
        w.held += total
    w.count += 1
    return True
