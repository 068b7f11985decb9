"""C threads for work that would hold up the event loop; `_threads.pyi` says how."""

from cpython.ref cimport PyObject

cdef struct Job:
    # What a thread calls, without the GIL, with the job. It is the first member of a
    # larger struct, and stays where it is until its port has told of it.
    void (*work)(Job *) noexcept nogil
    Job *next
    Done *done
    PyObject *held

cdef struct Done:
    Job *first
    int event

cdef class Port:
    cdef Done done
    cdef int pool
    cdef readonly int running
    # Have a thread do `job`; `owner` keeps its memory, `token` is what `finished` gives.
    cdef int submit(self, Job *job, owner, token) except -1
