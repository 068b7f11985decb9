"""What connections share: responses that their clients do not take."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from k8strace.budget import Budget
from k8strace.net import site
from k8strace.net.site import Limits, Shared


class One:
    """A connection of which nothing but its place is there."""

    is_idle = True
    since = 0.0
    held = 0

    def __init__(self) -> None:
        self.is_aborted = False

    def drain(self) -> None: ...

    def look_after(self, now: float) -> None: ...

    def evict(self) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True


@pytest.fixture
async def shared() -> Shared:
    return Shared(cast("Any", Budget(1).upkeep), Limits(), asyncio.get_running_loop())


async def test_responses_that_are_not_taken_are_bounded(shared: Shared) -> None:
    first, second = One(), One()
    shared.hold(first, site.MAX_UNSENT)
    shared.let_go(first)
    shared.hold(first, site.MAX_UNSENT)
    assert not first.is_aborted
    shared.hold(second, 1)
    assert (first.is_aborted, second.is_aborted) == (True, False)
    shared.let_go(first)
    shared.hold(One(), site.MAX_UNSENT - 1)
    assert not second.is_aborted
