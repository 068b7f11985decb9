"""Compression in steps, by each format's library; `_codec.pyi` says what it promises.

Below Python there is one struct, a `Stream`, and functions that take it a step further:
until it is done, or has used up its room (then `wanted` is above `room`), or failed. They
need no GIL. Output is written in place into one `bytes` that grows between the steps.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize,
)
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

cimport k8strace._isal as isal
cimport k8strace._liblz4 as lz4
cimport k8strace._libzstd as zstd
from k8strace._encodings cimport (
    AS_DEFLATE, AS_GZIP, AS_IDENTITY, AS_LZ4, AS_SNAPPY, AS_SNAPPY_FRAMED, AS_ZLIB, AS_ZSTD,
)
from k8strace._gzip cimport (
    SMALL, Deflater, deflate_gzip, deflate_small, inflate_deflate, inflate_gzip,
    inflate_zlib, likely_size,
)
from k8strace._lz4 cimport inflate_lz4
from k8strace._snappy cimport (
    CHUNK, deflate_snappy, inflate_snappy, inflate_snappy_framed, snappy_bound,
)
from k8strace._stream cimport AT_ONCE, DECODER, FEW, MOST_MEMBERS, Piece, Stream, grown
from k8strace._threads cimport Job, Port
from k8strace._zstd cimport WINDOW_LOG, ZSTD_LEVEL, deflate_zstd, inflate_zstd

from k8strace.errors import K8sTraceError

cdef enum:
    LARGEST = 0x7FFFFFFF  # what a gRPC message can be
    KEPT = 4  # contexts of a kind
    KEPT_SIZE = 2 * 1024 * 1024  # bytes; larger ones are not kept

IDENTITY, GZIP, ZSTD = <int>AS_IDENTITY, <int>AS_GZIP, <int>AS_ZSTD
ZLIB, DEFLATE = <int>AS_ZLIB, <int>AS_DEFLATE
SNAPPY, SNAPPY_FRAMED, LZ4 = <int>AS_SNAPPY, <int>AS_SNAPPY_FRAMED, <int>AS_LZ4
INLINE = <int>AT_ONCE
MAX_MEMBERS = <int>MOST_MEMBERS
MAX_WINDOW = 1 << <int>WINDOW_LOG

_NAMES = {
    AS_GZIP: "gzip",
    AS_ZSTD: "zstd",
    AS_ZLIB: "zlib",
    AS_DEFLATE: "deflate",
    AS_SNAPPY: "snappy",
    AS_SNAPPY_FRAMED: "snappy",
    AS_LZ4: "lz4",
}

cdef enum Kind:  # of context
    INFLATE
    GZIP_OUT
    ZSTD_IN
    ZSTD_OUT
    SNAPPY_OUT
    LZ4_IN
    KINDS
    NO_CONTEXT

cdef struct Shelf:
    void *contexts[KEPT]
    int count

cdef Shelf[KINDS] shelves


class CodecError(K8sTraceError, ValueError):
    pass


class LimitError(CodecError):
    pass


cdef class Codec:
    cdef Stream stream
    cdef int encoding
    cdef Kind kind
    cdef object data  # what holds the pieces
    cdef PyObject *out  # bytes that nobody else has yet
    cdef size_t held  # of them

    def __dealloc__(self):
        Py_XDECREF(self.out)
        if self.stream.pieces != self.stream.few:
            free(self.stream.pieces)
        if self.stream.context != NULL:
            put_context(self.kind, self.stream.context)

    @property
    def need(self):
        cdef size_t need = self.stream.wanted + self.stream.window
        return need + DECODER if self.takes_long() else need

    @property
    def size(self):
        return self.stream.size

    @property
    def is_done(self):
        return self.stream.is_done

    @property
    def is_large(self):
        return self.takes_long()

    def run(self):
        self.prepare()
        self.stream.step(&self.stream)
        self.settle()

    def submit(self, Port port not None, token):
        self.prepare()
        self.stream.job.work = run_job
        port.submit(&self.stream.job, self, token)

    def settle(self):
        cdef Stream *s = &self.stream
        if s.has_no_memory:
            raise MemoryError
        if s.is_over:
            raise LimitError(f"larger than {s.limit} bytes when decompressed")
        if s.problem != NULL:
            text = (<bytes>s.problem).decode()
            raise CodecError(f"{_NAMES[self.encoding]}: {text}")

    def take(self):
        if not self.stream.is_done or (self.out == NULL and self.stream.size):
            raise ValueError("the output is not here")
        if self.out == NULL:
            return b""  # all frames were to be skipped, which takes no room
        if self.stream.size < self.held:
            _PyBytes_Resize(&self.out, <Py_ssize_t>self.stream.size)
        result = <bytes>self.out
        Py_XDECREF(self.out)
        self.out = NULL
        return result

    cdef bint takes_long(self) noexcept:
        cdef Stream *s = &self.stream
        return s.wanted > AT_ONCE or s.count > 0 and s.pieces[0].size > AT_ONCE

    cdef int prepare(self) except -1:
        """Have a context, and as much room as is wanted."""
        cdef Stream *s = &self.stream
        if s.step == NULL or s.is_done:
            raise ValueError("there is nothing to do")
        if s.context == NULL and self.kind != NO_CONTEXT:
            s.context = take_context(self.kind)
        if self.out == NULL:
            made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>s.wanted)
            self.out = <PyObject *>made
            self.held = s.wanted
            Py_INCREF(made)
        elif s.wanted > self.held:
            # A large one once for all: what is not written to takes no memory, while what
            # grows step by step leaves its former places, in pieces, to the heap.
            self.held = s.limit + 1 if s.wanted > AT_ONCE else s.wanted
            _PyBytes_Resize(&self.out, <Py_ssize_t>self.held)
        s.out = <uint8_t *>PyBytes_AS_STRING(<bytes>self.out)
        s.room = s.wanted
        s.granted = s.window
        return 0


@cython.final
cdef class Inflation(Codec):
    def __cinit__(self, int encoding, bytes data not None, size_t limit):
        cdef Stream *s = &self.stream
        s.pieces = s.few
        s.pieces[0].data = <const uint8_t *>PyBytes_AS_STRING(data)
        s.pieces[0].size = <size_t>PyBytes_GET_SIZE(data)
        s.count = 1
        s.limit = min(limit, <size_t>LARGEST)
        self.data = data
        self.encoding = encoding
        self.kind = INFLATE
        s.wanted = grown(s)
        if encoding == AS_GZIP:
            s.step = inflate_gzip
            s.wanted = likely_size(s)
        elif encoding == AS_ZLIB:
            s.step = inflate_zlib
        elif encoding == AS_DEFLATE:
            s.step = inflate_deflate
        elif encoding == AS_ZSTD:
            self.kind = ZSTD_IN
            s.step = inflate_zstd
            self.look_ahead()
        elif encoding == AS_LZ4:
            self.kind = LZ4_IN
            s.step = inflate_lz4
            self.look_ahead()
        elif encoding == AS_SNAPPY:
            self.kind = NO_CONTEXT
            s.step = inflate_snappy
            self.look_ahead()
        elif encoding == AS_SNAPPY_FRAMED:
            self.kind = NO_CONTEXT
            s.step = inflate_snappy_framed
            self.look_ahead()
        else:
            raise ValueError(f"no encoding: {encoding}")

    cdef int look_ahead(self) except -1:
        """Find out what is needed, which stands in the first header."""
        self.stream.wanted = 0
        if self.stream.pieces[0].size <= AT_ONCE:
            self.stream.step(&self.stream)
            self.settle()
        return 0


@cython.final
cdef class Deflation(Codec):
    def __cinit__(self, int encoding, tuple chunks not None):
        cdef Stream *s = &self.stream
        cdef size_t total = 0
        cdef bytes chunk
        s.pieces = s.few
        if len(chunks) > FEW:
            s.pieces = <Piece *>malloc(len(chunks) * sizeof(Piece))
            if s.pieces == NULL:
                raise MemoryError
        for chunk in chunks:
            if chunk is None:
                raise TypeError("chunks are bytes, not None")
            s.pieces[s.count].data = <const uint8_t *>PyBytes_AS_STRING(chunk)
            s.pieces[s.count].size = <size_t>PyBytes_GET_SIZE(chunk)
            total += s.pieces[s.count].size
            s.count += 1
        if total > LARGEST:
            raise ValueError(f"a message of {total} bytes")
        s.limit = total
        self.data = chunks
        self.encoding = encoding
        s.wanted = zstd.ZSTD_compressBound(total)
        if encoding == AS_GZIP:
            self.kind = GZIP_OUT
            s.step = deflate_small if total <= SMALL else deflate_gzip
        elif encoding == AS_ZSTD:
            self.kind = ZSTD_OUT
            s.step = deflate_zstd
        elif encoding == AS_SNAPPY:
            self.kind = SNAPPY_OUT
            s.step = deflate_snappy
            s.wanted = snappy_bound(total)
        else:
            raise ValueError(f"no encoding: {encoding}")

    cdef bint takes_long(self) noexcept:
        return self.stream.limit > AT_ONCE


cdef void run_job(Job *job) noexcept nogil:
    cdef Stream *s = <Stream *>job
    s.step(s)


cdef void *take_context(Kind kind) except NULL:
    """One that is not in use; what it was used for last doesn't matter."""
    cdef Shelf *shelf = &shelves[<int>kind]
    cdef void *made
    if shelf.count:
        shelf.count -= 1
        return shelf.contexts[shelf.count]
    if kind == INFLATE:
        made = malloc(sizeof(isal.inflate_state))
        if made != NULL:
            isal.isal_inflate_init(<isal.inflate_state *>made)
    elif kind == GZIP_OUT:
        made = malloc(sizeof(Deflater))
    elif kind == SNAPPY_OUT:
        made = malloc(CHUNK)
    elif kind == LZ4_IN:
        made = NULL
        lz4.LZ4F_createDecompressionContext(<lz4.LZ4F_dctx **>&made, lz4.LZ4F_VERSION)
    elif kind == ZSTD_IN:
        made = zstd.ZSTD_createDCtx()
        if made != NULL:
            zstd.ZSTD_DCtx_setParameter(
                <zstd.ZSTD_DCtx *>made, zstd.ZSTD_d_windowLogMax, WINDOW_LOG
            )
    else:
        made = zstd.ZSTD_createCCtx()
        if made != NULL:
            zstd.ZSTD_CCtx_setParameter(
                <zstd.ZSTD_CCtx *>made, zstd.ZSTD_c_compressionLevel, ZSTD_LEVEL
            )
            # Without it a flipped bit could give other spans; gzip has one, too.
            zstd.ZSTD_CCtx_setParameter(
                <zstd.ZSTD_CCtx *>made, zstd.ZSTD_c_checksumFlag, 1
            )
    if made == NULL:
        raise MemoryError
    return made


cdef void put_context(Kind kind, void *context) noexcept:
    cdef Shelf *shelf = &shelves[<int>kind]
    cdef size_t size = 0
    if kind == LZ4_IN:
        # It has blocks of up to 4 MiB, and does not tell.
        lz4.LZ4F_freeDecompressionContext(<lz4.LZ4F_dctx *>context)
        return
    if kind == ZSTD_IN:
        zstd.ZSTD_DCtx_reset(<zstd.ZSTD_DCtx *>context, zstd.ZSTD_reset_session_only)
        size = zstd.ZSTD_sizeof_DCtx(<zstd.ZSTD_DCtx *>context)
    elif kind == ZSTD_OUT:
        size = zstd.ZSTD_sizeof_CCtx(<zstd.ZSTD_CCtx *>context)
    if shelf.count < KEPT and size <= KEPT_SIZE:
        shelf.contexts[shelf.count] = context
        shelf.count += 1
    elif kind == ZSTD_IN:
        zstd.ZSTD_freeDCtx(<zstd.ZSTD_DCtx *>context)
    elif kind == ZSTD_OUT:
        zstd.ZSTD_freeCCtx(<zstd.ZSTD_CCtx *>context)
    else:
        free(context)
