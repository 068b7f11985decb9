"""What connections share: room, and what is done where it is used up."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from k8strace.budget import LEAST_UPKEEP, Budget
from k8strace.net import site
from k8strace.net.site import Limits, Shared


class One:
    """A connection of which nothing but its place is there."""

    def __init__(self, shared: Shared, since: float = 0.0, *, is_idle: bool = True) -> None:
        self.shared = shared
        self.since = since
        self.is_idle = is_idle
        self.is_aborted = False
        self.held = 0

    def take(self, size: int) -> bool:
        taken = self.shared.take(size, self)
        self.held += size if taken else 0
        return taken

    def drain(self) -> None: ...

    def look_after(self, now: float) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True

    def evict(self) -> None:
        self.shared.forget(self)
        self.shared.site.give(self.held)
        self.abort()


@pytest.fixture
async def shared() -> Shared:
    return Shared(cast("Any", Budget(1).upkeep), Limits(), asyncio.get_running_loop())


async def test_who_brought_no_request_goes_first_and_for_new_ones_alone(
    shared: Shared,
) -> None:
    half = LEAST_UPKEEP // 2
    silent, served, new = (One(shared, asyncio.get_running_loop().time()) for _ in "abc")
    for one in (silent, served):
        assert one.take(half)
        shared.connections[one] = None
    shared.unserved[silent] = None
    assert not silent.take(1)
    assert new.take(half)
    assert (silent.is_aborted, served.is_aborted) == (True, False)
    # Nobody is left who was idle for long.
    assert not new.take(1)


async def test_who_was_idle_for_longest_goes_next(shared: Shared) -> None:
    now = asyncio.get_running_loop().time()
    half = LEAST_UPKEEP // 2
    idle, busy = One(shared, now - 10), One(shared, now - 20, is_idle=False)
    for one in (idle, busy):
        assert one.take(half)
        shared.connections[one] = None
    assert One(shared).take(half)
    assert (idle.is_aborted, busy.is_aborted) == (True, False)


async def test_responses_that_are_not_taken_are_bounded(shared: Shared) -> None:
    first, second = One(shared), One(shared)
    shared.hold(first, site.MAX_UNSENT)
    shared.let_go(first)
    shared.hold(first, site.MAX_UNSENT)
    assert not first.is_aborted
    shared.hold(second, 1)
    assert (first.is_aborted, second.is_aborted) == (True, False)
    shared.let_go(first)
    shared.hold(One(shared), site.MAX_UNSENT - 1)
    assert not second.is_aborted
