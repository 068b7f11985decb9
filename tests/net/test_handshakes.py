"""Few TLS handshakes at a time, the others in line, and who makes room."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from k8strace.budget import LEAST_UPKEEP, Budget
from k8strace.net import handshakes
from k8strace.net.handshakes import Handshakes
from k8strace.tls.incoming import HANDSHAKE_COST, OPENING_COST, Incoming
from tests.support.pipeline import until

FEW = LEAST_UPKEEP // HANDSHAKE_COST


class One:
    """A connection whose handshake is what a test says."""

    def __init__(self, room: Handshakes) -> None:
        self.room = room
        self.is_shaking = self.is_evicted = self.is_aborted = False

    def shake(self) -> None:
        self.is_shaking = True

    def evict(self) -> None:
        self.is_evicted = True
        self.room.failed(cast("Incoming", self), MemoryError())

    def abort(self) -> None:
        self.is_aborted = True


class Room(Handshakes):
    def __init__(self) -> None:
        self.budget = Budget(1)
        self.failures: list[Exception] = []
        super().__init__(self.budget.upkeep, lambda _, error: self.failures.append(error))

    def accept(self) -> Any:
        one = cast("Any", One(self))
        self.add(one)
        return one

    def ready(self) -> Any:
        one = self.accept()
        self.is_ready(one)
        return one


@pytest.fixture
async def room() -> Room:
    return Room()


async def test_who_is_ready_waits_for_its_turn(room: Room) -> None:
    used = room.budget.upkeep
    first = [room.ready() for _ in range(FEW)]
    assert all(one.is_shaking for one in first)
    waiting = [room.ready() for _ in range(2)]
    assert not any(one.is_shaking for one in waiting)
    assert len(room) == FEW + 2
    assert used.used == FEW * HANDSHAKE_COST + 2 * OPENING_COST
    room.opened(first[0])
    await until(lambda: waiting[0].is_shaking)
    assert not waiting[1].is_shaking
    for one in (*first, *waiting):
        room.opened(one)
    room.opened(waiting[0])
    assert (len(room), used.used, used.evictors) == (0, 0, [])


async def test_half_hellos_make_room_and_whole_ones_do_not(room: Room) -> None:
    halves = [room.accept() for _ in range(LEAST_UPKEEP // OPENING_COST)]
    another = room.accept()
    assert [one.is_evicted for one in halves[:2]] == [True, False]
    one = room.ready()
    assert one.is_shaking
    assert halves[1].is_evicted
    assert not another.is_evicted
    for half in (*halves, another):
        if not half.is_evicted:
            room.opened(half)
    shaking = [one, *(room.ready() for _ in range(FEW - 1))]
    while room.budget.upkeep.take(1024):
        pass
    with pytest.raises(MemoryError, match="no memory for more TLS handshakes"):
        room.accept()
    assert not any(each.is_evicted for each in shaking)


async def test_who_does_not_go_on_makes_room_for_who_waits(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = [room.ready() for _ in range(FEW)]
    waiting = room.ready()
    monkeypatch.setattr(handshakes, "PATIENCE", -1.0)
    await until(lambda: waiting.is_shaking)
    assert [one.is_evicted for one in stalled] == [True] + [False] * (FEW - 1)
    assert len(room.failures) == 1


async def test_who_waits_sees_what_comes_free_elsewhere(room: Room) -> None:
    held = LEAST_UPKEEP - HANDSHAKE_COST + 1
    assert room.budget.upkeep.take(held)
    one = room.ready()
    assert not one.is_shaking
    room.budget.upkeep.give(held)
    await until(lambda: one.is_shaking)


async def test_all_are_broken_off_at_the_end(room: Room) -> None:
    ones = [*(room.ready() for _ in range(FEW + 1)), room.accept()]
    room.stop()
    assert all(one.is_aborted for one in ones)
    assert (len(room), room.budget.upkeep.used) == (0, 0)


async def test_without_an_upkeep_nobody_waits() -> None:
    room = Handshakes(None, lambda *_: None)
    ones = [cast("Any", One(room)) for _ in range(100)]
    for one in ones:
        room.add(one)
        room.is_ready(one)
    assert all(one.is_shaking for one in ones)
    for one in ones:
        room.opened(one)
    assert not len(room)
    await asyncio.sleep(0)
