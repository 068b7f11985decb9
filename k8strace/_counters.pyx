"""Counters in blocks of memory that another process may read; see `_counters.pyi`.

A block is a header and entries, one behind the other; nothing in it ever moves. An entry is
written whole behind the last one and then made visible by one store, `used`; from then on
only its slots change, each by a store of eight aligned bytes. So a process can be killed at
any instruction, and who reads at the same time sees whole numbers.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport NAN, isnan
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import json

cdef extern from *:
    """
    static inline uint64_t load_acquire(const uint64_t *from) {
        return __atomic_load_n(from, __ATOMIC_ACQUIRE);
    }
    static inline void store_release(uint64_t *to, uint64_t value) {
        __atomic_store_n(to, value, __ATOMIC_RELEASE);
    }
    """
    uint64_t load_acquire(const uint64_t *) noexcept nogil
    void store_release(uint64_t *, uint64_t) noexcept nogil

COUNTER, GAUGE, READING, HISTOGRAM, LEDGER, DROPPED = range(1, 7)

cdef enum:
    C_COUNTER = 1
    C_GAUGE = 2
    C_READING = 3
    C_HISTOGRAM = 4
    C_LEDGER = 5
    C_DROPPED = 6
    MAGIC_SIZE = 8

cdef bytes MAGIC = b"k8strc\x00\x01"  # the last byte is the layout's version


cdef struct Header:
    char magic[MAGIC_SIZE]
    uint64_t used  # bytes of the block, this header with them
    uint64_t refused  # entries that found no room
    uint64_t spare[5]


cdef struct Entry:
    uint32_t size  # bytes, with slots and key, a multiple of eight
    uint16_t kind
    uint16_t slots
    uint32_t key_size
    uint32_t spare


@cython.final
cdef class Value:
    def __cinit__(self):
        self.count = &self.own

    @property
    def value(self):
        return self.count[0]

    cpdef add(self, int64_t amount):
        self.count[0] += amount


@cython.final
cdef class Gauge:
    cdef double *slot
    cdef double own
    cdef object block

    def __cinit__(self):
        self.own = NAN
        self.slot = &self.own

    @property
    def value(self):
        return None if isnan(self.slot[0]) else self.slot[0]

    def set(self, double value):
        self.slot[0] = value

    def clear(self):
        self.slot[0] = NAN


@cython.final
cdef class Histogram:
    cdef int64_t *counts  # one more than there are bounds; the sum is behind them
    cdef double *bounds
    cdef int number
    cdef void *own
    cdef object block

    def __cinit__(self, tuple bounds not None):
        cdef int i
        self.number = len(bounds)
        self.own = PyMem_Calloc(2 * self.number + 2, sizeof(double))
        if self.own == NULL:
            raise MemoryError
        self.bounds = <double *>self.own
        self.counts = <int64_t *>self.bounds + self.number
        for i in range(self.number):
            self.bounds[i] = bounds[i]

    def __dealloc__(self):
        PyMem_Free(self.own)

    @property
    def values(self):
        counts = [self.counts[i] for i in range(self.number + 1)]
        return (*counts, (<double *>self.counts)[self.number + 1])

    cpdef observe(self, double value):
        cdef int low = 0
        cdef int high = self.number
        cdef int middle
        while low < high:
            middle = (low + high) // 2
            if self.bounds[middle] < value:
                low = middle + 1
            else:
                high = middle
        self.counts[low] += 1
        (<double *>self.counts)[self.number + 1] += value


@cython.final
cdef class Ledger:
    def __cinit__(self):
        self.spans = &self.own
        self.reasons = {}

    @property
    def received(self):
        return self.spans.received

    @received.setter
    def received(self, int64_t spans):
        self.spans.received = spans

    @property
    def recovered(self):
        return self.spans.recovered

    @recovered.setter
    def recovered(self, int64_t spans):
        self.spans.recovered = spans

    @property
    def sent(self):
        return self.spans.sent

    @sent.setter
    def sent(self, int64_t spans):
        self.spans.sent = spans

    @property
    def filtered(self):
        return self.spans.filtered

    @filtered.setter
    def filtered(self, int64_t spans):
        self.spans.filtered = spans

    @property
    def sampled_out(self):
        return self.spans.sampled_out

    @sampled_out.setter
    def sampled_out(self, int64_t spans):
        self.spans.sampled_out = spans

    @property
    def rejected(self):
        return self.spans.rejected

    @rejected.setter
    def rejected(self, int64_t spans):
        self.spans.rejected = spans

    @property
    def refused(self):
        return self.spans.refused

    @refused.setter
    def refused(self, int64_t spans):
        self.spans.refused = spans

    @property
    def stored(self):
        return self.spans.stored

    @stored.setter
    def stored(self, int64_t spans):
        self.spans.stored = spans

    @property
    def parked(self):
        return self.spans.parked

    @parked.setter
    def parked(self, int64_t spans):
        self.spans.parked = spans

    @property
    def holds_answers(self):
        return self.spans.holds_answers != 0

    @holds_answers.setter
    def holds_answers(self, bint holds):
        self.spans.holds_answers = holds

    @property
    def parks_on_disk(self):
        return self.spans.parks_on_disk != 0

    @parks_on_disk.setter
    def parks_on_disk(self, bint parks):
        self.spans.parks_on_disk = parks

    @property
    def dropped(self):
        return {reason: (<Value>one).count[0] for reason, one in self.reasons.items()}

    cpdef receive(self, int64_t spans):
        self.spans.received += spans

    cpdef send(self, int64_t spans):
        self.spans.sent += spans

    cpdef park(self, int64_t spans):
        self.spans.parked += spans

    cpdef drop(self, int64_t spans, str reason):
        count = self.reasons.get(reason)
        if count is None:
            count = Value()
            if self.block is not None:
                (<Block>self.block).place_value(count, C_DROPPED, (*self.key, reason))
            self.reasons[reason] = count
        (<Value>count).count[0] += spans

    @property
    def in_flight(self):
        cdef Spans *spans = self.spans
        cdef int64_t settled = spans.sent + spans.filtered + spans.sampled_out
        settled += spans.rejected + spans.refused + spans.stored + spans.parked
        for count in self.reasons.values():
            settled += (<Value>count).count[0]
        return spans.received + spans.recovered - settled


@cython.final
cdef class Block:
    cdef Py_buffer view
    cdef char *base
    cdef uint64_t capacity
    cdef uint64_t seen  # bytes whose entries are in `places`
    cdef dict places  # (kind, slots, key) -> where its slots begin

    def __cinit__(self, memory not None):
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.base = <char *>self.view.buf
        self.capacity = self.view.len
        self.places = {}
        self.seen = sizeof(Header)
        if self.capacity < sizeof(Header) or <size_t>self.base % 8:
            raise ValueError(f"no memory for counters: {self.view.len} bytes")
        if load_acquire(&self.header().used) == 0:
            memcpy(self.header().magic, <const char *>MAGIC, MAGIC_SIZE)
            store_release(&self.header().used, sizeof(Header))
        if memcmp(self.header().magic, <const char *>MAGIC, MAGIC_SIZE):
            raise ValueError("the memory holds no counters, or those of another version")

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    cdef inline Header *header(self) noexcept:
        return <Header *>self.base

    @property
    def used(self):
        return self.header().used

    @property
    def refused(self):
        return self.header().refused

    def counter(self, *key):
        cdef Value count = Value()
        self.place_value(count, C_COUNTER, key)
        return count

    def gauge(self, *key):
        return self.place_gauge(C_GAUGE, key)

    def reading(self, *key):
        return self.place_gauge(C_READING, key)

    def histogram(self, tuple bounds not None, *key):
        cdef Histogram result = Histogram(bounds)
        cdef char *place = self.find(C_HISTOGRAM, result.number + 2, key)
        if place != NULL:
            result.counts = <int64_t *>place
            result.block = self
        return result

    def ledger(self, *key):
        cdef Ledger result = Ledger()
        cdef char *place = self.find(C_LEDGER, sizeof(Spans) // 8, key)
        result.block = self
        result.key = key
        if place != NULL:
            result.spans = <Spans *>place
        for kind, _, known in tuple(self.places):
            if kind == C_DROPPED and known[: len(key)] == key:
                result.drop(0, known[len(key)])
        return result

    def entries(self):
        cdef uint64_t place
        cdef int i
        self.read_on()
        found = []
        for (kind, slots, key), place in self.places.items():
            counts = <int64_t *>(self.base + place)
            doubles = <double *>counts
            if kind in (C_GAUGE, C_READING):
                values = () if isnan(doubles[0]) else (doubles[0],)
            else:
                number = slots - (kind == C_HISTOGRAM)
                values = tuple([counts[i] for i in range(number)])
                if kind == C_HISTOGRAM:
                    values = (*values, doubles[number])
            found.append((kind, key, values))
        return found

    cdef int place_value(self, Value count, int kind, tuple key) except -1:
        cdef char *place = self.find(kind, 1, key)
        if place != NULL:
            count.count = <int64_t *>place
            count.block = self
        return 0

    cdef Gauge place_gauge(self, int kind, tuple key):
        cdef Gauge result = Gauge()
        cdef char *place = self.find(kind, 1, key)
        if place != NULL:
            result.slot = <double *>place
            result.block = self
        return result

    cdef char *find(self, int kind, int slots, tuple key) except? NULL:
        """The slots of an entry, made where there is none; NULL: there is no room."""
        cdef uint64_t start, size
        cdef Entry *entry
        cdef bytes text
        cdef bint fits
        self.read_on()
        found = self.places.get((kind, slots, key))
        if found is None:
            text = json.dumps(key).encode()
            start = self.header().used
            size = (sizeof(Entry) + 8 * slots + len(text) + 7) // 8 * 8
            fits = start <= self.capacity and size <= self.capacity - start
            if not fits or start < self.seen or start % 8:
                self.header().refused += 1
                return NULL
            memset(self.base + start, 0, size)
            entry = <Entry *>(self.base + start)
            entry.size = <uint32_t>size
            entry.kind = kind
            entry.slots = slots
            entry.key_size = <uint32_t>len(text)
            memcpy(self.base + start + size_of(slots), <const char *>text, len(text))
            if kind == C_GAUGE:
                (<double *>(self.base + start + sizeof(Entry)))[0] = NAN
            store_release(&self.header().used, start + size)
            self.read_on()
            found = self.places.get((kind, slots, key), start + sizeof(Entry))
        return self.base + <uint64_t>found

    cdef int read_on(self) except -1:
        """Note what entries have come since the last time, up to one that is damaged."""
        cdef uint64_t used = min(load_acquire(&self.header().used), self.capacity)
        cdef Entry *entry
        while self.seen + sizeof(Entry) <= used:
            entry = <Entry *>(self.base + self.seen)
            if (
                entry.size % 8
                or entry.size > used - self.seen
                or size_of(entry.slots) + entry.key_size > entry.size
            ):
                break
            text = (self.base + self.seen + size_of(entry.slots))[: entry.key_size]
            try:
                key = tuple(map(str, json.loads(text)))
            except (TypeError, ValueError):
                break
            self.places[entry.kind, entry.slots, key] = self.seen + sizeof(Entry)
            self.seen += entry.size
        return 0


cdef inline uint64_t size_of(uint64_t slots) noexcept:
    """Bytes of an entry before its key."""
    return sizeof(Entry) + 8 * slots
