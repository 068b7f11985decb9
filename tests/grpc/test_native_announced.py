"""What is announced and doesn't come holds half of the budget at most."""

from __future__ import annotations

from k8strace.budget import Budget
from k8strace.grpc.native_announced import LARGE, Announced


def test_small_messages_are_not_announced() -> None:
    budget = Budget(10 * LARGE)
    announced = Announced(budget.limit // 2)
    lease = announced.reserve(budget, LARGE, "a")
    assert (budget.used, announced.used) == (LARGE, 0)
    del lease
    assert budget.used == 0


def test_a_peer_announces_half_of_it_at_the_most() -> None:
    budget = Budget(100 * LARGE)
    announced = Announced(budget.limit // 2)
    held = [announced.reserve(budget, 10 * LARGE, "a") for _ in range(3)]
    assert [one is None for one in held] == [False, False, True]
    assert announced.reserve(budget, 10 * LARGE, "b") is not None
    assert (budget.used, announced.used) == (20 * LARGE, 20 * LARGE)
    held.clear()
    assert (budget.used, announced.used) == (0, 0)


def test_the_largest_message_fits() -> None:
    budget = Budget(100 * LARGE)
    announced = Announced(budget.limit // 2)
    lease = announced.reserve(budget, 80 * LARGE, "a")
    assert (budget.used, announced.used) == (80 * LARGE, 25 * LARGE)
    del lease
    assert budget.lease(60 * LARGE, "b") is not None
    full = budget.lease(60 * LARGE, "b")
    assert announced.reserve(budget, 80 * LARGE, "a") is None
    assert announced.used == 0
    del full
