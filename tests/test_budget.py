"""Room and budget: bounded, fair, and given back exactly once."""

from __future__ import annotations

import asyncio
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from k8strace import budget as module
from k8strace.budget import (
    GUARDED_FROM,
    LONGEST_PACE,
    MAX_RETRY_AFTER,
    MIN_RETRY_AFTER,
    PACED_ABOVE,
    PEER_SHARE,
    RATE_WINDOW,
    Budget,
    Lease,
    Room,
)
from tests.support.pipeline import until


def now() -> float:
    return asyncio.get_running_loop().time()


def soon() -> float:
    return now() + 30


async def test_what_fits_is_taken() -> None:
    room = Room(10)
    assert room.take(4)
    assert room.fits(6)
    assert not room.fits(7)
    assert not room.take(7)
    assert room.used == 4
    room.force(20)
    assert room.used == 24
    room.give(24)
    assert room.used == 0


async def test_waiting_for_what_fits_returns_at_once() -> None:
    assert await Room(10).wait(10, 0)


async def test_nobody_waits_for_what_can_never_fit() -> None:
    assert not await Room(10).wait(11, inf)


async def test_a_sender_that_cannot_wait_does_not() -> None:
    room = Room(1)
    room.force(1)
    assert not await room.wait(1, now())
    assert room.waiting == 0


async def test_the_time_ends_waiting() -> None:
    room = Room(1)
    room.force(1)
    assert not await room.wait(1, now() + 0.01)
    assert room.waiting == 0
    room.give(1)
    assert room.take(1)


async def test_waiting_without_an_end_lasts_until_there_is_room() -> None:
    room = Room(1)
    room.force(1)
    waiter = asyncio.create_task(room.wait(1, inf))
    await until(lambda: room.waiting == 1)
    room.give(1)
    assert await waiter


async def taker(room: Room, name: str, amount: int, order: list[str]) -> None:
    while not room.take(amount):
        assert await room.wait(amount, soon())
    order.append(name)


async def test_waiters_go_in_order_of_arrival() -> None:
    room, order = Room(2), list[str]()
    room.force(2)
    tasks = []
    for name in "abc":
        tasks.append(asyncio.create_task(taker(room, name, 1, order)))
        await until(lambda: room.waiting == len(tasks))
    room.give(1)
    room.give(1)
    await until(lambda: len(order) == 2)
    assert order == ["a", "b"]
    assert room.used == 2
    room.give(1)
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]


async def test_who_comes_later_does_not_take_what_a_waiter_was_woken_for() -> None:
    room, order = Room(1), list[str]()
    room.force(1)
    task = asyncio.create_task(taker(room, "first", 1, order))
    await until(lambda: room.waiting == 1)
    room.give(1)
    assert room.used == 0
    assert not room.fits(1)
    assert not room.take(1)
    await task
    assert room.used == 1


async def test_a_waiter_that_wakes_and_takes_nothing_passes_its_turn_on() -> None:
    room, order = Room(1), list[str]()
    room.force(1)
    idle = asyncio.create_task(room.wait(1, soon()))
    await until(lambda: room.waiting == 1)
    task = asyncio.create_task(taker(room, "second", 1, order))
    await until(lambda: room.waiting == 2)
    room.give(1)
    assert await idle
    await task
    assert order == ["second"]


@pytest.mark.parametrize("woken", [False, True])
async def test_a_waiter_that_is_cancelled_leaves_the_line(woken: bool) -> None:
    room, order = Room(1), list[str]()
    room.force(1)
    first = asyncio.create_task(room.wait(1, soon()))
    await until(lambda: room.waiting == 1)
    second = asyncio.create_task(taker(room, "second", 1, order))
    await until(lambda: room.waiting == 2)
    if woken:
        room.give(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    if not woken:
        assert room.waiting == 1
        room.give(1)
    await second
    assert room.used == 1


async def test_a_large_one_at_the_head_is_not_overtaken_by_waiters() -> None:
    room, order = Room(4), list[str]()
    room.force(4)
    large = asyncio.create_task(taker(room, "large", 4, order))
    await until(lambda: room.waiting == 1)
    small = asyncio.create_task(taker(room, "small", 1, order))
    await until(lambda: room.waiting == 2)
    room.give(3)
    room.give(1)
    await large
    assert order == ["large"]
    room.give(4)
    await small


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: seconds[0])
    return seconds


