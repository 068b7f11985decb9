"""What every engine bounds: messages, their decompression, memory."""

from __future__ import annotations

import asyncio
import gzip
import os
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.budget import Budget, Lease
from k8strace.grpc import Call
from tests.support.backend import PATH
from tests.support.engine import Rig, channel, delay_of, failure, send
from tests.support.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC,
    HEADERS,
    Raw,
    frame,
    headers,
    message,
)

CODE = grpc.StatusCode


async def test_the_limit_is_on_the_decompressed_size(engine: ModuleType) -> None:
    limit = 100_000
    random = b"\x0a" + os.urandom(limit)
    async with Rig(engine, max_message_size=limit) as rig, channel(rig) as one:
        for body, options in (
            (random, {}),
            (bytes(20 * limit), {}),
            (random, {"compression": grpc.Compression.Gzip}),
            (b"\x0a" * (limit + 1), {"compression": grpc.Compression.Gzip}),
            (gzip.compress(bytes(300 * limit)), {}),
            (gzip.compress(bytes(limit)) + gzip.compress(b"x"), {}),
        ):
            caught = await failure(one, body, **options)
            assert caught.code() is CODE.RESOURCE_EXHAUSTED
            assert delay_of(caught) is None
            exact = b"\x0a" * limit
            assert await send(one, exact, **options) == exact
        assert rig.reasons == ["msg_too_large"] * 6
        await rig.at_rest()


GZIP = gzip.compress(b"\x0a" * 500 + os.urandom(500))


@pytest.mark.parametrize(
    "body",
    [
        GZIP[:2],
        GZIP[:15],
        GZIP[:-9],
        GZIP[:-1],
        GZIP[:-8] + b"\0\0\0\0" + GZIP[-4:],
        GZIP[:200] + b"\xff\xff\xff\xff" + GZIP[204:],
        GZIP + b"trailing",
        GZIP + GZIP[:-1],
        gzip.compress(b"") * 5000,
    ],
    ids=range(9),
)
async def test_what_is_wrongly_compressed_is_malformed(
    engine: ModuleType, body: bytes
) -> None:
    async with Rig(engine) as rig, channel(rig) as one:
        caught = await failure(one, body)
        assert caught.code() is CODE.INVALID_ARGUMENT
        assert "gzip" in caught.details()
        assert rig.reasons == ["decode_error"]
        assert await send(one, GZIP) == gzip.decompress(GZIP)
        await rig.at_rest()


async def test_other_encodings_are_not_implemented(engine: ModuleType) -> None:
    async with Rig(engine) as rig, channel(rig) as one:
        caught = await failure(one, b"\x0a" * 1000, compression=grpc.Compression.Deflate)
        assert caught.code() is CODE.UNIMPLEMENTED
        assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        async with Raw(rig.address) as raw:
            await raw.send(
                frame(HEADERS, END_HEADERS, 1, headers(*GRPC, ("grpc-encoding", "br"))),
                frame(DATA, END_STREAM, 1, message(zlib.compress(b"\x0a\x00"), 1)),
            )
            assert await raw.status() > 0
        assert len(rig.calls) == 1


async def test_a_full_budget_holds_the_answer_and_then_refuses(engine: ModuleType) -> None:
    budget = Budget(1000)
    async with Rig(engine, budget=budget) as rig, channel(rig) as one:
        lease = Lease(budget, 950, "another")
        caught = await failure(one, b"\x0a" * 100, timeout=3)
        assert caught.code() is CODE.UNAVAILABLE
        assert "memory" in caught.details()
        assert delay_of(caught) is not None
        assert rig.reasons == ["memory"]
        assert await send(one, b"\x0a" * 40) == b"\x0a" * 40

        sending = asyncio.ensure_future(send(one, b"\x0a" * 100))
        while not budget.waiting:  # noqa: ASYNC110  (core brings the message)
            await asyncio.sleep(0)
        del lease
        assert await sending == b"\x0a" * 100
        await rig.at_rest()


async def test_a_caller_that_goes_away_while_it_is_held(engine: ModuleType) -> None:
    budget = Budget(1000)
    async with Rig(engine, budget=budget) as rig, channel(rig) as one:
        for size in (1000, 950):
            lease = Lease(budget, size, "another")
            method: Any = one.unary_unary(PATH)
            call = method(b"\x0a" * 100)
            while not budget.waiting:  # noqa: ASYNC110  (core brings the message)
                await asyncio.sleep(0)
            call.cancel()
            await rig.until(lambda: bool(rig.rejects))
            assert rig.reasons == ["incomplete"]
            rig.rejects.clear()
            assert not budget.waiting
            del lease
        assert await send(one, b"\x0a" * 100) == b"\x0a" * 100


async def test_nothing_is_read_while_the_budget_is_used_up(engine: ModuleType) -> None:
    budget = Budget(1000)
    async with Rig(engine, budget=budget) as rig, channel(rig) as one:
        lease = Lease(budget, 1000, "another")
        caught = await failure(one, b"\x0a", timeout=3)
        assert caught.code() is CODE.UNAVAILABLE
        assert rig.reasons == ["memory"]
        assert not rig.calls
        del lease
        assert await send(one, b"\x0a") == b"\x0a"


async def test_a_peer_over_its_share_does_not_hold_up_others(
    engine: ModuleType, tmp_path: Path
) -> None:
    budget = Budget(1000)
    gate = asyncio.Event()

    async def answer(call: Call) -> bytes:
        await gate.wait()
        return b"ok"

    path = str(tmp_path / "otlp.sock")
    async with (
        Rig(engine, budget=budget) as rig,
        Rig(engine, budget=budget, endpoint=path, transport="unix") as unix,
        channel(rig) as one,
        channel(unix) as other,
    ):
        rig.answer = unix.answer = answer
        small = asyncio.ensure_future(send(other, b"\x0a" * 10))
        await unix.until(lambda: len(unix.calls) == 1)
        big = asyncio.ensure_future(send(one, b"\x0a" * 450))
        await rig.until(lambda: len(rig.calls) == 1)
        caught = await failure(one, b"\x0a" * 100, timeout=3)
        assert caught.code() is CODE.UNAVAILABLE
        assert "share" in caught.details()
        assert rig.reasons == ["memory"]
        more = asyncio.ensure_future(send(other, b"\x0a" * 300))
        await unix.until(lambda: len(unix.calls) == 2)
        gate.set()
        for running in (small, big, more):
            assert await running == b"ok"
        rig.calls.clear()
        unix.calls.clear()
        await rig.at_rest()


async def test_inflation_without_room_is_refused(engine: ModuleType) -> None:
    budget = Budget(100_000)
    async with Rig(engine, budget=budget) as rig, channel(rig) as one:
        body = b"\x0a" * 200_000
        caught = await failure(one, body, compression=grpc.Compression.Gzip)
        assert caught.code() is CODE.UNAVAILABLE
        assert delay_of(caught) is not None
        assert rig.reasons == ["memory"]
        await rig.at_rest()
        assert await send(one, body[:50_000], compression=grpc.Compression.Gzip)
