"""The limits of `memory_limiter`, processor and extension, and what keeps to them.

Two guards. The bytes that the process's budget counts (parked, in flight and reserved) are
exact, so the soft limit acts on them at once: above it answers are held, then refused. The
hard limit is the budget's own, which no byte passes. Both are limits of the whole process:
what it holds without any span, what connections are sure of, and some slack for the heap
are taken off them. Resident memory is the second guard, for what the budget doesn't see:
the budget grants no more bytes than memory has left below the hard limit, as it was when
it was read last. It is read again when these are used up, and every `check_interval`; above
the hard limit that closes the way until it is below the soft one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

from msgspec import Meta

from k8strace.background import ended, keep_running
from k8strace.budget import MAX_RETRY_AFTER, Budget, Room
from k8strace.component import NO_EFFECT, Config, Context
from k8strace.errors import RefusedError
from k8strace.memory import (
    keep_free,
    memory_limit,
    own_memory,
    resident_memory,
    slack,
    trim,
)
from k8strace.units import MIB, Duration

SPIKE_SHARE = 5  # the spike limit where none is given: a fifth of the limit
LEAST_ROOM = MIB
SMALL_ROOM = 4 * MIB  # as large as the messages of most senders may be
GOOD_ROOM = 16 * MIB
TRIM_INTERVAL = 1.0  # seconds between trims, at least
_UINT32 = Meta(ge=0, le=2**32 - 1)


class LimiterConfig(Config, frozen=True, kw_only=True):
    check_interval: Duration = Duration(0)
    limit_mib: Annotated[int, _UINT32] = 0
    spike_limit_mib: Annotated[int, _UINT32] = 0
    limit_percentage: Annotated[int, _UINT32] = 0
    spike_limit_percentage: Annotated[int, _UINT32] = 0
    min_gc_interval_when_soft_limited: Duration = Duration(10)
    min_gc_interval_when_hard_limited: Duration = Duration(0)
    max_gc_interval_when_soft_limited: Annotated[Duration, NO_EFFECT] = Duration(30)
    max_gc_interval_when_hard_limited: Annotated[Duration, NO_EFFECT] = Duration(30)

    def __post_init__(self) -> None:
        problems = [text for wrong, text in self._checks() if wrong]
        if problems:
            raise ValueError("; ".join(problems))

    def _checks(self) -> list[tuple[bool, str]]:
        soft_gc = self.min_gc_interval_when_soft_limited
        hard_gc = self.min_gc_interval_when_hard_limited
        percentage, spike = self.limit_percentage, self.spike_limit_percentage
        return [
            (
                self.check_interval <= 0,
                f"check_interval must be greater than zero, not {self.check_interval}",
            ),
            (
                soft_gc < hard_gc,
                f"min_gc_interval_when_soft_limited ({soft_gc}) must not be smaller than "
                f"min_gc_interval_when_hard_limited ({hard_gc})",
            ),
            (
                not self.limit_mib and not percentage,
                "limit_mib or limit_percentage must be greater than zero",
            ),
            (
                percentage > 100 or spike > 100,
                f"limit_percentage ({percentage}) and spike_limit_percentage ({spike}) "
                "must not be greater than 100",
            ),
            (
                0 < self.limit_mib <= self.spike_limit_mib,
                f"spike_limit_mib ({self.spike_limit_mib}) must be smaller than limit_mib "
                f"({self.limit_mib})",
            ),
            (
                0 < percentage <= spike,
                f"spike_limit_percentage ({spike}) must be smaller than limit_percentage "
                f"({percentage})",
            ),
        ]

    def limits(self, memory: Callable[[], int] = memory_limit) -> tuple[int, int]:
        """The soft and the hard limit in bytes; `limit_mib` wins over percentages."""
        if self.limit_mib:
            hard, spike = self.limit_mib * MIB, self.spike_limit_mib * MIB
        else:
            total = memory()
            hard = total * self.limit_percentage // 100
            spike = total * self.spike_limit_percentage // 100
        return hard - (spike or hard // SPIKE_SHARE), hard

    def lack_of_room(self, workers: int) -> str:
        """What to say where each of `workers` processes has no room for spans; or empty."""
        soft, own = self.limits()[0] // workers, own_memory()
        if soft - own >= LEAST_ROOM:
            return ""
        each = f" for each of {workers} workers" if workers > 1 else ""
        return (
            f"the soft limit (limit less spike limit) of {soft // MIB} MiB{each} leaves no "
            f"room for spans: the gateway itself holds {own // MIB} MiB; "
            f"{self._advice(workers)}"
        )

    def little_room(self, workers: int) -> str:
        """What to say where each of `workers` processes has little room; or empty."""
        soft, own = self.limits()[0] // workers, own_memory()
        if soft - own >= SMALL_ROOM:
            return ""
        each = f" for each of {workers} workers" if workers > 1 else ""
        return (
            f"the soft limit (limit less spike limit) of {soft / MIB:.1f} MiB{each} leaves "
            f"{(soft - own) / MIB:.1f} MiB for spans, as the gateway itself holds "
            f"{own / MIB:.1f} MiB: larger requests are taken one at a time, and others "
            f"wait or are refused meanwhile; {self._advice(workers)}"
        )

    def _advice(self, workers: int) -> str:
        """Which limit leaves enough room."""
        soft, hard = self.limits()
        enough = (own_memory() + GOOD_ROOM) * workers
        is_share = not (
            self.spike_limit_mib if self.limit_mib else self.spike_limit_percentage
        )
        if is_share:
            enough = enough * SPIKE_SHARE // (SPIKE_SHARE - 1)
        else:
            enough += hard - soft
        return f"a limit of {-(-enough // MIB)} MiB leaves enough"


class MemoryGuard:
    """Keeps the process to the limits of `config`, from `start` to `stop`.

    Raises ValueError for a limit that leaves no room for spans.
    """

    def __init__(
        self, config: LimiterConfig, context: Context, *, holds_what_waits: bool = True
    ) -> None:
        self._config = config
        self._budget = context.budget
        self._log = context.log
        # The limits are the whole gateway's; each worker keeps to its part.
        workers = self._workers = context.worker.workers
        self.soft, self.hard = (limit // workers for limit in config.limits())
        self._own = own_memory()
        self._slack = slack(max(self.hard - self._own, 0))
        if problem := config.lack_of_room(workers):
            raise ValueError(problem)
        self.room = SoftRoom(
            self.soft - self._own, self._budget, holds_what_waits=holds_what_waits
        )
        self._is_short = asyncio.Event()
        self._monitor: asyncio.Task[None] | None = None
        self._trimmed = float("-inf")

    @property
    def hard_limit(self) -> int:
        """Bytes of payloads that the process may hold."""
        return self.hard - self._own - self._slack

    def start(self) -> None:
        budget, room = self._budget, self.room
        # A budget below the hard limit is the limit for bytes; the soft one keeps its part.
        part = budget.limit * self.soft // self.hard
        room.limit = min(self.soft - self._own, part)
        budget.follow(room.give)
        budget.guard = self.headroom
        budget.shared = room.limit
        keep_free(self.hard - self._own)
        self._monitor = keep_running(self._watch, "watching the memory", self._log)
        self._log.info(
            "limit %d MiB, soft limit %d MiB, of payload bytes %d MiB",
            self.hard // MIB,
            self.soft // MIB,
            room.limit // MIB,
        )
        if text := self._config.little_room(self._workers):
            self._log.warning("%s", text)

    async def stop(self) -> None:
        self._budget.unfollow(self.room.give)
        if self._budget.guard == self.headroom:
            self._budget.guard = None
            self._budget.shared = 0
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.cancel()
            await ended(monitor)

    def headroom(self, amount: int) -> int:
        """The bytes that may become resident besides those that are to come already.

        Where these are less than `amount`, what is free is given back to the system.
        The budget can't see what the heap has in pieces between what is held: messages
        that grow while they are decompressed leave more than themselves behind.
        """
        resident = resident_memory()
        left = self.hard - self._slack // 3 - resident - self._budget.coming.used
        if left < amount:
            self._is_short.set()
        return left

    def refusal(self, amount: int) -> RefusedError:
        """What to answer where the room has nothing for `amount` bytes."""
        return RefusedError("too much memory is in use", self.room.retry_after(amount))

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.check_interval):
                    await self._is_short.wait()
            try:
                if self._is_short.is_set():
                    await self._make_room()
                await self.check()
            except OSError as error:
                self._log.warning("cannot read the resident memory: %s", error)

    async def _make_room(self) -> None:
        """Give back what is free, for who was not granted what it asked for."""
        await asyncio.sleep(max(self._until_trim(hard=True), 0.0))
        self._is_short.clear()
        await self._trim()

    async def check(self) -> None:
        """Read the resident memory, give back what is free, open or close the way."""
        room = self.room
        resident = resident_memory()
        if resident >= self.soft and self._until_trim(hard=resident >= self.hard) <= 0:
            await self._trim()
            resident = resident_memory()
        if not room.closed and resident >= self.hard:
            room.closed = True
            self._log.warning(
                "resident memory of %d MiB, of which spans are %d MiB, is above the limit "
                "of %d MiB: refusing spans until it is below %d MiB",
                resident // MIB,
                self._budget.used // MIB,
                self.hard // MIB,
                self.soft // MIB,
            )
        elif room.closed and resident < self.soft:
            room.closed = False
            self._log.info(
                "resident memory of %d MiB is back within the limits: taking spans",
                resident // MIB,
            )

    async def _trim(self) -> None:
        self._trimmed = asyncio.get_running_loop().time()
        await trim()

    def _until_trim(self, *, hard: bool) -> float:
        """Seconds until memory may be trimmed again; none are left at 0 and less."""
        interval = (
            self._config.min_gc_interval_when_hard_limited
            if hard
            else self._config.min_gc_interval_when_soft_limited
        )
        now = asyncio.get_running_loop().time()
        return self._trimmed + max(interval, TRIM_INTERVAL) - now


class SoftRoom(Room):
    """What the budget holds of payloads, without those that wait for this room.

    Where the budget `holds_what_waits` already, that is not counted, nor what is still to
    come: requests that come in at the same time would wait for each other, and be refused,
    while nothing behind them holds anything. What connections hold (`Upkeep`) never counts,
    as no payload that waits makes it less.
    """

    __slots__ = ("_budget", "_holds", "_waiting", "closed")

    def __init__(self, limit: int, budget: Budget, *, holds_what_waits: bool) -> None:
        super().__init__(limit)
        self.closed = False
        self._budget = budget
        self._holds = holds_what_waits
        self._waiting = 0

    def blocks(self, amount: int) -> bool:
        """Whether a payload of `amount` bytes must wait.

        One that is over the limit goes when nothing else is held.
        """
        if self.closed:
            return True
        others = self._held() + self._promised + self._saved
        if self._holds:
            others -= amount
        return others + min(amount, self.limit) > self.limit

    async def wait(self, amount: int, until: float) -> bool:
        if self.closed:
            return False
        held = amount if self._holds else 0
        self._waiting += held
        self._wake()
        try:
            return await super().wait(min(amount, self.limit), until)
        finally:
            self._waiting -= held

    def _held(self) -> int:
        """What is held behind it, where it can be told."""
        budget = self._budget
        coming = budget.coming.used if self._holds else 0
        return budget.used - self._waiting - coming - budget.upkeep.charged

    def _wake(self) -> None:
        self.used = self._held()
        super()._wake()

    def retry_after(self, amount: int) -> float:
        if self.closed:
            return MAX_RETRY_AFTER
        self.used = self._held()
        return super().retry_after(amount)
