"""The connections of a server, and which of them goes where there is no room for another.

The room (`budget.Upkeep`) is that of all servers of the process, and so is who makes way.
First go connections that never brought a request, the oldest before the others; then the
one that holds most, if that is much; then the one that is idle for longest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from k8strace.budget import HOLDS_MUCH, IDLE, UNSERVED, Upkeep, Victim

MUCH = 64 * 1024  # bytes that a connection holds besides its cost, and is closed for
IDLE_AFTER = 1.0  # seconds without a request, after which a connection may be closed
LOOK_AGAIN = 0.1  # seconds between two looks at all connections, at least


class Evictable(Protocol):
    """A connection that can be closed to make room."""

    @property
    def held(self) -> int:
        """Bytes of upkeep besides what each connection costs."""

    @property
    def since(self) -> float:
        """The loop's time of its last whole request, or of its beginning."""

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is being answered; half a one counts as none."""

    def evict(self) -> None:
        """Give back what is held, and close."""


C = TypeVar("C", bound=Evictable)


class Connections(Generic[C]):
    """Those of a server: they take what they hold by `take`, from `upkeep`.

    Without an upkeep they make room for each other alone. `now` is the loop's time.
    """

    def __init__(
        self, take: Callable[[int], bool], upkeep: Upkeep | None, now: Callable[[], float]
    ) -> None:
        self.connections: dict[C, None] = {}
        self.unserved: dict[C, float] = {}  # that never brought a request, since when
        self._take = take
        self._upkeep = upkeep
        self._now = now
        self._ranked: list[tuple[int, float, C]] = []  # who goes first is the last
        self._looked_at = float("-inf")

    def add(self, one: C) -> None:
        if not self.connections and self._upkeep is not None:
            self._upkeep.evictors.append(self.victim)
        self.connections[one] = None
        self.unserved[one] = self._now()

    def remove(self, one: C) -> None:
        """Forget one that has ended; nothing to forget is fine."""
        if one not in self.connections:
            return
        del self.connections[one]
        self.unserved.pop(one, None)
        if not self.connections:
            self._ranked.clear()
            if self._upkeep is not None:
                self._upkeep.evictors.remove(self.victim)

    def take(self, size: int, by: C | None = None) -> bool:
        """Have `size` bytes of upkeep for `by`, if need be at the cost of others.

        Nobody has to go for one that has not brought a request yet, unless it is new.
        """
        while not self._take(size):
            if by in self.unserved:
                return False
            if not (self if self._upkeep is None else self._upkeep).evict(by):
                return False
        return True

    def evict(self, by: C | None = None) -> bool:
        """Close a connection of this server that isn't `by`; False: there is none."""
        victim = self.victim(by)
        if victim is None:
            return False
        victim.evict()
        return True

    def victim(self, by: object) -> Victim | None:
        for one, since in self.unserved.items():
            if one is not by:
                return Victim(UNSERVED, since, one.evict)
        now = self._now()
        if not self._ranked and now - self._looked_at >= LOOK_AGAIN:
            # Not each time: whoever is refused asks again, and there may be thousands.
            self._looked_at = now
            ranks = ((*rank, one) for one in self.connections if (rank := _rank(one, now)))
            self._ranked = sorted(ranks, key=lambda ranked: ranked[:2], reverse=True)
        skipped = None
        found = None
        while self._ranked and found is None:
            *_, one = self._ranked[-1]
            rank = _rank(one, now) if one in self.connections else None
            if one is by and skipped is None:
                skipped = self._ranked.pop()
            elif rank is None:
                self._ranked.pop()
            else:
                found = Victim(*rank, one.evict)
        if skipped is not None:
            self._ranked.append(skipped)
        return found


def _rank(one: Evictable, now: float) -> tuple[int, float] | None:
    """Where it stands among those that may be closed; None: it may not."""
    held = one.held
    if held > MUCH:
        return HOLDS_MUCH, -float(held)
    since = one.since
    if one.is_idle and now - since > IDLE_AFTER:
        return IDLE, since
    return None
