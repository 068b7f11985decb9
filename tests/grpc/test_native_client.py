"""What only the native client does; the rest is in conformance/."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.grpc import Call, ClientKeepalive, ClientSettings, ServerKeepalive, native
from k8strace.grpc.native_client import grpc_timeout
from k8strace.grpc.status import Code, StatusError
from k8strace.units import Duration
from tests.support.backend import PATH
from tests.support.engine import Rig


@asynccontextmanager
async def client(target: str, **settings: Any) -> AsyncIterator[native.Client]:
    settings = {"compression": "none"} | settings
    one = native.Client(ClientSettings(target=target, **settings))
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


async def call(one: native.Client, body: bytes = b"\x0a\x00") -> bytes:
    return await one.call(PATH, (body,), timeout=20)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, b"0m"),
        (0.25, b"250m"),
        (0.2501, b"251m"),
        (86400, b"86400000m"),
        (1e6, b"1000000S"),
        (1e12, b"99999999S"),
    ],
)
def test_timeouts_as_headers(seconds: float, text: bytes) -> None:
    assert grpc_timeout(seconds) == text


async def test_connections_that_age_lose_no_request() -> None:
    keepalive = ServerKeepalive(max_connection_age=Duration(0.04))

    async def answer(request: Call) -> bytes:
        await asyncio.sleep(0)
        return request.message

    async with Rig(native, keepalive=keepalive) as rig, client(rig.address) as one:
        rig.answer = answer
        peers: set[str] = set()
        async with asyncio.timeout(30):
            while len(peers) < 4:
                bodies = [b"\x0a" * size for size in range(1, 20)]
                assert await asyncio.gather(*(call(one, body) for body in bodies)) == bodies
                peers |= {request.origin.peer for request in rig.calls}
        assert rig.rejects == []


async def test_round_robin_uses_all_addresses() -> None:
    async with Rig(native) as first, Rig(native) as second:
        target = f"ipv4:{first.address},{second.address}"
        async with client(target) as one:
            await call(one)
            async with asyncio.timeout(20):
                while not (first.calls and second.calls):
                    await call(one)
            before = len(first.calls), len(second.calls)
            for _ in range(10):
                await call(one)
            assert (len(first.calls), len(second.calls)) == (before[0] + 5, before[1] + 5)
            await first.server.stop(0)
            for _ in range(10):
                await call(one)
        async with client(f"ipv4:{second.address}", balancer_name="pick_first") as one:
            assert await call(one) == b"\x0a\x00"


async def test_a_lost_connection_fails_its_calls_and_is_made_anew() -> None:
    async def answer(request: Call) -> bytes:
        for connection in tuple(rig.server.shared.connections):
            connection.abort()
        await asyncio.Event().wait()
        return b""

    async with Rig(native) as rig, client(rig.address) as one:
        rig.answer = answer
        with pytest.raises(StatusError) as caught:
            await call(one)
        assert caught.value.code is Code.UNAVAILABLE
        rig.answer = None
        assert await call(one) == b"\x0a\x00"


async def test_keepalive_gives_up_on_a_server_that_is_silent() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")
        with suppress(ConnectionError):
            await reader.read()
            writer.close()
            await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        keepalive = ClientKeepalive(time=Duration(0.02), timeout=Duration(0.02))

        async with client(f"{host}:{port}", keepalive=keepalive) as one:
            with pytest.raises(StatusError) as caught:
                await call(one)
            assert caught.value.code is Code.UNAVAILABLE
            assert "pings" in caught.value.message
            await asyncio.wait_for(gone.wait(), 20)


async def test_many_calls_at_once() -> None:
    async with Rig(native) as rig, client(rig.address) as one:
        rig.keep_calls = False
        bodies = [b"%d" % number * (number % 50) for number in range(2000)]
        assert await asyncio.gather(*(call(one, body) for body in bodies)) == bodies
        await rig.at_rest()


async def test_large_messages_are_written_as_they_are() -> None:
    async with Rig(native) as rig, client(rig.address) as one:
        parts = tuple(bytes([number]) * 3_000_000 for number in range(10))
        assert await one.call(PATH, parts[:1], timeout=60) == parts[0]
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, parts, timeout=60)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert rig.calls[1].message == b"".join(parts)


async def test_answers_may_be_compressed() -> None:
    """As grpc-go's servers do, where the request is."""
    answer = b"\x0a" * 1000

    async def export(_request: bytes, _context: Any) -> bytes:
        return answer

    method: Any = grpc.unary_unary_rpc_method_handler(export)  # bytes in, bytes out
    _, service, name = PATH.split("/")
    server = grpc.aio.server(compression=grpc.Compression.Gzip)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        for compression in ("gzip", "none"):
            target = f"127.0.0.1:{port}"
            async with client(target, compression=compression) as one:
                assert await call(one) == answer
    finally:
        await server.stop(None)
