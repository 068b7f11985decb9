"""Room: the one way in which anything here is bounded.

A `Room` holds a limited amount of something (bytes, spans, requests). Who wants in takes
room or waits for it, in order of arrival. `Budget` is the process's room for payload
bytes; it hands out a `Lease`, which a payload carries and which gives its bytes back when
the last payload that shares it is gone. So bytes are counted as long as something holds
them, and given back exactly once, on every way out.
"""

from asyncio import Future
from collections import OrderedDict
from collections.abc import Callable
from typing import final

from typing_extensions import disjoint_base

from k8strace.errors import RefusedError

MIN_RETRY_AFTER: float
MAX_RETRY_AFTER: float
RATE_WINDOW: float
"""Seconds over which the rate of giving back is measured."""
PEER_SHARE: int
"""One peer may always hold this part (1/8) of the budget."""
ASK_AGAIN: float
"""Seconds after which memory is asked again."""
GUARDED_FROM: int
PACED_ABOVE: int
LONGEST_PACE: float
"""Seconds; reached at twice the bytes above which senders are paced."""

@disjoint_base
class Room:
    """A bounded amount; `limit` and `used` are in whatever unit its owner counts."""

    limit: int
    used: int
    @property
    def _promised(self) -> int:
        """To those who were woken and have not run yet."""

    @property
    def _waiters(self) -> OrderedDict[Future[bool], int]: ...
    def __init__(self, limit: int) -> None: ...
    @property
    def waiting(self) -> int:
        """How many wait for room."""

    def fits(self, amount: int) -> bool: ...
    def take(self, amount: int) -> bool:
        """Take `amount` if it fits, say whether it did."""

    def force(self, amount: int) -> None:
        """Take `amount` even past the limit: for what is here already and only moves."""

    def give(self, amount: int) -> None:
        """Give `amount` back and wake those whose turn it is."""

    def _wake(self) -> None: ...
    async def wait(self, amount: int, until: float) -> bool:
        """Wait until `amount` fits, at most until the loop's time `until` (inf: for ever).

        Nothing is taken: the caller takes in the same step in which it wakes, or waits
        again. Returns False when the time is over or `amount` can never fit.
        """

    def retry_after(self, amount: int) -> float:
        """Seconds until `amount` may fit, from the rate at which room was given back."""

@disjoint_base
class Budget(Room):
    """The room for payload bytes, of which no peer holds more than its fair share.

    `backlog` are those that sending queues have and their destinations have not taken yet;
    what is parked for another reason is none.
    """

    backlog: int
    guard: Callable[[int], bool] | None
    """Asked, too, for `GUARDED_FROM` bytes and more: whether memory has room for them."""

    def follow(self, freed: Callable[[int], None]) -> None:
        """Call `freed` with the amount whenever bytes were given back."""

    def unfollow(self, freed: Callable[[int], None]) -> None:
        """Undo `follow`; nothing to undo is fine."""

    def lease(self, amount: int, peer: str) -> Lease | None:
        """Reserve `amount` bytes for `peer`, or None where budget or share is used up."""

    async def admit(self, amount: int, peer: str, until: float) -> Lease | None:
        """A lease as soon as there is room, None when there is none by `until`.

        `until` is the loop's time. A peer that is over its share waits for itself only.
        """

    async def opens(self, amount: int, peer: str, until: float) -> bool:
        """Wait until the budget and the share of `peer` have `amount`; False at `until`."""

    def refusal(self, amount: int, peer: str) -> RefusedError:
        """What to answer `peer`, for whose `amount` there is no room."""

    def pace(self) -> float:
        """Seconds to let pass after a request before its sender is read on from.

        More than nothing where the backlog is above `PACED_ABOVE` bytes, or a quarter of a
        smaller budget. Senders then come to go at the pace of the slowest destination,
        long before there is no room and they have to be refused.
        """

    def share(self, peer: str) -> int:
        """The bytes that `peer` may hold: its fair share, at least an eighth of all."""

    def held(self, peer: str) -> int: ...

@final
class Lease:
    """Bytes of a budget, given back when the last reference goes."""

    @property
    def budget(self) -> Budget: ...
    @property
    def peer(self) -> str: ...
    @property
    def size(self) -> int: ...
    def __init__(self, budget: Budget, size: int, peer: str) -> None: ...
    def grow(self, amount: int) -> None:
        """Add `amount` bytes, even past the limit."""

    def try_grow(self, amount: int) -> bool:
        """Add `amount` bytes if budget and the peer's share have them."""

    def shrink_to(self, size: int) -> None:
        """Give back what is above `size`; it never grows."""
