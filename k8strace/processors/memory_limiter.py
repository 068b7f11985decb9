"""memory_limiter: refuse payloads while too many bytes are held, before memory runs out.

Two guards. The bytes that the process's budget counts (parked, in flight and reserved) are
exact, so the soft limit acts on them at once: above it answers are held, then refused. The
hard limit is the budget's own, which no byte passes. Resident memory is the second guard,
for what the budget doesn't see: read every `check_interval`, above the hard limit it closes
the way until it is below the soft one.

It belongs at the front of a pipeline: behind a component that parks it protects nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta

from k8strace import component
from k8strace.budget import MAX_RETRY_AFTER, Budget, Lease, Room
from k8strace.component import NO_EFFECT, Blocked, Context, Outlet
from k8strace.errors import RefusedError
from k8strace.memory import memory_limit, resident_memory, trim
from k8strace.metrics import MEMORY_LIMITER_ACCEPTED_SPANS, MEMORY_LIMITER_REFUSED_SPANS
from k8strace.payload import Payload
from k8strace.units import MIB, Duration

SPIKE_SHARE = 5  # the spike limit where none is given: a fifth of the limit
_UINT32 = Meta(ge=0, le=2**32 - 1)


class Config(component.Config, frozen=True, kw_only=True):
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


class _SoftRoom(Room):
    """What the budget holds, without the payloads that wait for this room.

    Those are in the budget already. Were they counted, requests that come in at the same
    time would wait for each other while nothing behind them holds anything.
    """

    __slots__ = ("_budget", "_waiting", "closed")

    def __init__(self, limit: int, budget: Budget) -> None:
        super().__init__(limit)
        self.closed = False
        self._budget = budget
        self._waiting = 0

    def blocks(self, amount: int) -> bool:
        """Whether a payload of `amount` bytes, which the budget holds, must wait.

        One that is over the limit goes when nothing else is held.
        """
        if self.closed:
            return True
        others = self._budget.used - self._waiting - amount + self._promised
        return others + min(amount, self.limit) > self.limit

    async def wait(self, amount: int, until: float) -> bool:
        if self.closed:
            return False
        self._waiting += amount
        self._wake()
        try:
            return await super().wait(min(amount, self.limit), until)
        finally:
            self._waiting -= amount

    def _wake(self) -> None:
        self.used = self._budget.used - self._waiting
        super()._wake()

    def retry_after(self, amount: int) -> float:
        if self.closed:
            return MAX_RETRY_AFTER
        self.used = self._budget.used - self._waiting
        return super().retry_after(amount)


class MemoryLimiter(component.Processor[Config]):
    type_name = "memory_limiter"
    config_type = Config

    def __init__(self, config: Config, context: Context, downstream: Outlet) -> None:
        super().__init__(config, context, downstream)
        # The limits are the whole gateway's; each worker keeps to its part.
        self.soft, self.hard = (
            limit // context.worker.workers for limit in config.limits()
        )
        self._room = _SoftRoom(self.soft, context.budget)
        self._monitor: asyncio.Task[None] | None = None
        self._trimmed = float("-inf")
        self._accepted = context.metrics.counter(
            MEMORY_LIMITER_ACCEPTED_SPANS, context.label
        )
        self._refused = context.metrics.counter(MEMORY_LIMITER_REFUSED_SPANS, context.label)

    @property
    def hard_limit(self) -> int | None:
        return self.hard

    async def start(self) -> None:
        budget = self.context.budget
        # A budget below the hard limit is the limit for bytes; the soft one keeps its part.
        self._room.limit = min(self.soft, budget.limit * self.soft // self.hard)
        budget.follow(self._room.give)
        loop = asyncio.get_running_loop()
        self._monitor = loop.create_task(self._watch(), name=self.context.label)
        self.log.info(
            "limit %d MiB, soft limit %d MiB, of payload bytes %d MiB",
            self.hard // MIB,
            self.soft // MIB,
            self._room.limit // MIB,
        )

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        self.context.budget.unfollow(self._room.give)
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.cancel()
            await asyncio.wait([monitor])

    async def consume(self, payload: Payload) -> None:
        room = self._room
        amount = _held_bytes(payload, self.context.budget)
        while room.blocks(amount):
            if not await room.wait(amount, payload.wait_until):
                self._refused.add(payload.spans)
                raise RefusedError("too much memory is in use", room.retry_after(amount))
        await self.downstream(payload)
        self._accepted.add(payload.spans)

    def blocked_by(self, payload: Payload) -> Blocked | None:
        amount = _held_bytes(payload, self.context.budget)
        if self._room.blocks(amount):
            return Blocked(self._room, amount)
        return self.downstream.blocked_by(payload)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.config.check_interval)
            try:
                await self.check()
            except OSError as error:
                self.log.warning("cannot read the resident memory: %s", error)

    async def check(self) -> None:
        """Read the resident memory, give back what is free, open or close the way."""
        resident = resident_memory()
        if resident >= self.soft and self._may_trim(hard=resident >= self.hard):
            # In a thread: it doesn't need the GIL, and the loop need not wait for it.
            await asyncio.to_thread(trim)
            resident = resident_memory()
        if not self._room.closed and resident >= self.hard:
            self._room.closed = True
            self.log.warning(
                "resident memory of %d MiB, of which spans are %d MiB, is above the limit "
                "of %d MiB: refusing spans until it is below %d MiB",
                resident // MIB,
                self.context.budget.used // MIB,
                self.hard // MIB,
                self.soft // MIB,
            )
        elif self._room.closed and resident < self.soft:
            self._room.closed = False
            self.log.info(
                "resident memory of %d MiB is back within the limits: taking spans",
                resident // MIB,
            )

    def _may_trim(self, *, hard: bool) -> bool:
        now = asyncio.get_running_loop().time()
        interval = (
            self.config.min_gc_interval_when_hard_limited
            if hard
            else self.config.min_gc_interval_when_soft_limited
        )
        if now - self._trimmed < interval:
            return False
        self._trimmed = now
        return True


def _held_bytes(payload: Payload, budget: Budget) -> int:
    """What `payload` itself holds of `budget`."""
    lease = payload.lease
    if isinstance(lease, Lease):
        return lease.size if lease.budget is budget else 0
    return sum(one.size for one in lease or () if one.budget is budget)
