"""A gRPC engine under test: its server with a handler that does what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.budget import Budget
from k8strace.grpc import Call, ServerSettings
from k8strace.grpc.status import retry_delay
from tests.support.backend import PATH

MIB = 1024 * 1024
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])
"""For what takes a second: only on the loop that the gateway runs on."""
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]


class Rig:
    """A server of `engine`. It answers with the message, unless `answer` says otherwise.

    `rejects` has the reasons and the messages of what never came to the handler.
    """

    def __init__(
        self,
        engine: ModuleType,
        *,
        budget: Budget | None = None,
        **settings: Any,
    ) -> None:
        self.budget = budget or Budget(64 * MIB)
        self.calls: list[Call] = []
        self.rejects: list[tuple[str, str, str]] = []
        self.answer: Callable[[Call], Awaitable[bytes]] | None = None
        self.keep_calls = True
        self.address = ""
        self._changed = asyncio.Event()
        settings.setdefault("endpoint", "127.0.0.1:0")
        self.server = engine.Server(
            ServerSettings(**settings), {PATH: self._handle}, self.budget, self._reject
        )

    async def __aenter__(self) -> Rig:
        self.address = await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop(0)

    @property
    def reasons(self) -> list[str]:
        return [reason for reason, _, _ in self.rejects]

    async def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Until `condition` is true, which is asked after each call and each reject."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def at_rest(self, timeout: float = 20.0) -> None:
        """Until nothing is held in the budget."""
        gone = asyncio.Event()

        def freed(_: int) -> None:
            if not self.budget.used:
                gone.set()

        self.calls.clear()
        self.budget.follow(freed)
        async with asyncio.timeout(timeout):
            if self.budget.used:
                await gone.wait()
        self.budget.unfollow(freed)

    async def _handle(self, call: Call) -> bytes:
        if self.keep_calls:
            self.calls.append(call)
        self._changed.set()
        return call.message if self.answer is None else await self.answer(call)

    def _reject(self, reason: str, peer: str, text: str) -> None:
        self.rejects.append((reason, peer, text))
        self._changed.set()


@asynccontextmanager
async def channel(rig: Rig) -> AsyncIterator[grpc.aio.Channel]:
    """A client's channel to the rig."""
    async with grpc.aio.insecure_channel(rig.address, options=OPTIONS) as one:
        yield one


async def send(one: grpc.aio.Channel, body: bytes, **options: Any) -> bytes:
    """One call; raises AioRpcError."""
    options.setdefault("timeout", 20)
    path = options.pop("path", PATH)
    method: Any = one.unary_unary(path)
    answer: bytes = await method(body, **options)
    return answer


async def failure(one: grpc.aio.Channel, body: bytes, **options: Any) -> Any:
    """The error that one call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(one, body, **options)
    return caught.value


def delay_of(error: Any) -> float | None:
    """The seconds of its RetryInfo."""
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    return None if details is None else retry_delay(details)
