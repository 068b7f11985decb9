"""memory_limiter: refuse payloads while too many bytes are held, before memory runs out.

The limits and their guards are in `memory_guard.py`. It belongs at the front of a pipeline:
behind a component that parks it protects nothing. As a middleware of a receiver
(`extensions/memory_limiter.py`) it refuses before a request is read.
"""

from __future__ import annotations

from k8strace import component
from k8strace.component import Blocked, Context, Outlet
from k8strace.memory_guard import LimiterConfig, MemoryGuard
from k8strace.metrics import MEMORY_LIMITER_ACCEPTED_SPANS, MEMORY_LIMITER_REFUSED_SPANS
from k8strace.payload import Payload


class Config(LimiterConfig, frozen=True, kw_only=True):
    """That of the processor."""


class MemoryLimiter(component.Processor[Config]):
    type_name = "memory_limiter"
    config_type = Config

    def __init__(self, config: Config, context: Context, downstream: Outlet) -> None:
        super().__init__(config, context, downstream)
        self.guard = MemoryGuard(config, context)
        self._room = self.guard.room
        self._accepted = context.metrics.counter(
            MEMORY_LIMITER_ACCEPTED_SPANS, context.label
        )
        self._refused = context.metrics.counter(MEMORY_LIMITER_REFUSED_SPANS, context.label)

    @property
    def hard_limit(self) -> int | None:
        return self.guard.hard_limit

    async def start(self) -> None:
        self.guard.start()

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        await self.guard.stop()

    async def consume(self, payload: Payload) -> None:
        room = self._room
        amount = payload.held(self.context.budget)
        while room.blocks(amount):
            if not await room.wait(amount, payload.wait_until):
                self._refused.add(payload.spans)
                raise self.guard.refusal(amount)
        await self.downstream(payload)
        self._accepted.add(payload.spans)

    def blocked_by(self, payload: Payload) -> Blocked | None:
        amount = payload.held(self.context.budget)
        if self._room.blocks(amount):
            return Blocked(self._room, amount)
        return self.downstream.blocked_by(payload)
