"""Hashes of passwords by libxcrypt; `_crypt.pyi` says what it promises."""

cimport cython
from libc.stdlib cimport calloc, free
from libc.string cimport strlen

from k8strace._threads cimport Job, Port

cdef extern from "<string.h>" nogil:
    void explicit_bzero(void *, size_t)

cdef extern from "<crypt.h>" nogil:
    cdef struct crypt_data:
        pass
    char *crypt_rn(const char *phrase, const char *setting, void *data, int size)

cdef struct Work:
    Job job  # the first, so that a job is its work
    const char *phrase
    const char *setting
    crypt_data data
    char *hashed


@cython.final
cdef class Hash:
    cdef Work *work
    cdef bytes phrase
    cdef bytes setting

    def __cinit__(self, bytes phrase not None, bytes setting not None):
        if 0 in phrase or 0 in setting:
            raise ValueError("a zero byte ends a string of C")
        self.work = <Work *>calloc(1, sizeof(Work))
        if self.work == NULL:
            raise MemoryError
        self.phrase = phrase
        self.setting = setting
        self.work.phrase = phrase
        self.work.setting = setting
        self.work.job.work = run_job

    def __dealloc__(self):
        if self.work != NULL:
            explicit_bzero(self.work, sizeof(Work))
            free(self.work)

    def run(self):
        run_job(&self.work.job)

    def submit(self, Port port not None, token):
        port.submit(&self.work.job, self, token)

    @property
    def value(self):
        if self.work.hashed == NULL:
            return None
        return <bytes>self.work.hashed[:strlen(self.work.hashed)]


cdef void run_job(Job *job) noexcept nogil:
    cdef Work *work = <Work *>job
    work.hashed = crypt_rn(
        work.phrase, work.setting, &work.data, <int>sizeof(crypt_data)
    )
