"""C threads and the ports through which they report; `_threads.pyi` says what it promises.

Threads see structs of C only. A job's Python objects are kept by a reference that `submit`
takes and `finished` drops, whatever becomes of the port and its event loop.
"""

cimport cython
from cpython.exc cimport PyErr_SetFromErrno
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from posix.signal cimport sigfillset, sigset_t
from posix.unistd cimport close as close_file
from posix.unistd cimport read, write

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags)

cdef extern from "<signal.h>" nogil:
    int SIG_SETMASK
    int pthread_sigmask(int how, const sigset_t *mask, sigset_t *old)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t *, const void *, void *(*)(void *) noexcept, void *)
    int pthread_join(pthread_t, void **)
    int pthread_mutex_init(pthread_mutex_t *, const void *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_cond_init(pthread_cond_t *, const void *)
    int pthread_cond_wait(pthread_cond_t *, pthread_mutex_t *)
    int pthread_cond_signal(pthread_cond_t *)
    int pthread_cond_broadcast(pthread_cond_t *)

cdef enum:
    MOST = 2  # of threads: what they do is large and rare, and the loop needs a core, too
    MOST_ON_DISK = 4  # they wait more than they work, and nobody's computing waits for them
    MOST_THAT_HANG = 16  # one of them may wait for a mount that never answers
    POOLS = 3

THREADS = <int>MOST
DISK_THREADS = <int>MOST_ON_DISK
HANGING_THREADS = <int>MOST_THAT_HANG
COMPUTING, DISK, HANGING = range(POOLS)

cdef struct Pool:
    pthread_mutex_t lock
    pthread_cond_t wanted
    Job *first
    Job *last
    int queued
    int most
    int started
    int idle
    bint may_hang
    bint is_closing
    pthread_t[MOST_THAT_HANG] threads

cdef (Pool *)[POOLS] pools


@cython.final
cdef class Port:
    def __cinit__(self, int pool=0):
        if not 0 <= pool < POOLS:
            raise ValueError(f"there is no pool {pool}")
        self.pool = pool
        self.done.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.done.event < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        if self.done.event >= 0:
            close_file(self.done.event)

    def fileno(self):
        return self.done.event

    def finished(self):
        cdef Pool *pool = pools[self.pool]
        cdef uint64_t count
        cdef Job *job = NULL
        tokens = []
        if pool == NULL:
            return tokens
        pthread_mutex_lock(&pool.lock)
        if self.done.first != NULL:
            read(self.done.event, &count, sizeof(count))
            job = self.done.first
            self.done.first = NULL
        pthread_mutex_unlock(&pool.lock)
        while job != NULL:
            held = <object>job.held
            job = job.next  # before what holds its memory goes
            Py_DECREF(held)
            self.running -= 1
            tokens.append(held[2])
        held = None
        return tokens

    cdef int submit(self, Job *job, owner, token) except -1:
        cdef Pool *pool = pools[self.pool]
        held = (self, owner, token)
        if pool == NULL:
            pool = make_pool(self.pool)
        job.held = <PyObject *>held
        job.done = &self.done
        job.next = NULL
        pthread_mutex_lock(&pool.lock)
        if pool.queued >= pool.idle and pool.started < pool.most:
            start(pool)
        if pool.started == 0:
            pthread_mutex_unlock(&pool.lock)
            raise MemoryError("no thread can be started")
        if pool.first == NULL:
            pool.first = job
        else:
            pool.last.next = job
        pool.last = job
        pool.queued += 1
        Py_INCREF(held)
        self.running += 1
        pthread_cond_signal(&pool.wanted)
        pthread_mutex_unlock(&pool.lock)
        return 0


def started():
    return sum([pools[i].started for i in range(POOLS) if pools[i] != NULL])


def close():
    cdef int i
    for i in range(POOLS):
        if pools[i] != NULL:
            close_pool(pools[i])


def forget():
    for i in range(POOLS):
        pools[i] = NULL  # its lock may be held by a thread that is not here


cdef void close_pool(Pool *pool) noexcept:
    cdef int number
    with nogil:
        pthread_mutex_lock(&pool.lock)
        if pool.may_hang and pool.idle < pool.started:
            # Who waits for them may wait for ever; the process takes them with it.
            pthread_mutex_unlock(&pool.lock)
            return
        pool.is_closing = True
        pthread_cond_broadcast(&pool.wanted)
        pthread_mutex_unlock(&pool.lock)
        for number in range(pool.started):
            pthread_join(pool.threads[number], NULL)
    pool.started = 0
    pool.is_closing = False


cdef Pool *make_pool(int which) except NULL:
    cdef Pool *made = <Pool *>calloc(1, sizeof(Pool))
    if made == NULL:
        raise MemoryError
    if pthread_mutex_init(&made.lock, NULL) or pthread_cond_init(&made.wanted, NULL):
        free(made)
        raise MemoryError
    made.may_hang = which == 2
    made.most = MOST_THAT_HANG if made.may_hang else MOST_ON_DISK if which else MOST
    pools[which] = made
    return made


cdef void start(Pool *pool) noexcept:
    """One thread more, if it can be had. Signals are for Python's own."""
    cdef sigset_t everything, before
    sigfillset(&everything)
    pthread_sigmask(SIG_SETMASK, &everything, &before)
    if not pthread_create(&pool.threads[pool.started], NULL, serve, <void *>pool):
        pool.started += 1
    pthread_sigmask(SIG_SETMASK, &before, NULL)


cdef void *serve(void *argument) noexcept nogil:
    """A thread's life. Once told to close it still does what was submitted."""
    cdef Pool *mine = <Pool *>argument
    cdef Job *job
    cdef uint64_t one = 1
    pthread_mutex_lock(&mine.lock)
    while True:
        while mine.first == NULL and not mine.is_closing:
            mine.idle += 1
            pthread_cond_wait(&mine.wanted, &mine.lock)
            mine.idle -= 1
        job = mine.first
        if job == NULL:
            break
        mine.first = job.next
        mine.queued -= 1
        pthread_mutex_unlock(&mine.lock)
        job.work(job)
        pthread_mutex_lock(&mine.lock)
        job.next = job.done.first
        job.done.first = job
        # Under the lock: who takes the job may let go of its port, and with it the event.
        write(job.done.event, &one, sizeof(one))
    pthread_mutex_unlock(&mine.lock)
    return NULL
