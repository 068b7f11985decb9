"""Room, the process's budget of payload bytes, and leases of it; see `budget.pyi`.

In C because each request takes and gives back twice or more.
"""

cimport cython
from cpython.dict cimport PyDict_GetItem

import asyncio
from collections import OrderedDict
from itertools import islice
from math import isinf
from operator import itemgetter
from time import monotonic
from typing import NamedTuple

from k8strace.errors import RefusedError

MIN_RETRY_AFTER = 0.1
MAX_RETRY_AFTER = 2.0
RATE_WINDOW = 1.0
PEER_SHARE = 8
LEAST_SHARE = 4 * 1024 * 1024
PACED_ABOVE = 16 * 1024 * 1024
LONGEST_PACE = 0.05
UPKEEP_SHARE = 4
UPKEEP_FLOOR = 16
LEAST_UPKEEP = 1024 * 1024
ASK_AGAIN = 0.05  # seconds
UNSERVED, HOLDS_MUCH, IDLE = range(3)

cdef enum:
    PASSING = 16  # waiters behind the first that are looked at when something comes free

cdef Py_ssize_t SHARES = PEER_SHARE
cdef Py_ssize_t SURE_SHARE = LEAST_SHARE
cdef Py_ssize_t MOST_UPKEEP = UPKEEP_SHARE
cdef Py_ssize_t SURE_UPKEEP = UPKEEP_FLOOR
cdef Py_ssize_t SURE_BYTES = LEAST_UPKEEP
cdef Py_ssize_t PACED = PACED_ABOVE
cdef double LONGEST = LONGEST_PACE
cdef double SHORTEST_PACE = 0.001  # seconds; timers don't count in less


