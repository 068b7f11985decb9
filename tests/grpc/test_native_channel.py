"""One connection of the native client: deadlines, limits and servers that take nothing."""

from __future__ import annotations

import asyncio
import struct
import sys
import tracemalloc

import pytest

from k8strace.grpc import Call, native, native_channel
from k8strace.grpc.status import Code, StatusError
from tests.support.backend import PATH
from tests.support.engine import MIB, Rig
from tests.support.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    message,
    serving,
)
from tests.support.native import call, client
from tests.support.pipeline import cancel, until

WIDE = frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(
    WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65535).to_bytes(4, "big")
)


def block(*pairs: tuple[str, str]) -> bytes:
    """A header block of literals."""
    found = b""
    for pair in pairs:
        found += b"\0" + b"".join(bytes([len(one)]) + one.encode() for one in pair)
    return found


async def test_streams_beyond_the_servers_limit_wait() -> None:
    running = most = 0

    async def answer(request: Call) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return request.message

    async with Rig(native, max_concurrent_streams=4) as rig, client(rig.address) as one:
        rig.answer = answer
        bodies = [b"%d" % number for number in range(300)]
        assert await asyncio.gather(*(call(one, body) for body in bodies)) == bodies
        assert most == 4
        assert not rig.rejects


async def test_calls_that_wait_for_a_stream_can_be_given_up() -> None:
    async with Rig(native, max_concurrent_streams=1) as rig, client(rig.address) as one:
        held, entered = asyncio.Event(), asyncio.Event()

        async def answer(request: Call) -> bytes:
            entered.set()
            await held.wait()
            return request.message

        rig.answer = answer
        first = asyncio.ensure_future(call(one, b"first"))
        await asyncio.wait_for(entered.wait(), 20)
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (b"late",), timeout=0.05)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        waiting = [asyncio.ensure_future(call(one, b"%d" % n)) for n in range(10)]
        await asyncio.sleep(0)
        waiting[3].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[3]
        del waiting[3]
        held.set()
        assert await first == b"first"
        await asyncio.gather(*waiting)
        assert {call.message for call in rig.calls} == {
            b"first",
            *(b"%d" % n for n in range(10) if n != 3),
        }


async def test_calls_that_wait_for_a_stream_go_elsewhere_when_it_is_the_last() -> None:
    """What runs on a connection that is drained may take its time; the rest need not."""
    async with Rig(native, max_concurrent_streams=1) as rig, client(rig.address) as one:
        held, entered = asyncio.Event(), asyncio.Event()

        async def answer(request: Call) -> bytes:
            if request.message == b"first":
                entered.set()
                await held.wait()
            return request.message

        rig.answer = answer
        first = asyncio.ensure_future(call(one, b"first"))
        await asyncio.wait_for(entered.wait(), 20)
        waiting = [asyncio.ensure_future(call(one, b"%d" % n)) for n in range(50)]
        await asyncio.sleep(0)
        (connection,) = rig.server.shared.connections
        connection.drain(20)
        assert await asyncio.gather(*waiting) == [b"%d" % n for n in range(50)]
        assert not first.done()
        held.set()
        assert await first == b"first"


async def test_deadlines_of_many_calls() -> None:
    async with Rig(native) as rig, client(rig.address) as one:

        async def answer(request: Call) -> bytes:
            if request.message == b"quick":
                return b""
            return await asyncio.Event().wait() and b""

        rig.answer = answer
        calls = [
            one.call(PATH, (b"slow",), timeout=timeout) for timeout in (0.2, 0.05, 0.1)
        ]
        calls.append(one.call(PATH, (b"quick",), timeout=0.01 + 20))
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert found[3] == b""
        for error in found[:3]:
            assert isinstance(error, StatusError)
            assert error.code is Code.DEADLINE_EXCEEDED


async def test_a_server_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls end by their deadlines and hold nothing; then the connection is given up."""
    connections = 0
    stopped = asyncio.Event()

    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(WIDE)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await stopped.wait()

    async with serving(stuck) as address, client(address) as one:
        messages = [bytes(8 * MIB) for _ in range(6)]
        before = [sys.getrefcount(body) for body in messages]

        async def send(body: bytes) -> Code:
            with pytest.raises(StatusError) as caught:
                await one.call(PATH, (body,), timeout=0.1)
            code = caught.value.code
            del caught  # which has the frames, and they the message
            return code

        def is_full() -> bool:
            channel = one._places[0].channel if one._places else None
            return bool(channel and channel._transport.get_write_buffer_size())

        # The first one connects, and fills the connection. Slices of it are all that is
        # held.
        first = asyncio.ensure_future(one.call(PATH, (messages[0],), timeout=60))
        await until(is_full)
        await cancel(first)
        codes = await asyncio.gather(*(send(body) for body in messages[1:]))
        assert set(codes) == {Code.DEADLINE_EXCEEDED}
        after = [sys.getrefcount(body) for body in messages]
        assert after[1:] == before[1:]
        (place,) = one._places
        assert place.channel is not None
        written = place.channel._transport.get_write_buffer_size()
        assert written < native_channel.WRITE_BUFFER + MIB
        monkeypatch.setattr(native_channel, "STALL_TIMEOUT", 0.05)
        place.channel.close("for the next to be given up sooner")
        with pytest.raises(StatusError, match="took nothing"):
            await one.call(PATH, (messages[0],), timeout=20)
        assert connections == 2
        stopped.set()


async def test_a_large_message_through_slow_windows_is_not_copied() -> None:
    """64 MiB, of which the server takes a frame at a time; the client holds it once."""
    size = 64 * MIB
    got = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        writer.write(frame(SETTINGS, 0, 0))
        await reader.readexactly(24)
        while True:
            head = await reader.readexactly(9)
            length = int.from_bytes(head[:3], "big")
            await reader.readexactly(length)
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            if kind == SETTINGS and not flags:
                writer.write(frame(SETTINGS, ACK, 0))
            if kind != DATA:
                continue
            got += length
            update = length.to_bytes(4, "big")
            if length:
                writer.write(frame(WINDOW_UPDATE, 0, 0, update))
            if not flags & END_STREAM:
                writer.write(frame(WINDOW_UPDATE, 0, stream, update))
                continue
            ok = block((":status", "200"), ("content-type", "application/grpc"))
            done = block(("grpc-status", "0"))
            writer.write(
                frame(HEADERS, END_HEADERS, stream, ok)
                + frame(DATA, 0, stream, message(b"ok"))
                + frame(HEADERS, END_HEADERS | END_STREAM, stream, done)
            )

    async with serving(slow) as address, client(address) as one:
        chunks = tuple(bytes([number]) * (size // 16) for number in range(16))
        tracemalloc.start()
        try:
            assert await one.call(PATH, chunks, timeout=60) == b"ok"
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert got == size + 5
        assert peak < 4 * MIB
