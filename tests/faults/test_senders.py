"""Senders that mean no good: others notice nothing, and memory stays within its limit."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest

from k8strace.grpc.status import Code
from tests.end_to_end.conftest import Start
from tests.faults.conftest import Fault
from tests.faults.processes import BATCH, options, peak_memory
from tests.support.backend import Backend
from tests.support.engine import MIB
from tests.support.gateway import GatewayProcess
from tests.support.http2 import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC,
    HEADERS,
    RST_STREAM,
    Raw,
    frame,
    headers,
    message,
)
from tests.support.requests import request
from tests.support.sanitizers import SANITIZED
from tests.support.workers import Load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("descriptors"),
]

LIMIT = 256  # MiB
THERE = "127.0.0.2"  # another host than the one of those who mean well
LIMITED = {"memory_limiter": {"check_interval": "100ms", "limit_mib": LIMIT}, **BATCH}
BEGIN = frame(HEADERS, END_HEADERS, 1, headers(*GRPC))
WINDOW, FRAME = 65_535, 16_384  # what every HTTP/2 server takes
REJECTED = "k8strace_requests_rejected_total"
NOT_TOLD = 3  # times that the machine holds a loop up without the kernel telling of it

Attack = Callable[[GatewayProcess, str, int], Awaitable[None]]


async def flood(gateway: GatewayProcess, endpoint: str, count: int) -> None:
    """Connections that say nothing and stay."""
    host, _, port = endpoint.rpartition(":")
    pairs = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    for _, writer in pairs:
        writer.close()


async def slow_writers(gateway: GatewayProcess, endpoint: str, count: int) -> None:
    """They announce half of what may be, all together, and send a byte: those that are
    let in are cut off."""
    announced = b"\0" + (LIMIT * MIB // 2 // count).to_bytes(4, "big") + b"\x0a"
    async with AsyncExitStack() as stack:
        for _ in range(count):
            raw = await stack.enter_async_context(Raw(endpoint, THERE))
            await raw.send(BEGIN, frame(DATA, 0, 1, announced))
        samples = await gateway.wait_for_metric(REJECTED, count, timeout=60)
        assert samples.sum(REJECTED, reason="slow") > 1
        for reason in ("slow", "memory"):
            count -= int(samples.sum(REJECTED, reason=reason))
        assert count == 0


async def slow_readers(gateway: GatewayProcess, endpoint: str, count: int) -> None:
    """They send until the gateway takes no more, and read no answer."""
    body = request(1).SerializeToString()[:-1]  # no request: each has a long answer
    await asyncio.gather(*(deaf(endpoint, body) for _ in range(count)))


async def deaf(endpoint: str, body: bytes) -> None:
    async with Raw(endpoint, THERE) as raw:
        plug = raw.writer.transport.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with suppress(TimeoutError, ConnectionError):
            for stream in range(1, 40_001, 2):
                begin = frame(HEADERS, END_HEADERS, stream, headers(*GRPC))
                raw.writer.write(begin + frame(DATA, END_STREAM, stream, message(body)))
                async with asyncio.timeout(2):
                    await raw.writer.drain()
        raw.reset()


async def rapid_reset(gateway: GatewayProcess, endpoint: str, count: int) -> None:
    """Streams that are cancelled as soon as they are begun, a hundred at a time."""
    cancel = CANCEL.to_bytes(4, "big")
    for _ in range(count):
        async with Raw(endpoint, THERE) as raw:
            with suppress(ConnectionError):
                for first in range(1, 20_001, 200):
                    await raw.send(
                        *(
                            frame(HEADERS, END_HEADERS, stream, headers(*GRPC))
                            + frame(RST_STREAM, 0, stream, cancel)
                            for stream in range(first, first + 200, 2)
                        )
                    )


async def bombs(gateway: GatewayProcess, endpoint: str, count: int) -> None:
    """60 KB that are 64 MiB when they are unpacked, and a little more, all at once."""
    bomb = message(gzip.compress(bytes(64 * MIB + 1), 9), compressed=1)
    assert len(bomb) < WINDOW
    packed = headers(*GRPC, ("grpc-encoding", "gzip"))
    thrown = [frame(HEADERS, END_HEADERS, 1, packed)]
    for at in range(0, len(bomb), FRAME):
        is_last = at + FRAME >= len(bomb)
        flags = END_STREAM if is_last else 0
        thrown.append(frame(DATA, flags, 1, bomb[at : at + FRAME]))

    async def throw() -> None:
        async with Raw(endpoint, THERE) as raw:
            await raw.send(*thrown)
            assert await raw.status() in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)

    await asyncio.gather(*(throw() for _ in range(count)))


@pytest.mark.parametrize(
    ("attack", "short", "long"),
    [
        (flood, 500, 5000),
        (slow_writers, 20, 500),
        (slow_readers, 3, 50),
        (rapid_reset, 3, 100),
        (bombs, 10, 200),
    ],
    ids=["flood", "slow writers", "slow readers", "rapid reset", "bombs"],
)
async def test_hostile(
    start: Start, fault: Fault, attack: Attack, short: int, long: int
) -> None:
    fault.name, fault.mode = f"senders: {fault.mode}", "in memory, batch"
    count = fault.of(short, long)
    async with Backend(keep=False) as backend:
        limited = options("in memory, batch", processors=LIMITED)
        async with start(backend.endpoint, **limited) as gateway:
            endpoint = await gateway.address("grpc")
            load = Load(endpoint, clients=2, pause=0.01)
            async with load:
                await load.wait_for(10)
                await attack(gateway, endpoint, count)
                await load.wait_for(10)
            assert not load.why
            peak = peak_memory(gateway.process.pid)
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
    assert SANITIZED or peak < LIMIT * MIB
    late = samples.late_beats()
    assert SANITIZED or late <= NOT_TOLD
    what = f"{count}, {peak // MIB} MiB of memory, the loop {late:g} times over 20 ms"
    fault.settle(what, load, backend.ids)
