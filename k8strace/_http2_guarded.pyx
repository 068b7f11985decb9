"""Servers' sessions that ask who calls; `_http2_guarded.pyi` says what they promise."""

cimport cython
from libc.stdint cimport uint8_t

from k8strace._frames cimport (
    HEADER_OVERHEAD, UNAUTHENTICATED, Buffer, equals, release,
)
from k8strace._http2_server cimport ASKED, OPENING, PREFIX, Request, ServerSession

ASKS = 4  # behind the events that _http2_server has


@cython.final
cdef class GuardedSession(ServerSession):
    cdef bytes header
    cdef object judge

    def __init__(
        self, paths, admit, double now, *, bytes header not None, judge, **options
    ):
        ServerSession.__init__(self, paths, admit, now, **options)
        self.header = header
        self.judge = judge

    def allowed(self, Request request not None, double now):
        cdef Buffer early
        if request.stage != ASKED:
            return []
        request.stage = PREFIX
        request.credential = None
        early = request.held
        request.held = Buffer(NULL, 0, 0)
        self.give_held(early.capacity)  # what waits on takes the same again
        try:
            if early.size:  # where there is none it is nowhere
                self.take_data(<void *>request, early.data, early.size)
        finally:
            release(&early)
        request.since = now  # what was held came in no time
        if request.has_ended:
            self.end(request)
        return self.take_events()

    def close(self):
        self.judge = None
        return ServerSession.close(self)

    cdef int take_header(
        self, void *owner, const uint8_t *name, size_t name_size,
        const uint8_t *value, size_t size,
    ) except -1:
        cdef Request request
        if owner != NULL and equals(name, name_size, self.header):
            request = <Request>owner
            request.head.size += name_size + size + HEADER_OVERHEAD
            if (
                request.stage == OPENING
                and request.head.size <= self.max_headers
                and request.credential is None
            ):
                if self.keep_bytes(request, size):
                    request.credential = value[:size]
                else:
                    request.has_too_much = True
            return 0
        return ServerSession.take_header(self, owner, name, name_size, value, size)

    cdef int opened(self, Request request) except -1:
        ServerSession.opened(self, request)
        if request.stage != PREFIX:
            return 0
        verdict = self.judge(request)
        if verdict is None:
            request.stage = ASKED
            self.events.append((ASKS, request))
            return 0
        request.credential = None
        if verdict is True:
            return 0
        return self.reject(request, "unauthenticated", UNAUTHENTICATED, verdict)

    cdef int take_data(self, void *owner, const uint8_t *data, Py_ssize_t size) except -1:
        if owner == NULL or (<Request>owner).stage != ASKED:
            return ServerSession.take_data(self, owner, data, size)
        return self.hold_early(<Request>owner, data, size)
