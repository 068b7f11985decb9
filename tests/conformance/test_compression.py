"""Messages that are compressed: small ones, and those that threads see to."""

from __future__ import annotations

import gzip
import os
from types import ModuleType
from typing import Any

import grpc
import pytest
import zstandard

from k8strace.budget import Budget, Lease
from k8strace.grpc import Call, ClientSettings, native
from k8strace.grpc.status import Code, StatusError
from tests.support.backend import PATH
from tests.support.engine import MIB, Rig, channel, failure, send
from tests.support.http2 import (
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
from tests.support.snappy import block, framed
from tests.test_codec import zstd_streamed

CODE = grpc.StatusCode
GZIPPED = {"compression": grpc.Compression.Gzip}
ZSTD_WITHOUT_SIZE = zstd_streamed(b"\x0a" * 5 * MIB)


async def taken(call: Call) -> bytes:
    assert call.lease is not None
    assert call.lease.size == len(call.message)
    return b"taken"


def packed(body: bytes, encoding: str) -> bytes:
    """A call on stream 1."""
    block = headers(*GRPC, ("grpc-encoding", encoding))
    whole = message(body, 1)
    sizes = range(0, len(whole), 16384)
    data = [frame(DATA, 0, 1, whole[start : start + 16384]) for start in sizes]
    end = frame(DATA, END_STREAM, 1, b"")
    return frame(HEADERS, END_HEADERS, 1, block) + b"".join(data) + end


@pytest.mark.parametrize("random", [True, False])
async def test_large_messages(engine: ModuleType, random: bool) -> None:
    body = os.urandom(5 * MIB) if random else b"\x0a" * 5 * MIB
    async with Rig(engine) as rig, channel(rig) as one:
        rig.answer = taken
        assert await send(one, body, **GZIPPED) == b"taken"
        assert (
            await send(one, gzip.compress(body[:9]) + gzip.compress(body[9:])) == b"taken"
        )
        assert [call.message for call in rig.calls] == [body, body]
        await rig.at_rest()


@pytest.mark.slow
async def test_the_largest_messages(engine: ModuleType) -> None:
    body = os.urandom(64) * MIB
    async with Rig(engine, budget=Budget(256 * MIB)) as rig, channel(rig) as one:
        rig.answer = taken
        assert await send(one, body, **GZIPPED) == b"taken"
        assert rig.calls[0].message == body
        await rig.at_rest()
        caught = await failure(one, body + b"\x0a", **GZIPPED)
        assert caught.code() is CODE.RESOURCE_EXHAUSTED


async def test_large_messages_that_are_wrong(engine: ModuleType) -> None:
    body = gzip.compress(os.urandom(2 * MIB))
    budget = Budget(24 * MIB)
    async with (
        Rig(engine, budget=budget, max_message_size=10 * MIB) as rig,
        channel(rig) as one,
    ):
        rig.answer = taken
        for wrong, code, reason in (
            (body[:-1], CODE.INVALID_ARGUMENT, "decode_error"),
            (body + b"x", CODE.INVALID_ARGUMENT, "decode_error"),
            (gzip.compress(bytes(12 * MIB)), CODE.RESOURCE_EXHAUSTED, "msg_too_large"),
        ):
            caught = await failure(one, wrong)
            assert caught.code() is code
            assert rig.reasons == [reason]
            rig.rejects.clear()
            assert await send(one, body) == b"taken"
            await rig.at_rest()
        lease = Lease(budget, 20 * MIB, "another")
        caught = await failure(one, gzip.compress(bytes(8 * MIB)))
        assert caught.code() is CODE.UNAVAILABLE
        assert rig.reasons == ["memory"]
        del lease
        await rig.at_rest()


async def test_zstd_and_snappy_are_of_the_native_engine(engine: ModuleType) -> None:
    async with Rig(engine) as rig:
        rig.answer = taken
        for body, encoding in (
            (zstandard.compress(b"\x0a\x00"), "zstd"),
            (ZSTD_WITHOUT_SIZE, "zstd"),
            (framed(b"\x0a\x00"), "snappy"),
            (block(b"\x0a\x00"), "snappy"),
        ):
            async with Raw(rig.address) as raw:
                await raw.send(packed(body, encoding))
                status = await raw.status()
            assert (status == Code.OK) is (engine is native)
        messages = [call.message for call in rig.calls]
        small = b"\x0a\x00"
        expected = [small, b"\x0a" * 5 * MIB, small, small]
        assert messages == (expected if engine is native else [])
        await rig.at_rest()


@pytest.mark.parametrize("compression", ["gzip", "zstd", "snappy", "none"])
@pytest.mark.parametrize("size", [0, 1, 500, 100_000, MIB + 1, 4 * MIB])
async def test_from_client_to_server(compression: Any, size: int) -> None:
    parts = (os.urandom(size // 2), b"\x0a" * (size - size // 2))
    async with Rig(native) as rig:
        rig.answer = taken
        client = native.Client(ClientSettings(target=rig.address, compression=compression))
        await client.start()
        assert await client.call(PATH, parts, timeout=20) == b"taken"
        assert rig.calls[0].message == b"".join(parts)
        await client.stop()
        await rig.at_rest()


async def test_a_client_hears_what_the_server_thinks_of_its_zstd() -> None:
    async with Rig(native, max_message_size=2 * MIB) as rig:
        rig.answer = taken
        client = native.Client(ClientSettings(target=rig.address, compression="zstd"))
        await client.start()
        with pytest.raises(StatusError, match="larger than") as caught:
            await client.call(PATH, (bytes(3 * MIB),), timeout=20)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        await client.stop()


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("zstd", Code.OK),
        ("identity", Code.INTERNAL),
        ("gzip", Code.INVALID_ARGUMENT),
        ("snappy", Code.INVALID_ARGUMENT),
        ("br", Code.UNIMPLEMENTED),
    ],
)
async def test_what_a_message_says_it_is(encoding: str, code: Code) -> None:
    async with Rig(native) as rig, Raw(rig.address) as raw:
        await raw.send(packed(zstandard.compress(b"\x0a\x00"), encoding))
        assert await raw.status() == code


async def test_a_call_that_is_taken_back_while_it_is_inflated() -> None:
    async with Rig(native, budget=Budget(256 * MIB)) as rig, Raw(rig.address) as raw:
        await raw.send(
            packed(gzip.compress(bytes(60 * MIB)), "gzip"),
            frame(RST_STREAM, 0, 1, bytes(4)),
        )
        await rig.until(lambda: bool(rig.rejects))
        assert rig.reasons == ["incomplete"]
        assert not rig.calls
        await rig.at_rest()