def test_retry_after_follows_the_rate_of_giving_back(clock: list[float]) -> None:
    room = Room(100)
    room.force(150)
    assert room.retry_after(1) == MAX_RETRY_AFTER
    clock[0] += RATE_WINDOW
    room.give(50)
    assert room.retry_after(50) == pytest.approx(1.0)
    assert room.retry_after(1) == MIN_RETRY_AFTER
    # The window has just begun: what was measured last still holds.
    assert room.retry_after(50) == pytest.approx(1.0)
    assert room.retry_after(1000) == MAX_RETRY_AFTER
    clock[0] += RATE_WINDOW
    assert room.retry_after(50) == MAX_RETRY_AFTER


def test_a_lease_goes_back_with_its_last_reference() -> None:
    budget = Budget(100)
    lease = budget.lease(40, "a")
    assert lease is not None
    other = lease
    del lease
    assert (budget.used, budget.held("a")) == (40, 40)
    del other
    assert (budget.used, budget.held("a")) == (0, 0)


def test_a_lease_grows_and_shrinks() -> None:
    budget = Budget(100)
    lease = budget.lease(10, "a")
    assert lease is not None
    assert lease.try_grow(90)
    assert not lease.try_grow(1)
    lease.grow(5)
    assert budget.used == 105
    lease.shrink_to(200)
    assert lease.size == 105
    lease.shrink_to(7)
    assert (lease.size, budget.used, budget.held("a")) == (7, 7, 7)
    lease.shrink_to(0)
    assert budget.held("a") == 0
    del lease
    assert budget.used == 0


def test_no_peer_holds_more_than_its_share() -> None:
    budget = Budget(800)
    first = budget.lease(800, "a")
    assert first is not None
    assert budget.lease(1, "a") is None
    first.shrink_to(400)
    assert budget.share("b") == 400
    assert budget.lease(401, "b") is None
    second = budget.lease(400, "b")
    assert second is not None
    assert budget.share("a") == 400
    assert budget.share("c") == 800 // 3
    del first, second
    others = [budget.lease(1, f"peer {number}") for number in range(20)]
    assert None not in others
    assert budget.share("late") == 800 // PEER_SHARE


async def test_admission_waits_for_the_budget() -> None:
    budget = Budget(100)
    first = budget.lease(100, "a")
    task = asyncio.create_task(budget.admit(30, "b", soon()))
    await until(lambda: budget.waiting == 1)
    del first
    lease = await task
    assert lease is not None
    assert budget.used == 30
    assert await budget.admit(80, "b", now() + 0.01) is None
    del lease, task
    assert budget.used == 0


async def test_admission_waits_for_the_peers_own_share_only() -> None:
    budget = Budget(100)
    small = budget.lease(10, "b")
    large = budget.lease(50, "a")
    assert large is not None
    task = asyncio.create_task(budget.admit(20, "a", soon()))
    await asyncio.sleep(0)
    assert "share" in str(budget.refusal(20, "a"))
    other = await budget.admit(20, "b", now())
    assert other is not None
    assert not task.done()
    large.shrink_to(20)
    lease = await task
    assert lease is not None
    assert budget.held("a") == 40
    del small, large, task, other, lease
    await asyncio.sleep(0)  # the loop still holds what it woke this task with
    assert budget.used == 0


def test_a_full_budget_says_so() -> None:
    budget = Budget(10)
    lease = budget.lease(10, "a")
    assert lease is not None
    refusal = budget.refusal(1, "b")
    assert "used up" in str(refusal)
    assert refusal.retry_after == MAX_RETRY_AFTER


