"""Passes over a request's bytes: within the budget, and never for long at a time.

A `Work` (`_fastpath`) of up to half a MiB is done at once, a longer one by C threads. Its
output is held in the budget before it is made; where there is no room for that, who wants
it waits as long as its sender does, and is refused then.
"""

from __future__ import annotations

import asyncio
from math import inf

from k8strace import threads
from k8strace._fastpath import Count, Counting, Filtering, Work
from k8strace.background import Turn
from k8strace.budget import Budget, Lease
from k8strace.errors import RefusedError
from k8strace.payload import Payload

MAX_WAIT = 2.0  # seconds
ASK_AGAIN = 0.1  # seconds between two looks at whether the limit may be passed


async def step(work: Work) -> None:
    """Take `work` a step further. Raises MalformedPayloadError."""
    if work.is_large:
        await threads.run(work)
        work.settle()
    else:
        work.run()


async def count(chunks: tuple[bytes, ...], *, deep: bool) -> Count:
    """What `_fastpath.count` says of `chunks`, which are longer than `AT_ONCE`."""
    counting = Counting(chunks, deep)
    while not counting.is_done:
        await step(counting)
    return counting.take()


async def complete(
    work: Filtering, of: Lease | None, until: float, spare: Spare | None = None
) -> Lease | None:
    """Do all of `work`; gives what holds its output, None where nothing has changed.

    The output is charged to the peer and the budget of the lease `of` what is worked on.
    Raises RefusedError where there is no room for it up to the loop's time `until`. Where
    nobody would send it again there is `spare`, so that it goes on.
    """
    turn = Turn()
    need = 0
    room = _Room(of, spare, until)
    try:
        while not work.is_done:
            await step(work)
            if work.need != need:
                need = work.need
                await room.reserve(need)
            await turn.end()
        lease = room.lease
    finally:
        room.end()
    if lease is not None:
        lease.shrink_to(work.size)
    if of is not None and work.has_changed and work.kept:
        # Chunks that go on as they are: what held them until now goes with the others.
        lease = lease or of.resized(0)
        lease.grow(work.kept)
    return lease


class _Room:
    """Room for the output of a pass over what `given` holds; None: it needs none.

    With `spare` the peer's share is no bound for it, and the limit where `spare` is free.
    """

    def __init__(self, given: Lease | None, spare: Spare | None, until: float) -> None:
        self.lease: Lease | None = None
        self._given = given
        self._spare = spare
        self._until = until
        self._is_past = False

    async def reserve(self, need: int) -> None:
        """Have `need` bytes in all. Raises RefusedError."""
        given, lease = self._given, self.lease
        if given is None:
            return
        budget, peer = given.budget, given.peer
        if lease is None:
            lease = budget.lease(need, peer, given.beside)
            if lease is None and self._passes(need + given.beside):
                lease = given.resized(need)
            if lease is None:
                lease = await budget.admit(need, peer, self._until, given.beside)
            if lease is None:
                raise budget.refusal(need, peer)
            self.lease = lease
            return
        more = need - lease.size
        if more <= 0 or lease.try_grow(more):
            return
        # Who holds some already doesn't wait for more: others may do the same.
        if not self._passes(more):
            raise budget.refusal(more, peer)
        lease.grow(more)

    def end(self) -> None:
        if self._is_past and self._spare is not None:
            self._spare.give_back()
        self._is_past = False

    def _passes(self, size: int) -> bool:
        """Whether the output may have `size` bytes more all the same."""
        spare, given = self._spare, self._given
        if spare is None or given is None:
            return False
        if not (self._is_past or given.budget.fits(size)):
            self._is_past = spare.take()
            return self._is_past
        return True


class Spare:
    """Room for what is made of payloads that were taken already, and must go on.

    It waits until the budget has that room; but one at a time may take it past the limit.
    Otherwise what fills the budget might wait for ever for a little more of it.

    `lasts` says that a loan may be held by others when it has ended here: then it goes past
    the limit only where nobody is past it.
    """

    def __init__(self, budget: Budget, *, lasts: bool = False) -> None:
        self._budget = budget
        self._lasts = lasts
        self._is_taken = False

    async def lend(
        self,
        size: int,
        of: Payload,
        until: float = inf,
        beside: Loan | None = None,
        own: int = 0,
        *,
        may_pass: bool = True,
    ) -> Loan:
        """Have `size` bytes for a part of the payload `of`, by the loop's time `until`.

        `beside` is a loan that the same borrower keeps meanwhile: if that is the one past
        the limit, this one goes past it, too, as nobody else would ever make room for it.
        `own` are bytes that it keeps for its next loan, too. What may not go past the limit
        waits for `MAX_WAIT` seconds at most, as it may be what fills the budget.

        Raises RefusedError when the time is over.
        """
        lease = of.any_lease
        if lease is None or not size:
            return Loan(None, None)
        budget, loop = self._budget, asyncio.get_running_loop()
        whole = size + lease.beside
        if not may_pass:
            until = min(until, loop.time() + MAX_WAIT)
        while not budget.fits(whole):
            used = budget.used - own
            if not may_pass:
                pass
            elif beside is not None and beside.is_past and beside.lease is not None:
                if not self._lasts or used - beside.lease.held <= budget.limit:
                    break
            elif self.take(own):
                return Loan(lease.resized(size), self)
            now = loop.time()
            if now >= until:
                raise RefusedError(
                    "the memory budget is used up", budget.retry_after(whole)
                )
            wake = min(until, now + ASK_AGAIN)
            if whole <= budget.limit:
                await budget.wait(whole, wake)
            else:
                await asyncio.sleep(wake - now)
        return Loan(lease.resized(size), None)

    def take(self, own: int = 0) -> bool:
        """Whether one may go past the limit now, who gives that back."""
        budget = self._budget
        if self._is_taken or (self._lasts and budget.used - own > budget.limit):
            return False
        self._is_taken = True
        return True

    def give_back(self) -> None:
        self._is_taken = False


class Loan:
    """A lease of a `Spare`'s; `end` says that it is not needed there any more."""

    __slots__ = ("_spare", "lease")

    def __init__(self, lease: Lease | None, spare: Spare | None) -> None:
        self.lease = lease
        self._spare = spare

    @property
    def is_past(self) -> bool:
        """Whether it is the one that may be past the limit."""
        return self._spare is not None

    def end(self) -> None:
        self.lease = None
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.give_back()
