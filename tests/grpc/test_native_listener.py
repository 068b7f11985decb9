"""How the native server accepts connections where there is no room for them."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from k8strace.budget import Budget
from k8strace.grpc import native, native_listener, native_server
from k8strace.grpc.native_listener import Listener
from k8strace.tls.contexts import Contexts, client_context
from k8strace.tls.incoming import OPENING_COST
from k8strace.tls.options import ServerTLS
from tests.support.certificates import Authority, Pair
from tests.support.engine import MIB, Rig, channel, send


@contextmanager
def file_limit(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def connect(rig: Rig) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = rig.address.rpartition(":")
    return await asyncio.open_connection(host, port)


async def is_refused(reader: asyncio.StreamReader) -> bool:
    """Whether the server closes the connection, or says its settings."""
    with suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(1), 20) == b""
    return True


async def test_where_files_run_out_who_comes_is_closed_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Rig(native) as rig, channel(rig) as one:
        assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        kept, its_writer = await connect(rig)
        assert not await is_refused(kept)
        used = its_writer.get_extra_info("socket").fileno()
        monkeypatch.setattr(native_listener, "most_files", lambda _: used)
        for _ in range(3):
            reader, writer = await connect(rig)
            assert await is_refused(reader)
            writer.close()
        assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        assert len(rig.server.shared.connections) == 2
        monkeypatch.undo()
        its_writer.close()
        reader, writer = await connect(rig)
        assert not await is_refused(reader)
        writer.close()
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refused 1 connections" in warnings[0].message


async def test_of_too_many_the_oldest_goes_that_brought_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_server, "MAX_CONNECTIONS", 3)
    async with Rig(native) as rig, channel(rig) as served:
        assert await send(served, b"\x0a\x00") == b"\x0a\x00"
        unserved = rig.server.shared.unserved
        idle = []
        for number in range(4):
            idle.append(await connect(rig))
            port = str(idle[-1][1].get_extra_info("sockname")[1])
            async with asyncio.timeout(20):
                while not any(port in one.peer for one in unserved):  # noqa: ASYNC110
                    await asyncio.sleep(0)
            if number >= 2:
                assert await closed(idle[number - 2][0])
        assert len(rig.server.shared.connections) == 3
        assert await send(served, b"\x0a\x00") == b"\x0a\x00"
        assert rig.reasons == ["memory", "memory"]
        for _, writer in idle:
            writer.close()


class Watched:
    """A listener, how many connections it says are connecting, and what they hold.

    `accepted` gets both before another is accepted, `made` when one has been made.
    """

    def __init__(self, tls: Contexts | None = None) -> None:
        self.accepted: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.made: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.upkeep = Budget(64 * MIB).upkeep
        sock = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = sock.getsockname()
        self.listener = Listener(
            *(sock, self._protocol, tls, self._has_room, lambda *_: None),
            upkeep=self.upkeep,
        )

    def _has_room(self) -> bool:
        self.accepted.put_nowait((self.listener.connecting, self.upkeep.used))
        return True

    def _protocol(self) -> asyncio.Protocol:
        watched = self

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                watched.made.put_nowait((watched.listener.connecting, watched.upkeep.used))
                transport.close()

        return Protocol()


async def test_a_connection_that_is_made_is_not_connecting_any_more() -> None:
    watched = Watched()
    watched.listener.start()
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(watched.host, watched.port)
        assert await watched.accepted.get() == (0, 0)
        assert await watched.made.get() == (0, 0)
        assert await reader.read() == b""
        writer.close()
    await watched.listener.stop()


async def test_a_connection_is_connecting_as_long_as_its_handshake_runs(
    server_pair: Pair, authority: Authority
) -> None:
    contexts = Contexts(ServerTLS(**server_pair.files))
    await contexts.load()
    watched = Watched(contexts)
    watched.listener.start()
    trusting = client_context(authority.cert.read_text())
    async with asyncio.timeout(20):
        _, silent = await asyncio.open_connection(watched.host, watched.port)
        assert await watched.accepted.get() == (0, 0)
        reader, writer = await asyncio.open_connection(
            watched.host, watched.port, ssl=trusting, server_hostname="localhost"
        )
        assert await watched.accepted.get() == (1, OPENING_COST)
        assert await watched.made.get() == (1, OPENING_COST)
        assert await reader.read() == b""
        for one in (silent, writer):
            one.close()
    await watched.listener.stop()
    assert (watched.listener.connecting, watched.upkeep.used) == (0, 0)


async def closed(reader: asyncio.StreamReader) -> bool:
    """Whether the server ends the connection, after its settings or before."""
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 20)
    return True


async def test_accepting_pauses_where_it_is_of_no_use(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native_listener, "PAUSE", 0.05)
    async with Rig(native) as rig:
        host, _, port = rig.address.rpartition(":")
        client = socket.socket()
        with client:
            client.setblocking(False)
            with file_limit(3):
                await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
                async with asyncio.timeout(20):
                    # An error says so; then it is told of once every PAUSE.
                    while not caplog.records:  # noqa: ASYNC110
                        await asyncio.sleep(0)
            assert "Too many open files" in caplog.text
            data = await asyncio.get_running_loop().sock_recv(client, 1)
            assert data == b"\0"


async def test_stopping_while_connections_are_made() -> None:
    async with Rig(native) as rig:
        readers = [await connect(rig) for _ in range(5)]
        await rig.server.stop(0)
        for reader, writer in readers:
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
        assert not rig.server.shared.connections


def test_files_that_are_left_to_others() -> None:
    with file_limit(100):
        assert native_listener.most_files() == 75
    with file_limit(10_000):
        assert native_listener.most_files() == 10_000 - native_listener.RESERVE


async def test_another_that_listens_on_the_port_is_named() -> None:
    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", 0))
        two.bind(one.getsockname())
        one.listen()
        endpoint = f"127.0.0.1:{one.getsockname()[1]}"
        rig = Rig(native, endpoint=endpoint, sockets=(two,))
        with pytest.raises(OSError, match=endpoint):
            await rig.server.start()
        assert two.fileno() == -1
