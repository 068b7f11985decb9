"""Room: the one way in which anything here is bounded.

A `Room` holds a limited amount of something (bytes, spans, requests). Who wants in takes
room or waits for it, in order of arrival. `Budget` is the process's room for payload
bytes; it hands out a `Lease`, which a payload carries and which gives its bytes back when
the last payload that shares it is gone. So bytes are counted as long as something holds
them, and given back exactly once, on every way out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from math import isinf
from time import monotonic

from k8strace.errors import RefusedError

MIN_RETRY_AFTER = 0.1
MAX_RETRY_AFTER = 2.0
RATE_WINDOW = 1.0  # seconds over which the rate of giving back is measured
PEER_SHARE = 8  # one peer may always hold this part (1/8) of the budget


class Room:
    """A bounded amount; `limit` and `used` are in whatever unit its owner counts."""

    __slots__ = (
        *("_given", "_mark", "_mark_given", "_promised", "_rate", "_waiters"),
        *("limit", "used"),
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._given = 0
        self._mark = monotonic()
        self._mark_given = 0
        self._rate = 0.0
        self._promised = 0  # to those who were woken and have not run yet
        self._waiters: OrderedDict[asyncio.Future[bool], int] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiters)

    def fits(self, amount: int) -> bool:
        return self.used + self._promised + amount <= self.limit

    def take(self, amount: int) -> bool:
        """Take `amount` if it fits, say whether it did."""
        if not self.fits(amount):
            return False
        self.used += amount
        return True

    def force(self, amount: int) -> None:
        """Take `amount` even past the limit: for what is here already and only moves."""
        self.used += amount

    def give(self, amount: int) -> None:
        """Give `amount` back and wake those whose turn it is."""
        self.used -= amount
        self._given += amount
        if self._waiters:
            self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter, amount = next(iter(self._waiters.items()))
            if not waiter.done():
                if not self.fits(amount):
                    return
                self._promised += amount
                waiter.set_result(True)
            del self._waiters[waiter]

    async def wait(self, amount: int, until: float) -> bool:
        """Wait until `amount` fits, at most until the loop's time `until` (inf: for ever).

        Nothing is taken: the caller takes in the same step in which it wakes, or waits
        again. Returns False when the time is over or `amount` can never fit.
        """
        if self.fits(amount):
            return True
        loop = asyncio.get_running_loop()
        if amount > self.limit or until <= loop.time():
            return False
        waiter: asyncio.Future[bool] = loop.create_future()
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

    def retry_after(self, amount: int) -> float:
        """Seconds until `amount` may fit, from the rate at which room was given back."""
        now = monotonic()
        elapsed = now - self._mark
        given = self._given - self._mark_given
        if elapsed >= RATE_WINDOW:
            self._rate = given / elapsed
            self._mark, self._mark_given = now, self._given
        rate = self._rate or given / max(elapsed, 1e-3)
        missing = self.used + amount - self.limit
        if rate <= 0:
            return MAX_RETRY_AFTER
        return min(max(missing / rate, MIN_RETRY_AFTER), MAX_RETRY_AFTER)


def _give_up(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


class Budget(Room):
    """The room for payload bytes, of which no peer holds more than its fair share."""

    __slots__ = ("_followers", "_held", "_queues")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._held: dict[str, int] = {}
        self._followers: list[Callable[[int], None]] = []
        self._queues: dict[str, Room] = {}  # of peers that wait for their own share

    def follow(self, freed: Callable[[int], None]) -> None:
        """Call `freed` with the amount whenever bytes were given back."""
        self._followers.append(freed)

    def unfollow(self, freed: Callable[[int], None]) -> None:
        """Undo `follow`; nothing to undo is fine."""
        if freed in self._followers:
            self._followers.remove(freed)

    def give(self, amount: int) -> None:
        super().give(amount)
        for freed in self._followers:
            freed(amount)

    def lease(self, amount: int, peer: str) -> Lease | None:
        """Reserve `amount` bytes for `peer`, or None where budget or share is used up."""
        if not self.fits(amount) or amount + self._held.get(peer, 0) > self.share(peer):
            return None
        return Lease(self, amount, peer)

    async def admit(self, amount: int, peer: str, until: float) -> Lease | None:
        """A lease as soon as there is room, None when there is none by `until`.

        `until` is the loop's time. A peer that is over its share waits for itself only.
        """
        while (lease := self.lease(amount, peer)) is None:
            room: Room = self
            if self.fits(amount):
                room = self._queues.setdefault(peer, Room(0))
                room.limit, room.used = self.share(peer), self.held(peer)
            try:
                if not await room.wait(amount, until):
                    return None
            finally:
                if room is not self and not room.waiting:
                    self._queues.pop(peer, None)
        return lease

    def refusal(self, amount: int, peer: str) -> RefusedError:
        """What to answer `peer`, for whose `amount` there is no room."""
        if self.fits(amount):
            return RefusedError(
                f"{peer or 'this sender'} holds its share of the memory budget "
                f"({self.held(peer)} of {self.share(peer)} bytes)",
                MAX_RETRY_AFTER,
            )
        return RefusedError("the memory budget is used up", self.retry_after(amount))

    def share(self, peer: str) -> int:
        """The bytes that `peer` may hold: its fair share, at least an eighth of all."""
        peers = len(self._held) + (peer not in self._held)
        return self.limit // min(peers, PEER_SHARE)

    def held(self, peer: str) -> int:
        return self._held.get(peer, 0)

    def move(self, amount: int, peer: str) -> None:
        """Charge `amount` bytes (negative: credit them) to the budget and to `peer`."""
        held = self._held.get(peer, 0) + amount
        if held:
            self._held[peer] = held
        else:
            self._held.pop(peer, None)
        room = self._queues.get(peer) if self._queues else None
        if room is not None:
            room.limit, room.used = self.share(peer), held - amount
        for one in (self,) if room is None else (self, room):
            if amount < 0:
                one.give(-amount)
            else:
                one.force(amount)


class Lease:
    """Bytes of a budget, given back when the last reference goes."""

    __slots__ = ("budget", "peer", "size")

    def __init__(self, budget: Budget, size: int, peer: str) -> None:
        self.budget = budget
        self.size = 0
        self.peer = peer
        self.grow(size)

    def grow(self, amount: int) -> None:
        """Add `amount` bytes, even past the limit."""
        self.budget.move(amount, self.peer)
        self.size += amount

    def try_grow(self, amount: int) -> bool:
        """Add `amount` bytes if budget and the peer's share have them."""
        budget = self.budget
        if not budget.fits(amount) or budget.held(self.peer) + amount > budget.share(
            self.peer
        ):
            return False
        self.grow(amount)
        return True

    def shrink_to(self, size: int) -> None:
        """Give back what is above `size`; it never grows."""
        if size < self.size:
            self.budget.move(size - self.size, self.peer)
            self.size = size

    def __del__(self) -> None:
        if self.size:
            self.budget.move(-self.size, self.peer)
