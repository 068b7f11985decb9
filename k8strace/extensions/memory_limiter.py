"""memory_limiter: have receivers refuse requests unread while memory is short.

The processor of the same name, with the same options, as a middleware of servers
(collector extension `memory_limiter`). The limits are in `memory_guard.py`.
"""

from __future__ import annotations

from k8strace.budget import Budget, Lease
from k8strace.component import Context
from k8strace.errors import RefusedError
from k8strace.grpc import Admission
from k8strace.memory_guard import LimiterConfig, MemoryGuard, SoftRoom
from k8strace.middleware import ServerMiddleware


class Config(LimiterConfig, frozen=True, kw_only=True):
    """That of the extension."""


class MemoryLimiter(ServerMiddleware[Config]):
    type_name = "memory_limiter"
    config_type = Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.guard = MemoryGuard(config, context, holds_what_waits=False)

    @property
    def hard_limit(self) -> int | None:
        return self.guard.hard_limit

    async def start(self) -> None:
        self.guard.start()

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        await self.guard.stop()

    def admission(self, inner: Admission) -> Admission:
        return Door(self.guard, inner)


class Door:
    """Lets in what has a place in the guard's room and in what is behind it."""

    def __init__(self, guard: MemoryGuard, inner: Admission) -> None:
        self._guard = guard
        self._room: SoftRoom = guard.room
        self._inner = inner

    @property
    def budget(self) -> Budget:
        return self._inner.budget

    @property
    def limit(self) -> int:
        return self._inner.limit

    def fits(self, amount: int) -> bool:
        return not self._room.blocks(amount) and self._inner.fits(amount)

    async def wait(self, amount: int, until: float) -> bool:
        return await self._opens(amount, until) and await self._inner.wait(amount, until)

    async def _opens(self, amount: int, until: float) -> bool:
        while self._room.blocks(amount):
            if not await self._room.wait(amount, until):
                return False
        return True

    def lease(self, amount: int, peer: str) -> Lease | None:
        return None if self._room.blocks(amount) else self._inner.lease(amount, peer)

    async def admit(self, amount: int, peer: str, until: float) -> Lease | None:
        if not await self._opens(amount, until):
            return None
        return await self._inner.admit(amount, peer, until)

    def refusal(self, amount: int, peer: str) -> RefusedError:
        if self._room.blocks(amount):
            return self._guard.refusal(amount)
        return self._inner.refusal(amount, peer)

    def pace(self) -> float:
        return self._inner.pace()
