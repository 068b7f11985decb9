"""The C heap's own housekeeping; `_heap.pyi` says what it promises."""

cimport cython

from k8strace._threads cimport Job, Port

cdef extern from *:
    """
    #include <stdlib.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    #define HAS_GLIBC 1
    #else
    #define HAS_GLIBC 0
    #define M_ARENA_MAX 0
    #define M_MMAP_THRESHOLD 0
    #define M_TRIM_THRESHOLD 0
    static int malloc_trim(size_t pad) { (void)pad; return 0; }
    static int mallopt(int name, int value) { (void)name; (void)value; return 0; }
    #endif
    """
    bint HAS_GLIBC
    int M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    int malloc_trim(size_t pad) nogil
    int mallopt(int name, int value) nogil

IS_GLIBC = bool(HAS_GLIBC)

cdef struct Work:
    Job job  # must be first: a thread is given its address


@cython.final
cdef class Trim:
    cdef Work work

    def submit(self, Port port not None, token):
        self.work.job.work = trim
        port.submit(&self.work.job, self, token)


def keep(int amount):
    return bool(
        mallopt(M_ARENA_MAX, 1)
        and mallopt(M_MMAP_THRESHOLD, amount // 2)
        and mallopt(M_TRIM_THRESHOLD, amount)
    )


cdef void trim(Job *job) noexcept nogil:
    malloc_trim(0)