class Memory:
    """A guard that lets nothing in until it `has_room`."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.has_room = False

    def __call__(self, amount: int) -> bool:
        self.asked.append(amount)
        return self.has_room


def test_memory_is_asked_for_what_is_large() -> None:
    budget, memory = Budget(10 * GUARDED_FROM), Memory()
    budget.guard = memory
    lease = budget.lease(GUARDED_FROM - 1, "a")
    assert lease is not None
    assert lease.try_grow(1)
    assert not memory.asked
    assert not lease.try_grow(GUARDED_FROM)
    assert budget.lease(GUARDED_FROM + 1, "b") is None
    refusal = budget.refusal(GUARDED_FROM + 1, "b")
    assert str(refusal) == "too much memory is in use"
    assert 0 < (refusal.retry_after or 0) <= MAX_RETRY_AFTER
    assert budget.lease(20 * GUARDED_FROM, "b") is None
    assert memory.asked == [GUARDED_FROM, GUARDED_FROM + 1]
    memory.has_room = True
    assert lease.try_grow(GUARDED_FROM)
    assert budget.used == 2 * GUARDED_FROM


async def test_admission_waits_for_memory() -> None:
    budget, memory = Budget(10 * GUARDED_FROM), Memory()
    budget.guard = memory
    assert await budget.admit(GUARDED_FROM, "a", now()) is None
    waiting = asyncio.create_task(budget.admit(GUARDED_FROM, "a", soon()))
    await until(lambda: len(memory.asked) == 3)
    assert budget.used == 0
    memory.has_room = True
    lease = await waiting
    assert lease is not None
    assert budget.used == lease.size == GUARDED_FROM


def test_senders_are_paced_by_the_backlog() -> None:
    budget = Budget(1 << 30)
    held = Lease(budget, 1 << 29, "a")
    assert budget.pace() == 0
    budget.backlog = PACED_ABOVE
    assert budget.pace() == 0
    budget.backlog += PACED_ABOVE // 2
    assert budget.pace() == pytest.approx(LONGEST_PACE / 2)
    budget.backlog += PACED_ABOVE * 9
    assert budget.pace() == LONGEST_PACE
    del held


def test_a_small_budget_paces_from_a_quarter_on() -> None:
    budget = Budget(4000)
    budget.backlog = 1000
    assert budget.pace() == 0
    budget.backlog = 2000
    assert budget.pace() == LONGEST_PACE


def test_followers_are_told_what_came_free() -> None:
    budget, freed = Budget(10), list[int]()
    budget.follow(freed.append)
    lease = budget.lease(10, "a")
    assert lease is not None
    lease.shrink_to(4)
    del lease
    assert freed == [6, 4]
    budget.unfollow(freed.append)
    budget.unfollow(freed.append)
    budget.lease(1, "a")
    assert freed == [6, 4]


class BudgetMachine(RuleBasedStateMachine):
    """However leases come and go, what is used is what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(1000)
        self.leases: list[Lease] = []
        self.forced = False

    peers = st.sampled_from("abc")

    @rule(amount=st.integers(0, 600), peer=peers)
    def lease(self, amount: int, peer: str) -> None:
        held, share = self.budget.held(peer), self.budget.share(peer)
        fits = self.budget.fits(amount) and held + amount <= share
        lease = self.budget.lease(amount, peer)
        assert (lease is not None) == fits
        if lease is not None:
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), amount=st.integers(0, 600))
    def grow(self, data: st.DataObject, amount: int) -> None:
        lease = self.leases[data.draw(st.integers(0, len(self.leases) - 1))]
        if not lease.try_grow(amount):
            lease.grow(amount)
            self.forced = True

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), size=st.integers(0, 600))
    def shrink(self, data: st.DataObject, size: int) -> None:
        lease = self.leases[data.draw(st.integers(0, len(self.leases) - 1))]
        before = lease.size
        lease.shrink_to(size)
        assert lease.size == min(before, size)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.leases) - 1))
        del self.leases[index]

    @invariant()
    def used_is_what_leases_hold(self) -> None:
        assert self.budget.used == sum(lease.size for lease in self.leases)
        assert self.budget.used >= 0
        assert self.forced or self.budget.used <= self.budget.limit
        for peer in "abc":
            held = sum(lease.size for lease in self.leases if lease.peer == peer)
            assert self.budget.held(peer) == held


TestBudgetMachine = BudgetMachine.TestCase


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(1, 25), st.integers(0, 3)), max_size=30),
)
def test_everybody_who_can_fit_gets_in(limit: int, wants: list[tuple[int, int]]) -> None:
    async def visit(room: Room, amount: int, stay: int) -> bool:
        while not room.take(amount):
            assert room.used <= room.limit
            if not await room.wait(amount, soon()):
                return False
        for _ in range(stay):
            await asyncio.sleep(0)
        assert 0 < room.used <= room.limit
        room.give(amount)
        return True

    async def main() -> None:
        room = Room(limit)
        results = await asyncio.gather(
            *(visit(room, amount, stay) for amount, stay in wants)
        )
        assert results == [amount <= limit for amount, _ in wants]
        assert (room.used, room.waiting) == (0, 0)
        assert room.fits(limit)

    asyncio.run(main())
