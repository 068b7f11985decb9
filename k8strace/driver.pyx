"""Runs a coroutine without a task as far as it goes without waiting; see `driver.pyi`.

In C because every request is begun here: a coroutine's result is taken without the
exception that carries it in Python.
"""

cimport cython

from asyncio import CancelledError
from collections.abc import Coroutine

cdef extern from "Python.h":
    ctypedef struct PyObject
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(
        object iterator, object value, PyObject **result
    ) except PYGEN_ERROR
    void Py_DECREF(PyObject *)

cdef object TAKEN = object()


@cython.final
@cython.freelist(8)
cdef class Done:
    cdef readonly object value

    def __init__(self, value):
        self.value = value


@cython.final
cdef class Rest:
    cdef object coro
    cdef object waits_for

    def __init__(self, coro, waits_for):
        self.coro = coro
        self.waits_for = waits_for

    def run(self):
        return self

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    cpdef send(self, value):
        waits_for = self.waits_for
        self.waits_for = TAKEN
        return self.coro.send(value) if waits_for is TAKEN else waits_for

    def throw(self, typ, val=None, tb=None):
        error = val if isinstance(val, BaseException) else typ
        waits_for = self.waits_for
        self.waits_for = TAKEN
        if (
            waits_for is not TAKEN
            and isinstance(error, CancelledError)
            and hasattr(waits_for, "cancel")
            and waits_for.cancel()
        ):
            # As a task does it: what is waited for is cancelled, and says so.
            return waits_for
        return self.coro.throw(error)

    def close(self):
        self.coro.close()


Coroutine.register(Rest)


def begin(coro):
    cdef PyObject *found = NULL
    cdef bint ended = PyIter_Send(coro, None, &found) == PYGEN_RETURN
    value = <object>found
    Py_DECREF(found)
    return Done(value) if ended else Rest(coro, value)
