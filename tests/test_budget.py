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
    LEAST_SHARE,
    LEAST_UPKEEP,
    LONGEST_PACE,
    MAX_RETRY_AFTER,
    MIN_RETRY_AFTER,
    PACED_ABOVE,
    PEER_SHARE,
    RATE_WINDOW,
    UPKEEP_FLOOR,
    UPKEEP_SHARE,
    Budget,
    Lease,
    Room,
)
from tests.support.pipeline import MIB, until


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


async def test_half_of_what_comes_free_is_saved_for_the_first() -> None:
    room, order = Room(8), list[str]()
    room.force(8)
    large = asyncio.create_task(taker(room, "large", 6, order))
    await until(lambda: room.waiting == 1)
    small = asyncio.create_task(taker(room, "small", 1, order))
    await until(lambda: room.waiting == 2)
    room.give(4)
    await small
    assert room.used == 5
    assert room.fits(1)
    assert not room.fits(2), "two are saved for the large one"
    room.give(3)
    await large
    assert order == ["small", "large"]
    assert room.used == 8


async def test_what_is_saved_is_free_again_when_nobody_waits() -> None:
    room = Room(8)
    room.force(8)
    task = asyncio.create_task(room.wait(6, soon()))
    await until(lambda: room.waiting == 1)
    room.give(4)
    assert room.fits(2)
    assert not room.fits(3)
    task.cancel()
    await asyncio.wait([task])
    await until(lambda: room.fits(4))


async def test_who_waits_for_much_is_not_overtaken_for_ever() -> None:
    """Senders of little take what comes free as soon as it does."""
    budget, let_in = Budget(64), list[Lease | None]()
    held = [Lease(budget, 1, f"peer {number % 8}") for number in range(64)]
    task = asyncio.create_task(budget.admit(7, "large", soon()))
    await until(lambda: budget.waiting == 1)
    rounds = 0
    while not task.done():
        rounds += 1
        peer = held.pop(0).peer
        let_in.append(budget.lease(1, peer))
        held += [one for one in let_in[-1:] if one is not None]
        await asyncio.sleep(0)
        assert rounds < 100
    assert await task is not None
    assert any(let_in), "they go on meanwhile"


async def test_many_that_wait_are_all_let_in() -> None:
    room = Room(100)
    room.force(100)
    tasks = [asyncio.create_task(room.wait(1, soon())) for _ in range(100)]
    await until(lambda: room.waiting == 100)
    room.give(100)
    assert await asyncio.gather(*tasks) == [True] * 100


async def test_who_waits_for_its_own_share_is_not_overtaken_by_itself() -> None:
    budget = Budget(80)
    other = budget.lease(1, "b")
    held = [budget.lease(1, "a") for _ in range(40)]
    task = asyncio.create_task(budget.admit(4, "a", soon()))
    await asyncio.sleep(0)
    for _ in range(8):
        held.pop(0)
        lease = budget.lease(1, "a")
        if lease is not None:
            held.append(lease)
        await asyncio.sleep(0)
    assert await task is not None
    del other


# What connections hold


