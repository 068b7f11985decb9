"""What only the native server has; the rest is in conformance/."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.grpc import ClientSettings, native
from k8strace.grpc.endpoints import listen_tcp, listen_unix, show_unix
from tests.support.backend import PATH
from tests.support.engine import Rig


async def test_health() -> None:
    async with Rig(native) as rig:
        async with grpc.aio.insecure_channel(rig.address) as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            service = PATH.split("/")[1].encode()
            for name in (b"", bytes([0x0A, len(service)]) + service):
                assert await check(name, timeout=20) == b"\x08\x01"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(b"\x0a\x02no", timeout=20)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch(b"", timeout=20).read()
            # By which gRPC's clients know that they have to do without.
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert not rig.calls


async def test_several_servers_share_a_port() -> None:
    async with Rig(native, reuse_port=True) as one:
        async with Rig(native, reuse_port=True, endpoint=one.address) as two:
            assert one.address == two.address


async def echo(address: str, *, body: bytes = b"\x0a\x00") -> bytes:
    """A call over a connection of its own."""
    one = native.Client(ClientSettings(target=address, compression="none"))
    await one.start()
    try:
        return await one.call(PATH, (body,), timeout=20)
    finally:
        await one.stop()


async def test_tcp_sockets_that_are_handed_down() -> None:
    (kept,) = await listen_tcp("127.0.0.1", 0, reuse_port=True)
    port = kept.getsockname()[1]
    # Bound to the same port; it doesn't listen, and gets no connections.
    (other,) = await listen_tcp("127.0.0.1", port, reuse_port=True)
    with kept, other:
        for _ in range(2):
            given = kept.dup()
            async with Rig(native, endpoint="127.0.0.1:0", sockets=(given,)) as rig:
                assert rig.address == f"127.0.0.1:{port}"
                assert await echo(rig.address) == b"\x0a\x00"
            assert given.fileno() == -1


@pytest.mark.parametrize("abstract", [True, False])
async def test_unix_sockets_are_shared_and_stay(tmp_path: Path, abstract: bool) -> None:
    path = f"\0k8strace-test-{os.getpid()}" if abstract else str(tmp_path / "a.sock")
    with listen_unix(path) as kept:
        settings: dict[str, Any] = {"transport": "unix", "endpoint": show_unix(path)}
        async with Rig(native, sockets=(kept.dup(),), **settings) as one:
            async with Rig(native, sockets=(kept.dup(),), **settings) as two:
                assert one.address == two.address == show_unix(path)
                for number in range(20):
                    await echo(one.address, body=bytes([number]))
                assert len(one.calls) + len(two.calls) == 20
            assert await echo(one.address, body=b"still") == b"still"
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(path)  # it is there still, and queues who comes meanwhile
            async with Rig(native, sockets=(kept.dup(),), **settings) as three:
                assert await echo(three.address) == b"\x0a\x00"
