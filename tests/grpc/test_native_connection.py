"""What only the native server's connections do; the rest is in conformance/."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import Any

import pytest
import uvloop

from k8strace.budget import Budget, Lease
from k8strace.grpc import Call, ServerKeepalive, native, native_connection, native_server
from k8strace.units import Duration
from tests.support.engine import MIB, Rig
from tests.support.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GRPC,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Raw,
    frame,
    headers,
    message,
)


def begin(stream: int = 1) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, headers(*GRPC))


def whole(stream: int = 1, body: bytes = b"\x0a\x00") -> bytes:
    return begin(stream) + frame(DATA, END_STREAM, stream, message(body))


async def test_a_request_that_waits_for_nothing_has_no_task() -> None:
    tasks: list[Any] = []

    async def answer(call: Call) -> bytes:
        # Inside a callback of the loop, there is no task at all.
        with contextlib.suppress(RuntimeError):
            tasks.append(asyncio.current_task())
        return b"ok"

    async with Rig(native) as rig, Raw(rig.address) as raw:
        rig.answer = answer
        await raw.send(whole())
        assert await raw.status() == 0
        assert tasks == [None]
        assert not rig.server.shared.tasks


async def test_a_call_that_is_taken_back_in_the_same_read() -> None:
    async with Rig(native) as rig, Raw(rig.address) as raw:
        await raw.send(whole(1) + frame(RST_STREAM, 0, 1, bytes(4)) + whole(3))
        assert await raw.status() == 0
        assert (rig.reasons, len(rig.calls)) == (["incomplete"], 1)
        await rig.at_rest()


async def test_slow_bodies_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_server, "TICK", 0.05)
    async with Rig(native, slow_after=0.0) as rig, Raw(rig.address) as raw:
        body = message(bytes(40 * MIB))[:16384]
        await raw.send(begin(), frame(DATA, 0, 1, body))
        assert await raw.status() == 4
        assert (await raw.frame(RST_STREAM)).stream == 1
        assert rig.reasons == ["slow"]
        await raw.send(whole(3))
        assert (await raw.trailers()) != b""
        assert len(rig.calls) == 1
        await rig.at_rest()


async def test_too_many_messages_that_wait_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_connection, "MAX_WAITING", 1)
    budget = Budget(1000)
    async with Rig(native, budget=budget) as rig, Raw(rig.address) as raw:
        lease = Lease(budget, 1000, "another")
        await raw.send(begin(1), frame(DATA, 0, 1, message(bytes(500))[:5]))
        await raw.send(begin(3), frame(DATA, 0, 3, message(bytes(500))[:5]))
        found = await raw.frame(HEADERS)
        assert (found.stream, rig.reasons) == (3, ["memory"])
        del lease


async def test_what_is_no_grpc_gets_415() -> None:
    async with Rig(native) as rig, Raw(rig.address) as raw:
        await raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, headers()))
        assert b"415" in (await raw.frame(HEADERS)).body
        assert b"gRPC" in (await raw.frame(DATA)).body
        assert rig.reasons == ["unsupported"]


async def test_idle_connections_are_let_go() -> None:
    keepalive = ServerKeepalive(max_connection_idle=Duration(0.05))
    async with Rig(native, keepalive=keepalive) as rig, Raw(rig.address) as raw:
        notice = await raw.frame(GOAWAY)
        assert notice.body[:4] == b"\x7f\xff\xff\xff"
        ping = await raw.frame(PING)
        await raw.send(frame(PING, 1, 0, ping.body))
        assert (await raw.frame(GOAWAY)).body[:4] == bytes(4)
        assert await raw.reader.read() == b""
        shared = rig.server.shared
        # What comes now is of no use, and does no harm: the client has yet to close.
        await raw.send(frame(PING, 0, 0, bytes(8)))
        assert len(shared.connections) == 1
        raw.writer.close()
        async with asyncio.timeout(20):
            while shared.connections:
                shared.changed.clear()
                await shared.changed.wait()


async def test_the_end_of_a_client_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop may not know of it yet."""

    def gone(self: asyncio.Transport) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    async with Rig(native) as rig, Raw(rig.address) as raw:
        await raw.send(whole())
        assert await raw.status() == 0
        (connection,) = rig.server.shared.connections

        class Gone:
            write_eof = gone

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        transport = connection._transport
        monkeypatch.setattr(connection, "_transport", Gone())
        connection.end()
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(raw.reader.read(1000), 20):
                pass


async def test_who_never_closes_is_closed_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_connection, "LINGER", 0.05)
    keepalive = ServerKeepalive(max_connection_idle=Duration(0.05))
    async with Rig(native, keepalive=keepalive) as rig, Raw(rig.address) as raw:
        ping = await raw.frame(PING)
        await raw.send(frame(PING, 1, 0, ping.body))
        assert await raw.reader.read() != b""
        shared = rig.server.shared
        async with asyncio.timeout(20):
            while shared.connections:
                shared.changed.clear()
                await shared.changed.wait()


async def test_keepalive_pings_and_gives_up_on_who_is_silent() -> None:
    keepalive = ServerKeepalive(time=Duration(0.05), timeout=Duration(2))
    async with Rig(native, keepalive=keepalive) as rig, Raw(rig.address) as raw:
        ping = await raw.frame(PING)
        await raw.send(frame(PING, 1, 0, ping.body))
        await raw.frame(PING)
        with contextlib.suppress(ConnectionResetError):
            await raw.reader.read()
        assert not rig.server.shared.connections


async def test_a_client_that_takes_nothing_is_not_written_to_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_connection, "STALL_TIMEOUT", 0.0)
    monkeypatch.setattr(native_server, "TICK", 0.05)
    window = frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff")
    async with Rig(native) as rig, Raw(rig.address) as raw:
        sock: socket.socket = raw.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        update = frame(8, 0, 0, (2**31 - 1 - 65535).to_bytes(4, "big"))

        async def answer(call: Call) -> bytes:
            return bytes(32 * MIB)

        rig.answer = answer
        await raw.send(window, update, whole())
        await rig.until(lambda: len(rig.calls) == 1)
        async with asyncio.timeout(20):
            while rig.server.shared.connections:
                rig.server.shared.changed.clear()
                await rig.server.shared.changed.wait()


async def test_deadlines_end_calls_that_wait() -> None:
    ended = asyncio.Event()

    async def answer(call: Call) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    async with Rig(native) as rig, Raw(rig.address) as raw:
        rig.answer = answer
        block = headers(*GRPC, ("grpc-timeout", "50m"))
        await raw.send(
            frame(HEADERS, END_HEADERS, 1, block),
            frame(DATA, END_STREAM, 1, message(b"")),
        )
        assert await raw.status() == 4
        await asyncio.wait_for(ended.wait(), 20)


def test_a_sender_of_much_leaves_others_their_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On uvloop: asyncio's own loop reads once a turn anyway."""
    monkeypatch.setattr(native_connection, "READ_SIZE", 1024)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main() -> None:
        async with Rig(native) as rig, Raw(rig.address) as raw:
            body = message(bytes(60 * 1024))
            size = 16384
            parts = [body[start : start + size] for start in range(0, len(body), size)]
            flags = [0] * (len(parts) - 1) + [END_STREAM]
            data = [
                frame(DATA, flag, 1, part) for flag, part in zip(flags, parts, strict=True)
            ]
            task = asyncio.create_task(other())
            await raw.send(begin(), *data)
            before = turns
            assert await raw.status() == 0
            task.cancel()
            assert turns - before > 40  # of 60 reads
            await rig.at_rest()

    uvloop.run(main())
