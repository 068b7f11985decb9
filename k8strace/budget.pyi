"""Room: the one way in which anything here is bounded.

A `Room` holds a limited amount of something (bytes, spans, requests). Who wants in takes
room or waits for it, in order of arrival. `Budget` is the process's room for payload
bytes; it hands out a `Lease`, which a payload carries and which gives its bytes back when
the last payload that shares it is gone. So bytes are counted as long as something holds
them, and given back exactly once, on every way out. What connections hold besides messages
is counted by the budget's `Upkeep`.
"""

from asyncio import Future
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Self, final

from typing_extensions import disjoint_base

from k8strace.errors import RefusedError

MIN_RETRY_AFTER: float
MAX_RETRY_AFTER: float
RATE_WINDOW: float
"""Seconds over which the rate of giving back is measured."""
PEER_SHARE: int
"""One peer may always hold this part (1/8) of the budget."""
LEAST_SHARE: int
"""Bytes; so much of it a peer may hold also where less is shared."""
UPKEEP_SHARE: int
"""Connections may hold this part (1/4) of the budget besides messages."""
UPKEEP_FLOOR: int
"""This part (1/16) of the budget's size is beside it, for connections alone."""
LEAST_UPKEEP: int
"""Bytes; connections have as many beside any budget."""
ASK_AGAIN: float
"""Seconds after which memory is asked again."""
PACED_ABOVE: int
LONGEST_PACE: float
"""Seconds; reached at twice the bytes above which senders are paced."""

@disjoint_base
class Room:
    """A bounded amount; `limit` and `used` are in whatever unit its owner counts.

    Who waits is not overtaken for ever: half of all that comes free is saved for the first
    in line until it fits. The rest is for those behind it, and for who comes anew.
    """

    limit: int
    used: int
    @property
    def _promised(self) -> int:
        """To those who were woken and have not run yet."""

    @property
    def _saved(self) -> int:
        """Of what came free, for the first that waits."""

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
    payloads that wait for another reason are not in it. `per_lease` bytes are charged for
    each lease, besides its size.
    """

    backlog: int
    shared: int
    """How much of the limit peers share, 0 for all: somebody closes the way above it."""
    guard: Callable[[int], int] | None
    """Asked for an amount, says how many bytes more can be resident, be it less. Asked
    again when as many were granted."""

    @property
    def per_lease(self) -> int: ...
    @property
    def upkeep(self) -> Upkeep: ...
    @property
    def coming(self) -> Coming: ...
    @property
    def budget(self) -> Budget:
        """Itself, as those who stand in front of it have it."""

    def __init__(self, limit: int, *, per_lease: int = 0) -> None: ...
    def follow(self, freed: Callable[[int], None]) -> None:
        """Call `freed` with the amount whenever bytes were given back."""

    def unfollow(self, freed: Callable[[int], None]) -> None:
        """Undo `follow`; nothing to undo is fine."""

    def lease(self, amount: int, peer: str, beside: int = -1) -> Lease | None:
        """Reserve `amount` bytes for `peer`, or None where budget or share is used up.

        `beside` is `per_lease` unless it is given, as in `Lease`.
        """

    async def admit(
        self, amount: int, peer: str, until: float, beside: int = -1
    ) -> Lease | None:
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
        """The bytes that `peer` may hold: its fair share, at least an eighth of all.

        A peer that is alone leaves an eighth free. Where `shared` is small, the share is an
        eighth of the limit or `LEAST_SHARE`, whichever is less. One that holds nothing
        while nobody else does may hold a message that is larger than what is shared.
        """

    def held(self, peer: str) -> int: ...

@final
class Coming(Budget):
    """What was announced, is leased and has not come: half of the budget at most.

    Of that no peer has more than a half, so that others notice nothing of one that
    announces and is silent.
    """

    def __init__(self, whole: Budget) -> None: ...
    def amount(self, size: int) -> int:
        """What a message of `size` bytes counts; the largest has to fit, too."""

UNSERVED: int
HOLDS_MUCH: int
IDLE: int
"""The ranks of those that make room: who never brought a request goes first."""

class Victim(NamedTuple):
    """What can be closed to make room; the lowest `order` of the lowest `rank` is."""

    rank: int
    order: float
    evict: Callable[[], None]

@final
class Upkeep:
    """Bytes that connections hold besides messages: sessions, streams, headers, tasks.

    `1 / UPKEEP_SHARE` of the budget at most. `1 / UPKEEP_FLOOR` (`LEAST_UPKEEP` of a small
    one) is beside the budget, so that some connections fit even where messages take all of
    it; what is above is charged to it. `evictors` are asked for who makes room: each, given
    for whom, has a victim or None.
    """

    @property
    def evictors(self) -> list[Callable[[object], Victim | None]]: ...
    @property
    def used(self) -> int: ...
    @property
    def charged(self) -> int:
        """Of `used`, what is charged to the budget."""

    @property
    def limit(self) -> int: ...
    def __new__(cls, budget: Budget) -> Self: ...
    def evict(self, by: object = None) -> bool:
        """Close whoever comes first of all that can be closed, which isn't `by`; False:
        there is nobody."""

    def take(self, amount: int) -> bool:
        """Take `amount` bytes, if there is room for them; say whether there was."""

    def give(self, amount: int) -> None: ...

@final
class Lease:
    """Bytes of a budget, given back when the last reference goes.

    `size` are a message's, `beside` what is held with it: the objects that carry it, its
    metadata.
    """

    @property
    def budget(self) -> Budget: ...
    @property
    def peer(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def beside(self) -> int: ...
    @property
    def held(self) -> int:
        """All that it holds: `size` and `beside`."""

    def __init__(self, budget: Budget, size: int, peer: str, beside: int = -1) -> None:
        """Take the bytes, even past the limit; `beside` is the budget's `per_lease` unless
        it is given."""
    def grow(self, amount: int) -> None:
        """Add `amount` bytes, even past the limit."""

    def try_grow(self, amount: int) -> bool:
        """Add `amount` bytes if budget and the peer's share have them."""

    def attach(self, amount: int) -> bool:
        """Hold `amount` bytes besides the message, if budget and share have them."""

    def resized(self, size: int) -> Lease:
        """A lease of another size for the same peer, with as much beside: for what is made
        of the same message, and keeps its metadata when that is gone."""

    def shrink_to(self, size: int) -> None:
        """Give back what is above `size`; it never grows."""
