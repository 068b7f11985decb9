"""Room for the TLS handshakes of a listener: a few at a time, the others wait in line.

While its ClientHello has not come whole a handshake holds little, and makes room for
others, the oldest first. One whose ClientHello is here waits until there is room for what
a handshake may take at the worst. One that the client does not go on with for `PATIENCE`
makes room, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain

from k8strace.budget import UNSERVED, Upkeep, Victim
from k8strace.tls.incoming import HANDSHAKE_COST, NO_ROOM, OPENING_COST, Incoming

PATIENCE = 0.5  # seconds for the client's part while others wait
LOOK_AGAIN = 0.1  # seconds until it is seen what has come free elsewhere

Failed = Callable[[Incoming, Exception], None]


class Handshakes:
    """Those of a listener, which hold bytes of `upkeep`, if there is one.

    `on_failure` is told of those that come to nothing; MemoryError says that they had to
    make room.
    """

    def __init__(self, upkeep: Upkeep | None, on_failure: Failed) -> None:
        self._upkeep = upkeep
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        # Each since when, the oldest first.
        self._opening: dict[Incoming, float] = {}
        self._line: dict[Incoming, float] = {}
        self._shaking: dict[Incoming, float] = {}
        self._look: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._opening) + len(self._line) + len(self._shaking)

    def add(self, one: Incoming) -> None:
        """Have room for one that is accepted. Raises MemoryError."""
        if not self._take(OPENING_COST, one):
            raise MemoryError(NO_ROOM)
        if not len(self) and self._upkeep is not None:
            self._upkeep.evictors.append(self._victim)
        self._opening[one] = self._loop.time()

    def stop(self) -> None:
        """Break all off."""
        for one in tuple(chain(self._opening, self._line, self._shaking)):
            one.abort()
            self.opened(one)

    def _take(self, amount: int, one: Incoming) -> bool:
        upkeep = self._upkeep
        while upkeep is not None and not upkeep.take(amount):
            if not upkeep.evict(one):
                return False
        return True

    def _victim(self, by: object) -> Victim | None:
        for one, since in self._opening.items():
            if one is not by:
                return Victim(UNSERVED, since, one.evict)
        for one, since in self._shaking.items():
            if self._loop.time() - since > PATIENCE:
                return Victim(UNSERVED, since, one.evict)
            break
        return None

    def _go_on(self) -> None:
        """Let those in line begin, as far as there is room."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        while self._line:
            one = next(iter(self._line))
            if not self._take(HANDSHAKE_COST - OPENING_COST, one):
                self._look = self._loop.call_later(LOOK_AGAIN, self._go_on)
                return
            del self._line[one]
            self._shaking[one] = self._loop.time()
            one.shake()

    # As the owner of connections

    def is_ready(self, one: Incoming) -> None:
        self._line[one] = self._opening.pop(one)
        if len(self._line) == 1:
            self._go_on()

    def opened(self, one: Incoming) -> None:
        for group in (self._opening, self._line, self._shaking):
            if group.pop(one, None) is not None:
                break
        else:
            return
        if self._upkeep is None:
            return
        self._upkeep.give(HANDSHAKE_COST if group is self._shaking else OPENING_COST)
        if not len(self):
            self._upkeep.evictors.remove(self._victim)
        elif self._line:
            self._loop.call_soon(self._go_on)

    def failed(self, one: Incoming, error: Exception) -> None:
        self.opened(one)
        self._on_failure(one, error)
