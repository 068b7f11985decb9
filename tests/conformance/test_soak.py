"""Many requests, connections and streams; `make soak` makes them many times more."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc.aio
import pytest

from k8strace.budget import Budget
from tests.conformance.test_client import Peer, client
from tests.support.backend import PATH
from tests.support.engine import MIB, ONE_LOOP, OPTIONS, Rig, channel, send
from tests.support.programs import go_client, go_server

pytestmark = ONE_LOOP
BODY = bytes(range(200)) * 2  # what a request of a span has
GROWTH = 64 * MIB  # of this process, which has a peer's side too
CONNECTIONS = 64 * MIB  # more, where there are a thousand of them: each has its buffers


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """How many times what the suite does."""
    times: int = request.config.getoption("--soak", default=1)
    return times


@pytest.fixture(autouse=True)
def bounded_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """However long it takes, this process doesn't grow with it."""
    before = resident()
    yield
    are_many = "descriptors" in request.fixturenames
    assert resident() - before < GROWTH + are_many * CONNECTIONS


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many sockets as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def repeated(
    call: Callable[[], Awaitable[bytes]], count: int, in_flight: int, answer: bytes
) -> None:
    """`count` calls, `in_flight` of them at a time, all answered with `answer`."""

    async def some() -> None:
        for _ in range(count // in_flight):
            assert await call() == answer

    await asyncio.gather(*(some() for _ in range(in_flight)))


def quiet(engine: ModuleType, peers: set[str]) -> Rig:
    """A server that keeps nothing of its calls but who made them.

    Its budget has upkeep, a quarter of it, for a thousand connections of 64 KiB.
    """
    rig = Rig(engine, budget=Budget(512 * MIB))
    rig.keep_calls = False

    async def answer(call: Any) -> bytes:
        peers.add(call.origin.peer)
        return b"ok"

    rig.answer = answer
    return rig


async def test_requests_of_grpc_go_on_a_connection(engine: ModuleType, times: int) -> None:
    peers: set[str] = set()
    async with quiet(engine, peers) as rig, go_client(rig.address) as go:
        for in_flight in (1, 100):
            count = 2500 * times
            result = await go.call(
                PATH, size=400, count=count, in_flight=in_flight, within=3600
            )
            assert result.codes == {"OK": count}
        assert len(peers) == 1
        assert rig.budget.used == 0


async def test_requests_of_grpc_core_on_a_connection(
    engine: ModuleType, times: int
) -> None:
    peers: set[str] = set()
    async with quiet(engine, peers) as rig, channel(rig) as one:
        for in_flight in (1, 100):
            await repeated(lambda: send(one, BODY), 1200 * times, in_flight, b"ok")
        assert len(peers) == 1
        assert rig.budget.used == 0


async def test_a_thousand_connections_of_grpc_go(
    engine: ModuleType, times: int, descriptors: None
) -> None:
    peers: set[str] = set()
    async with quiet(engine, peers) as rig:
        async with go_client(rig.address, "-connections", "1000") as go:
            count = 2000 * times
            result = await go.call(PATH, size=400, count=count, in_flight=100, within=3600)
            assert result.codes == {"OK": count}
            assert len(peers) == 1000


@pytest.mark.slow
async def test_a_thousand_connections_of_grpc_core(
    engine: ModuleType, times: int, descriptors: None
) -> None:
    peers: set[str] = set()
    async with quiet(engine, peers) as rig, AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(rig.address, options=OPTIONS)
            )
            for _ in range(1000)
        ]
        for _ in range(times):
            for start in range(0, 1000, 100):
                calls = [send(one, BODY) for one in channels[start : start + 100]]
                assert await asyncio.gather(*calls) == [b"ok"] * 100
        assert len(peers) == 1000


async def test_a_thousand_streams_of_grpc_core(engine: ModuleType, times: int) -> None:
    peers: set[str] = set()
    async with quiet(engine, peers) as rig, channel(rig) as one:
        for _ in range(times):
            calls = [send(one, BODY, timeout=60) for _ in range(1000)]
            assert await asyncio.gather(*calls) == [b"ok"] * 1000
        assert len(peers) == 1


async def test_calls_to_grpc_go(engine: ModuleType, times: int) -> None:
    async with go_server("-quiet") as server, client(engine, server.address) as one:
        for in_flight in (1, 100):
            await repeated(
                lambda: one.call(PATH, (BODY,), timeout=60),
                2000 * times,
                in_flight,
                b"answer",
            )


async def test_calls_to_grpc_core(engine: ModuleType, times: int) -> None:
    async with Peer().serve() as peer, client(engine, peer.target) as one:
        for in_flight in (1, 100):
            await repeated(
                lambda: one.call(PATH, (BODY,), timeout=60),
                1200 * times,
                in_flight,
                b"answer",
            )
            peer.bodies.clear()
            peer.metadata.clear()
        assert len(peer.peers) == 1
