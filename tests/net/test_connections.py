"""Who makes room where connections have used it up, over all servers of a process."""

from __future__ import annotations

import pytest

from k8strace.budget import LEAST_UPKEEP, Budget, Upkeep
from k8strace.net.connections import LOOK_AGAIN, MUCH, Connections

HALF = LEAST_UPKEEP // 2


class Clock:
    """The loop's time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class One:
    """A connection of which nothing but its place is there."""

    def __init__(
        self,
        server: Server,
        cost: int,
        *,
        since: float = 0.0,
        held: int = 0,
        is_idle: bool = True,
        is_served: bool = False,
    ) -> None:
        self.server, self.cost = server, cost
        self.since, self.held, self.is_idle = since, held, is_idle
        self.is_evicted = False
        self.is_in = server.take(cost + held, self)
        if self.is_in:
            server.add(self)
        if is_served:
            del server.unserved[self]

    def evict(self) -> None:
        self.is_evicted = True
        self.server.remove(self)
        self.server.upkeep.give(self.cost + self.held)


class Server(Connections[One]):
    def __init__(self, upkeep: Upkeep, clock: Clock) -> None:
        super().__init__(upkeep.take, upkeep, clock)
        self.upkeep = upkeep


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def upkeep() -> Upkeep:
    return Budget(1).upkeep


@pytest.fixture
def servers(upkeep: Upkeep, clock: Clock) -> tuple[Server, Server]:
    return Server(upkeep, clock), Server(upkeep, clock)


def test_the_oldest_that_brought_no_request_goes_first_whatever_server_it_has(
    servers: tuple[Server, Server], clock: Clock
) -> None:
    one, other = servers
    served = One(one, HALF // 2, since=1.0, is_served=True)
    young = One(one, HALF // 2)
    clock.now = 99.0
    old = [One(other, HALF // 2) for _ in range(2)]
    news = [One(one, HALF // 2) for _ in range(2)]
    assert [each.is_evicted for each in (*old, young, served)] == [True, True, False, False]
    # Nobody goes for one that brought none itself.
    assert not one.take(1, news[0])
    assert not other.connections


def test_then_goes_who_holds_most_and_then_who_was_idle_for_longest(
    servers: tuple[Server, Server],
) -> None:
    one, other = servers
    size = HALF // 4
    idle = [One(one, size, since=20.0 - number, is_served=True) for number in range(2)]
    busy = One(one, size, since=1.0, is_idle=False, is_served=True)
    recent = One(one, size, since=99.5, is_served=True)
    heavy = One(other, size, held=MUCH + 1, since=99.0, is_idle=False, is_served=True)
    heaviest = One(other, size, held=MUCH + 2, is_idle=False, is_served=True)
    filler = LEAST_UPKEEP - one.upkeep.used
    assert one.take(filler)
    order: list[One] = []
    for _ in range(4):
        assert one.take(size, recent)
        gone = (each for each in (*idle, busy, heavy, heaviest) if each.is_evicted)
        order.extend(each for each in gone if each not in order)
        while one.upkeep.take(1024):
            pass
    assert order == [heaviest, heavy, idle[1], idle[0]]
    assert not one.take(size, recent)
    assert not busy.is_evicted


def test_who_takes_more_does_not_go_for_itself(servers: tuple[Server, Server]) -> None:
    one, _ = servers
    heavy = One(one, HALF, held=MUCH + 1, is_served=True)
    idle = One(one, HALF - MUCH - 1, is_served=True)
    assert one.take(1, heavy)
    assert (heavy.is_evicted, idle.is_evicted) == (False, True)
    assert not one.take(LEAST_UPKEEP, heavy)
    assert not heavy.is_evicted


def test_all_connections_are_looked_at_once_in_a_while(
    servers: tuple[Server, Server], clock: Clock
) -> None:
    one, _ = servers
    busy = One(one, LEAST_UPKEEP, is_idle=False, is_served=True)
    assert not one.take(1)
    busy.is_idle = True
    assert not one.take(1)
    clock.now += 2 * LOOK_AGAIN
    assert one.take(1)
    assert busy.is_evicted


def test_connections_of_a_server_make_room_for_its_own(
    servers: tuple[Server, Server],
) -> None:
    one, other = servers
    silent, others = One(one, 1), One(other, 1)
    assert one.evict()
    assert (silent.is_evicted, others.is_evicted) == (True, False)
    assert not one.evict()


def test_without_an_upkeep_they_make_room_for_each_other(clock: Clock) -> None:
    upkeep = Budget(1).upkeep
    server: Connections[One] = Connections(upkeep.take, None, clock)
    server.upkeep = upkeep  # type: ignore[attr-defined]
    first = One(server, LEAST_UPKEEP)  # type: ignore[arg-type]
    assert server.take(1)
    assert first.is_evicted
    assert not upkeep.evictors
