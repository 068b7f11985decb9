"""What is announced and doesn't come holds half of the budget at most."""

from __future__ import annotations

import asyncio

from k8strace.budget import Budget
from k8strace.grpc.native_announced import admit, reserve


def test_what_is_here_already_is_not_announced() -> None:
    budget = Budget(1000)
    lease = reserve(budget, "a", 100, 0)
    assert (budget.used, budget.coming.used) == (100, 0)
    del lease
    assert budget.used == 0


def test_a_peer_announces_half_of_it_at_the_most() -> None:
    budget = Budget(1000)
    held = [reserve(budget, "a", 100, 1) for _ in range(3)]
    assert [one is None for one in held] == [False, False, True]
    assert reserve(budget, "b", 100, 1) is not None
    assert (budget.used, budget.coming.used) == (200, 200)
    held.clear()
    assert (budget.used, budget.coming.used) == (0, 0)


def test_small_messages_are_announced_as_large_ones_are() -> None:
    budget = Budget(1000)
    held = [reserve(budget, f"peer {number % 8}", 1, 1) for number in range(1000)]
    assert budget.used == budget.coming.used == 500
    held.clear()


def test_the_largest_message_fits() -> None:
    budget = Budget(1000)
    lease = reserve(budget, "a", 800, 800)
    assert (budget.used, budget.coming.used) == (800, 250)
    del lease
    full = budget.lease(600, "b")
    assert reserve(budget, "a", 800, 800) is None
    assert budget.coming.used == 0
    del full


async def test_a_message_waits_until_others_have_come() -> None:
    budget = Budget(1000)
    loop = asyncio.get_running_loop()
    first = reserve(budget, "a", 250, 1)
    assert first is not None
    assert await admit(budget, 10, "a", loop.time()) is None
    task = asyncio.create_task(admit(budget, 10, "a", loop.time() + 30))
    await asyncio.sleep(0)
    assert not task.done()
    del first
    assert await task is not None