def test_some_connections_fit_beside_any_budget() -> None:
    budget = Budget(1600 * MIB)
    full = Lease(budget, 1600 * MIB, "a")
    upkeep = budget.upkeep
    assert upkeep.take(1600 * MIB // UPKEEP_FLOOR)
    assert budget.used == 1600 * MIB
    assert not upkeep.take(1)
    full.shrink_to(1500 * MIB)
    assert upkeep.take(100 * MIB)
    assert (upkeep.used, budget.used) == (200 * MIB, 1600 * MIB)
    upkeep.give(150 * MIB)
    assert (upkeep.used, budget.used) == (50 * MIB, 1500 * MIB)
    upkeep.give(50 * MIB)
    assert upkeep.used == 0


def test_a_handful_of_connections_fits_beside_a_tiny_budget() -> None:
    budget = Budget(1)
    assert budget.upkeep.take(LEAST_UPKEEP)
    assert budget.used == 0
    assert not budget.upkeep.take(1)


def test_connections_take_a_part_of_the_budget_at_most() -> None:
    budget = Budget(1600 * MIB)
    assert budget.upkeep.limit == 1600 * MIB // UPKEEP_SHARE
    assert budget.upkeep.take(400 * MIB)
    assert not budget.upkeep.take(1)
    assert budget.used == 300 * MIB


def test_connections_need_memory_too() -> None:
    budget, memory = Budget(1600 * MIB), Memory(0)
    budget.guard = memory
    held = Lease(budget, 300 * MIB, "a")
    assert budget.upkeep.take(100 * MIB)
    assert not budget.upkeep.take(1)
    memory.left = 10
    assert budget.upkeep.take(10)
    del held


def test_what_is_announced_has_half_and_a_peer_half_of_that() -> None:
    budget = Budget(800)
    coming = budget.coming
    first = coming.lease(coming.amount(1000), "a")
    assert first is not None
    assert (first.size, coming.used, budget.used) == (200, 200, 0)
    assert coming.lease(1, "a") is None
    second = coming.lease(200, "b")
    assert second is not None
    assert coming.lease(1, "c") is None
    budget.limit = 400
    assert coming.lease(1, "c") is None
    del first, second
    assert coming.lease(100, "c") is not None
    assert coming.lease(101, "c") is None


def test_what_is_held_beside_a_message_is_in_its_lease() -> None:
    budget = Budget(1000, per_lease=100)
    lease = budget.lease(50, "a")
    assert lease is not None
    assert (lease.size, lease.beside, lease.held, budget.used) == (50, 100, 150, 150)
    assert lease.attach(40)
    assert not lease.attach(1000)
    other = lease.resized(10)
    assert (other.size, other.beside, other.peer) == (10, 140, "a")
    lease.shrink_to(0)
    assert lease.held == 140
    del lease
    assert budget.used == other.held == 150
    assert budget.lease(900 - 150, "a") is None
    del other
    assert budget.used == 0


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
    assert lease.try_grow(78)
    assert not lease.try_grow(1)
    lease.grow(17)
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
    assert budget.share("a") == 700
    first = budget.lease(700, "a")
    assert first is not None
    assert budget.lease(1, "a") is None
    assert "its share of the memory budget of" in str(budget.refusal(1, "a"))
    other = budget.lease(100, "b")
    assert other is not None, "who is alone leaves an eighth"
    del other
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


def test_who_is_alone_leaves_an_eighth_of_what_is_shared() -> None:
    budget = Budget(1000)
    budget.shared = 800
    assert budget.lease(875, "a") is not None, "nobody holds anything"
    first = budget.lease(100, "a")
    assert first is not None
    assert budget.share("a") == 700
    assert first.try_grow(600)
    assert not first.try_grow(1)
    assert budget.lease(100, "b") is not None


def test_a_message_fits_into_a_share_of_little() -> None:
    """As where the soft limit of memory leaves next to nothing of a large budget."""
    budget = Budget(16 * MIB)
    budget.shared = MIB
    first = budget.lease(MIB, "a")
    second = budget.lease(MIB, "a")
    assert None not in (first, second)
    assert budget.lease(2 * MIB, "b") is not None
    assert budget.share("b") == 2 * MIB
    budget.limit = 1024 * MIB
    assert budget.share("b") == LEAST_SHARE


async def test_admission_waits_for_the_budget() -> None:
    budget = Budget(100)
    first = Lease(budget, 100, "a")
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
    budget.force(10)
    refusal = budget.refusal(1, "b")
    assert "used up" in str(refusal)
    assert refusal.retry_after == MAX_RETRY_AFTER


class Memory:
    """A guard that says how much is `left`."""

    def __init__(self, left: int = 0) -> None:
        self.asked = 0
        self.left = left

    def __call__(self, amount: int) -> int:
        assert amount > 0
        self.asked += 1
        return self.left


def test_memory_is_read_again_when_what_it_had_left_is_granted() -> None:
    budget, memory = Budget(1000), Memory(300)
    budget.guard = memory
    leases = [budget.lease(150, "a")]
    assert memory.asked == 1
    leases.append(budget.lease(150, "b"))
    assert memory.asked == 1
    assert leases[0] is not None
    memory.left = 10
    assert not leases[0].try_grow(11)
    assert memory.asked == 2
    assert budget.lease(11, "c") is None
    refusal = budget.refusal(11, "c")
    assert str(refusal) == "too much memory is in use"
    assert 0 < (refusal.retry_after or 0) <= MAX_RETRY_AFTER
    assert leases[0].try_grow(10)
    assert budget.used == 310


def test_what_is_freed_may_still_be_resident() -> None:
    budget, memory = Budget(1000), Memory(500)
    budget.guard = memory
    lease = budget.lease(400, "a")
    assert lease is not None
    del lease
    memory.left = 100
    assert budget.lease(200, "a") is None
    assert memory.asked == 2


def test_what_is_forced_counts_in_what_memory_had_left() -> None:
    budget, memory = Budget(1000), Memory(500)
    budget.guard = memory
    lease = budget.lease(1, "a")
    assert lease is not None
    lease.grow(300)
    memory.left = 200
    assert budget.lease(201, "b") is None
    assert memory.asked == 2


def test_an_eighth_may_be_held_whatever_memory_has_left() -> None:
    budget = Budget(800)
    budget.guard = Memory(-50)
    lease = budget.lease(100, "a")
    assert lease is not None
    assert budget.lease(1, "b") is None


async def test_admission_waits_for_memory() -> None:
    budget, memory = Budget(1000), Memory()
    budget.guard = memory
    assert await budget.admit(200, "a", now()) is None
    waiting = asyncio.create_task(budget.admit(200, "a", soon()))
    await until(lambda: memory.asked == 3)
    assert budget.used == 0
    memory.left = 200
    lease = await waiting
    assert lease is not None
    assert budget.used == lease.size == 200


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
    lease = Lease(budget, 10, "a")
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
