"""Room, the process's budget of payload bytes, and leases of it; see `budget.pyi`.

In C because each request takes and gives back twice or more.
"""

cimport cython
from cpython.dict cimport PyDict_GetItem

import asyncio
from collections import OrderedDict
from math import isinf
from time import monotonic

from k8strace.errors import RefusedError

MIN_RETRY_AFTER = 0.1
MAX_RETRY_AFTER = 2.0
RATE_WINDOW = 1.0
PEER_SHARE = 8
PACED_ABOVE = 16 * 1024 * 1024
LONGEST_PACE = 0.05
GUARDED_FROM = 256 * 1024
ASK_AGAIN = 0.05  # seconds

cdef Py_ssize_t SHARES = PEER_SHARE
cdef Py_ssize_t PACED = PACED_ABOVE
cdef Py_ssize_t GUARDED = GUARDED_FROM
cdef double LONGEST = LONGEST_PACE
cdef double SHORTEST_PACE = 0.001  # seconds; timers don't count in less


cdef class Room:
    cdef public Py_ssize_t limit
    cdef public Py_ssize_t used
    cdef readonly Py_ssize_t _promised  # to those who were woken and have not run yet
    cdef readonly object _waiters
    cdef Py_ssize_t given
    cdef Py_ssize_t given_before  # the mark
    cdef double mark
    cdef double rate

    def __init__(self, Py_ssize_t limit):
        self.limit = limit
        self.mark = monotonic()
        self._waiters = OrderedDict()

    @property
    def waiting(self):
        return len(self._waiters)

    cpdef bint fits(self, Py_ssize_t amount):
        return self.used + self._promised + amount <= self.limit

    def take(self, Py_ssize_t amount):
        if not self.fits(amount):
            return False
        self.used += amount
        return True

    cpdef force(self, Py_ssize_t amount):
        self.used += amount

    cpdef give(self, Py_ssize_t amount):
        self.used -= amount
        self.given += amount
        if self._waiters:
            self._wake()

    cpdef _wake(self):
        cdef Py_ssize_t amount
        while self._waiters:
            waiter, amount = next(iter(self._waiters.items()))
            if not waiter.done():
                if not self.fits(amount):
                    return
                self._promised += amount
                waiter.set_result(True)
            del self._waiters[waiter]

    async def wait(self, Py_ssize_t amount, double until):
        if self.fits(amount):
            return True
        loop = asyncio.get_running_loop()
        if amount > self.limit or until <= loop.time():
            return False
        waiter = loop.create_future()
        self._waiters[waiter] = amount
        timer = None if isinf(until) else loop.call_at(until, _give_up, waiter)
        try:
            return await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self._promised -= amount
            self._waiters.pop(waiter, None)
            # Not in this step, in which the caller takes what it was woken for.
            loop.call_soon(self._wake)

    def retry_after(self, Py_ssize_t amount):
        cdef double now = monotonic()
        cdef double elapsed = now - self.mark
        cdef double given = self.given - self.given_before
        cdef double rate
        if elapsed >= RATE_WINDOW:
            self.rate = given / elapsed
            self.mark = now
            self.given_before = self.given
        rate = self.rate or given / max(elapsed, 1e-3)
        if rate <= 0:
            return MAX_RETRY_AFTER
        missing = self.used + amount - self.limit
        return min(max(missing / rate, MIN_RETRY_AFTER), MAX_RETRY_AFTER)


def _give_up(waiter):
    if not waiter.done():
        waiter.set_result(False)


@cython.final
@cython.freelist(64)
cdef class _Holding:
    """What a peer holds; in the budget's dict as long as that is anything."""

    cdef Py_ssize_t size