cdef class Room:
    cdef public Py_ssize_t limit
    cdef public Py_ssize_t used
    cdef readonly Py_ssize_t _promised  # to those who were woken and have not run yet
    cdef readonly object _waiters
    cdef readonly Py_ssize_t _saved  # of what came free, for the first that waits
    cdef Py_ssize_t odd  # what is left over where it is halved
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
        return self.used + self._promised + self._saved + amount <= self.limit

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
            self.odd += amount
            self._saved += self.odd // 2
            self.odd %= 2
            self._wake()

    cpdef _wake(self):
        """Wake who comes first, and behind it those who fit beside what is saved for it."""
        cdef Py_ssize_t amount
        cdef bint is_first = True
        while self._waiters and is_first:
            for waiter, amount in list(islice(self._waiters.items(), PASSING)):
                if not waiter.done():
                    if is_first:
                        self._saved = min(self._saved, amount)
                        if self.used + self._promised + amount > self.limit:
                            is_first = False
                            continue
                        self._saved = 0
                    elif not self.fits(amount):
                        continue
                    self._promised += amount
                    waiter.set_result(True)
                del self._waiters[waiter]
        if not self._waiters:
            self._saved = 0

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
    cdef public Py_ssize_t shared  # of the limit, among peers; 0: all of it
    cdef readonly Py_ssize_t per_lease
    cdef readonly Upkeep upkeep
    cdef readonly Coming coming
    cdef object _guard
    cdef Py_ssize_t headroom  # bytes that may be granted before the guard is asked again
    cdef dict holdings
    cdef list followers
    cdef dict queues  # of peers that wait for their own share

    def __init__(self, Py_ssize_t limit, *, Py_ssize_t per_lease=0):
        super().__init__(limit)
        self.per_lease = per_lease
        self.upkeep = Upkeep(self)
        if not isinstance(self, Coming):
            self.coming = Coming(self)
        self.holdings = {}
        self.followers = []
        self.queues = {}

    @property
    def budget(self):
        return self

    @property
    def guard(self):
        return self._guard

    @guard.setter
    def guard(self, guard):
        self._guard = guard
        self.headroom = 0

    def follow(self, freed):
        self.followers.append(freed)

    def unfollow(self, freed):
        if freed in self.followers:
            self.followers.remove(freed)

    cpdef give(self, Py_ssize_t amount):
        Room.give(self, amount)
        for freed in self.followers:
            freed(amount)

    def lease(self, Py_ssize_t amount, str peer not None, Py_ssize_t beside=-1):
        cdef Py_ssize_t whole = amount + (self.per_lease if beside < 0 else beside)
        if not self.has(whole, peer) or not self.is_safe(whole):
            return None
        return Lease(self, amount, peer, beside)

    cdef bint has(self, Py_ssize_t amount, str peer) except -1:
        """Whether the budget and the peer's share have `amount` more."""
        cdef Py_ssize_t held
        cdef Room room
        if not self.fits(amount):
            return False
        held = self.held(peer)
        if self.queues:
            room = self.queues.get(peer)
            if room is not None:
                held += room._promised + room._saved
        return amount + held <= self.share(peer)

    cdef bint is_safe(self, Py_ssize_t amount) except -1:
        """Whether memory has as much, too. An eighth of the budget may be held always:
        what the heap has in pieces is enough for that."""
        if self._guard is None or amount <= self.headroom:
            return True
        self.headroom = self._guard(amount)
        return amount <= self.headroom or self.used + amount <= self.limit // SHARES

    async def admit(
        self, Py_ssize_t amount, str peer not None, double until, Py_ssize_t beside=-1
    ):
        cdef Py_ssize_t whole = amount + (self.per_lease if beside < 0 else beside)
        while await self.opens(whole, peer, until):
            if self.is_safe(whole):
                return Lease(self, amount, peer, beside)
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
        amount += self.per_lease
        if amount > self.limit - self.limit // SHARES:
            return RefusedError(
                f"{amount} bytes are more than one sender may hold of the memory budget "
                f"({self.limit - self.limit // SHARES} bytes): send less at a time, or "
                "raise the memory limit",
                MAX_RETRY_AFTER,
            )
        if self.has(amount, peer):
            return RefusedError("too much memory is in use", MAX_RETRY_AFTER / 2)
        if self.fits(amount):
            return RefusedError(
                f"requests of {peer or 'this sender'} that are not done hold "
                f"{self.held(peer)} bytes, and its share of the memory budget of "
                f"{self.limit} bytes is {self.share(peer)}: it has to wait for them, or "
                "send less at a time",
                MAX_RETRY_AFTER,
            )
        return RefusedError("the memory budget is used up", self.retry_after(amount))

    def pace(self):
        cdef Py_ssize_t above = max(min(PACED, self.limit // 4), 1)
        cdef double pause = LONGEST * min(<double>self.backlog / above - 1, 1.0)
        return pause if pause >= SHORTEST_PACE else 0.0

    cpdef Py_ssize_t share(self, str peer) except -1:
        cdef bint is_new = peer not in self.holdings
        cdef Py_ssize_t peers = len(self.holdings) + is_new
        cdef Py_ssize_t shared = self.limit
        cdef Py_ssize_t least = min(self.limit // SHARES, SURE_SHARE)
        if self.shared and not (is_new and peers == 1):
            shared = min(self.shared, self.limit)
        if peers == 1:
            return max(shared - shared // SHARES, least)
        return max(shared // min(peers, SHARES), least)

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
        self.headroom -= max(amount, 0)
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
cdef class Coming(Budget):
    cdef Budget whole

    def __init__(self, Budget whole not None):
        self.whole = whole
        Budget.__init__(self, whole.limit // 2)

    cpdef bint fits(self, Py_ssize_t amount):
        self.limit = self.whole.limit // 2
        return Room.fits(self, amount)

    cpdef Py_ssize_t share(self, str peer) except -1:
        return self.limit // 2

    cpdef Py_ssize_t amount(self, Py_ssize_t size) noexcept:
        return min(size, self.whole.limit // 4)


class Victim(NamedTuple):
    rank: int
    order: float
    evict: object


cdef object _first = itemgetter(0, 1)


@cython.final
cdef class Upkeep:
    cdef Budget budget
    cdef readonly list evictors
    cdef readonly Py_ssize_t used
    cdef readonly Py_ssize_t charged

    def __cinit__(self, Budget budget not None):
        self.budget = budget
        self.evictors = []

    @property
    def limit(self):
        return self.most()

    def evict(self, by=None):
        found = [victim for find in self.evictors if (victim := find(by)) is not None]
        if not found:
            return False
        min(found, key=_first).evict()
        return True

    cpdef bint take(self, Py_ssize_t amount) except -1:
        cdef Budget budget = self.budget
        cdef Py_ssize_t more = self.due(self.used + amount) - self.charged
        if self.used + amount > self.most():
            return False
        if more > 0 and not (budget.fits(more) and budget.is_safe(more)):
            return False
        self.used += amount
        budget.headroom -= amount
        self.settle()
        return True

    cpdef give(self, Py_ssize_t amount):
        self.used -= amount
        self.settle()

    cdef Py_ssize_t due(self, Py_ssize_t used) noexcept:
        return max(used - max(self.budget.limit // SURE_UPKEEP, SURE_BYTES), 0)

    cdef Py_ssize_t most(self) noexcept:
        return max(self.budget.limit // MOST_UPKEEP, SURE_BYTES)

    cdef int settle(self) except -1:
        cdef Py_ssize_t more = self.due(self.used) - self.charged
        self.charged += more
        if more > 0:
            self.budget.force(more)
        elif more < 0:
            self.budget.give(-more)
        return 0


@cython.final
cdef class Lease:
    cdef readonly Budget budget
    cdef readonly str peer
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t beside

    def __init__(
        self, Budget budget not None, Py_ssize_t size, str peer not None,
        Py_ssize_t beside=-1,
    ):
        self.budget = budget
        self.peer = peer
        self.beside = budget.per_lease if beside < 0 else beside
        self.size = size
        budget.move(size + self.beside, peer)

    @property
    def held(self):
        return self.size + self.beside

    cpdef grow(self, Py_ssize_t amount):
        self.budget.move(amount, self.peer)
        self.size += amount

    def try_grow(self, Py_ssize_t amount):
        if not self.budget.has(amount, self.peer) or not self.budget.is_safe(amount):
            return False
        self.grow(amount)
        return True

    def attach(self, Py_ssize_t amount):
        if not self.budget.has(amount, self.peer) or not self.budget.is_safe(amount):
            return False
        self.budget.move(amount, self.peer)
        self.beside += amount
        return True

    def resized(self, Py_ssize_t size):
        return Lease(self.budget, size, self.peer, self.beside)

    def shrink_to(self, Py_ssize_t size):
        if size < self.size:
            self.budget.move(size - self.size, self.peer)
            self.size = size

    def __del__(self):
        if self.size + self.beside:
            self.budget.move(-self.size - self.beside, self.peer)
            self.size = self.beside = 0
