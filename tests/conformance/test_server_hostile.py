"""What every engine does with clients that go away, lie or send rubbish."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from types import ModuleType

import grpc
import grpc.aio
import pytest

from k8strace.budget import Budget
from k8strace.grpc import Call
from tests.support.engine import MIB, Rig, channel, failure, send
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

CODE = grpc.StatusCode


async def test_a_caller_that_goes_away_cancels_its_call(engine: ModuleType) -> None:
    ended: list[str] = []
    over = asyncio.Event()

    async def answer(call: Call) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            over.set()
            raise
        return b""

    async with Rig(engine) as rig, channel(rig) as one:
        await send(one, b"\x0a\x00")  # the connection is there before the time begins
        rig.calls.clear()
        rig.answer = answer
        caught = await failure(one, b"\x0a" * 100, timeout=1)
        assert caught.code() is CODE.DEADLINE_EXCEEDED
        await asyncio.wait_for(over.wait(), 20)
        over.clear()
        async with Raw(rig.address) as raw:
            await raw.send(
                frame(HEADERS, END_HEADERS, 1, headers(*GRPC)),
                frame(DATA, END_STREAM, 1, message(b"\x0a" * 100)),
            )
            await rig.until(lambda: len(rig.calls) == 2)
            raw.reset()
            await asyncio.wait_for(over.wait(), 20)
        assert ended == ["cancelled"] * 2
        await rig.at_rest()
        rig.answer = None
        assert await send(one, b"\x0a\x00") == b"\x0a\x00"


BEGUN = frame(HEADERS, END_HEADERS, 1, headers(*GRPC))
PART = message(b"\x0a" * 1000)[:100]


@pytest.mark.parametrize("body", [b"", frame(DATA, 0, 1, PART)], ids=["nothing", "part"])
@pytest.mark.parametrize("end", ["half close", "reset stream", "reset connection"])
async def test_a_message_that_never_comes_whole(
    engine: ModuleType, body: bytes, end: str
) -> None:
    async with Rig(engine) as rig, channel(rig) as one, Raw(rig.address) as raw:
        await raw.send(BEGUN, body)
        await send(one, b"\x0a\x00")
        if end == "half close":
            await raw.send(frame(DATA, END_STREAM, 1))
        elif end == "reset stream":
            await raw.send(frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big")))
        else:
            raw.reset()
        await rig.until(lambda: bool(rig.rejects))
        assert rig.reasons == ["incomplete"]
        assert len(rig.calls) == 1
        assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        await rig.at_rest()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(1000),
        frame(DATA, END_STREAM, 1, message(b"\x0a\x00")),
        frame(HEADERS, END_HEADERS, 1, b"\xff" * 100),
        frame(HEADERS, END_HEADERS | END_STREAM, 2, headers(*GRPC)),
        frame(99, 255, 1, bytes(100)),
    ],
    ids=range(6),
)
async def test_rubbish_on_one_connection_hurts_no_other(
    engine: ModuleType, rubbish: bytes
) -> None:
    async with Rig(engine) as rig, channel(rig) as one, Raw(rig.address) as raw:
        await raw.send(rubbish)
        with suppress(ConnectionError):  # it may be gone already
            raw.writer.write_eof()
            await asyncio.wait_for(raw.reader.read(), 20)
        assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        assert len(rig.calls) == 1


async def test_a_declared_size_over_the_limit_is_refused_before_it_comes(
    engine: ModuleType,
) -> None:
    async with Rig(engine, max_message_size=1000) as rig, Raw(rig.address) as raw:
        await raw.send(BEGUN, frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"))
        assert await raw.status() == 8
        await rig.until(lambda: bool(rig.rejects))
        assert rig.reasons == ["msg_too_large"]


async def test_streams_that_announce_much_and_go_silent_hold_up_nobody(
    engine: ModuleType,
) -> None:
    budget = Budget(256 * MIB)
    announced = message(b"")[:1] + (64 * MIB).to_bytes(4, "big")
    async with Rig(engine, budget=budget) as rig, Raw(rig.address, "127.0.0.2") as raw:
        for stream in range(1, 129, 2):
            begun = frame(HEADERS, END_HEADERS, stream, headers(*GRPC))
            await raw.send(begun, frame(DATA, 0, stream, announced))
        await raw.send(
            frame(HEADERS, END_HEADERS, 201, headers(*GRPC)),
            frame(DATA, END_STREAM, 201, message(b"\x0a")),
        )
        await rig.until(lambda: len(rig.calls) == 1)
        async with channel(rig) as one:
            for size in (1000, 10_000, 1_000_000) * 5:
                assert await send(one, bytes(size)) == bytes(size)
        rig.calls.clear()
        assert budget.used <= budget.limit // 2
        assert not rig.rejects