cdef class Budget(Room):
    cdef public Py_ssize_t backlog
    cdef public object guard
    cdef dict holdings
    cdef list followers
    cdef dict queues  # of peers that wait for their own share

    def __init__(self, Py_ssize_t limit):
        super().__init__(limit)
        self.holdings = {}
        self.followers = []
        self.queues = {}

    def follow(self, freed):
        self.followers.append(freed)

    def unfollow(self, freed):
        if freed in self.followers:
            self.followers.remove(freed)

    cpdef give(self, Py_ssize_t amount):
        Room.give(self, amount)
        for freed in self.followers:
            freed(amount)

    def lease(self, Py_ssize_t amount, str peer not None):
        if not self.has(amount, peer) or not self.is_safe(amount):
            return None
        return Lease(self, amount, peer)

    cdef bint has(self, Py_ssize_t amount, str peer) except -1:
        """Whether the budget and the peer's share have `amount` more."""
        return self.fits(amount) and amount + self.held(peer) <= self.share(peer)

    cdef bint is_safe(self, Py_ssize_t amount) except -1:
        """Whether memory has as much, too."""
        return amount < GUARDED or self.guard is None or self.guard(amount)

    async def admit(self, Py_ssize_t amount, str peer not None, double until):
        while await self.opens(amount, peer, until):
            if self.is_safe(amount):
                return Lease(self, amount, peer)
            if asyncio.get_running_loop().time() + ASK_AGAIN > until:
                break
            await asyncio.sleep(ASK_AGAIN)
        return None

    async def opens(self, Py_ssize_t amount, str peer not None, double until):
        cdef Room room
        while not self.has(amount, peer):
            room = self
            if self.fits(amount):
                room = self.queues.setdefault(peer, Room(0))
                room.limit = self.share(peer)
                room.used = self.held(peer)
            try:
                if not await room.wait(amount, until):
                    return False
            finally:
                if room is not self and not room.waiting:
                    self.queues.pop(peer, None)
        return True

    def refusal(self, Py_ssize_t amount, str peer not None):
        if self.has(amount, peer):
            return RefusedError("too much memory is in use", MAX_RETRY_AFTER / 2)
        if self.fits(amount):
            return RefusedError(
                f"{peer or 'this sender'} holds its share of the memory budget "
                f"({self.held(peer)} of {self.share(peer)} bytes)",
                MAX_RETRY_AFTER,
            )
        return RefusedError("the memory budget is used up", self.retry_after(amount))

    def pace(self):
        cdef Py_ssize_t above = max(min(PACED, self.limit // 4), 1)
        cdef double pause = LONGEST * min(<double>self.backlog / above - 1, 1.0)
        return pause if pause >= SHORTEST_PACE else 0.0

    cpdef Py_ssize_t share(self, str peer) except -1:
        cdef Py_ssize_t peers = len(self.holdings) + (peer not in self.holdings)
        return self.limit // min(peers, SHARES)

    cpdef Py_ssize_t held(self, str peer) except -1:
        cdef void *found = PyDict_GetItem(self.holdings, peer)
        return 0 if found == NULL else (<_Holding>found).size

    cdef int move(self, Py_ssize_t amount, str peer) except -1:
        """Charge `amount` bytes (negative: credit them) to the budget and to `peer`."""
        cdef void *found = PyDict_GetItem(self.holdings, peer)
        cdef _Holding holding
        if found == NULL:
            holding = _Holding()
            self.holdings[peer] = holding
        else:
            holding = <_Holding>found
        holding.size += amount
        if holding.size == 0:
            del self.holdings[peer]
        if self.queues:
            self.move_queue(amount, peer)
        if amount < 0:
            self.give(-amount)
        else:
            self.force(amount)
        return 0

    cdef int move_queue(self, Py_ssize_t amount, str peer) except -1:
        cdef Room room = self.queues.get(peer)
        if room is None:
            return 0
        room.limit = self.share(peer)
        room.used = self.held(peer) - amount
        if amount < 0:
            room.give(-amount)
        else:
            room.force(amount)
        return 0


@cython.final
cdef class Lease:
    cdef readonly Budget budget
    cdef readonly str peer
    cdef readonly Py_ssize_t size

    def __init__(self, Budget budget not None, Py_ssize_t size, str peer not None):
        self.budget = budget
        self.peer = peer
        self.grow(size)

    cpdef grow(self, Py_ssize_t amount):
        self.budget.move(amount, self.peer)
        self.size += amount

    def try_grow(self, Py_ssize_t amount):
        if not self.budget.has(amount, self.peer) or not self.budget.is_safe(amount):
            return False
        self.grow(amount)
        return True

    def shrink_to(self, Py_ssize_t size):
        if size < self.size:
            self.budget.move(size - self.size, self.peer)
            self.size = size

    def __del__(self):
        if self.size:
            self.budget.move(-self.size, self.peer)
            self.size = 0
