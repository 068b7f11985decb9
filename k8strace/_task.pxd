"""A step of work over some state, which the caller or a C thread does."""

from k8strace._threads cimport Job
from k8strace._wire cimport Code

ctypedef Code (*Go)(void *) noexcept nogil

cdef struct Task:
    Job job  # the first member, so that a thread finds the rest
    Go go
    void *state
    Code code


cdef inline void run_task(Job *job) noexcept nogil:
    cdef Task *task = <Task *>job
    task.code = task.go(task.state)
