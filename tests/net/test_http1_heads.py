"""How long OTLP over HTTP waits for the head of a request."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.support.otlp import Receiving
from tests.support.pipeline import until
from tests.support.requests import request

GOOD = request(5).SerializeToString()
HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-protobuf\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD
SHORT = {"read_header_timeout": "1s"}
LONGER = 1.2  # seconds


async def answered(reader: asyncio.StreamReader) -> None:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 200 ")


async def ended(reader: asyncio.StreamReader) -> None:
    # Where a byte comes just when the end does, that is a reset.
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_a_connection_that_says_nothing_ends() -> None:
    async with Receiving(http=SHORT) as receiving:
        reader, writer = await receiving.connect()
        await ended(reader)
        writer.close()
        assert receiving.rejected("slow") == 0


@pytest.mark.parametrize("before", [b"", WHOLE], ids=["the first head", "the second"])
async def test_half_a_head_ends_its_connection(
    before: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with Receiving(http=SHORT) as receiving:
        reader, writer = await receiving.connect()
        if before:
            writer.write(before)
            await answered(reader)
        writer.write(HEAD)
        await ended(reader)
        writer.close()
        assert receiving.rejected("slow") == 1
    assert "the head of a request was not here after 1 s" in caplog.text


async def test_bytes_one_by_one_don_t_help() -> None:
    async with Receiving(http=SHORT) as receiving:
        reader, writer = await receiving.connect()
        end = asyncio.create_task(ended(reader))
        for byte in HEAD * 100:
            writer.write(bytes([byte]))
            if await asyncio.wait({end}, timeout=0.02) and end.done():
                break
        await end
        writer.close()
        assert receiving.rejected("slow") == 1


async def test_a_head_in_time_an_idle_connection_and_a_slow_body_are_left_alone() -> None:
    async with Receiving(http=SHORT) as receiving:
        reader, writer = await receiving.connect()
        writer.write(WHOLE)
        await answered(reader)
        await asyncio.sleep(LONGER)
        writer.write(WHOLE[:-10])
        await asyncio.sleep(LONGER)
        writer.write(WHOLE[-10:])
        await answered(reader)
        writer.close()
        assert receiving.sink.calls == 2
        assert receiving.rejected("slow") == 0


async def test_a_request_that_waits_for_the_one_before_is_left_alone() -> None:
    async with Receiving(http=SHORT) as receiving:
        receiving.sink.gate = gate = asyncio.Event()
        reader, writer = await receiving.connect()
        writer.write(WHOLE)
        await until(lambda: receiving.sink.calls == 1)
        writer.write(WHOLE)
        await asyncio.sleep(LONGER)
        gate.set()
        await answered(reader)
        await answered(reader)
        writer.close()
        assert receiving.rejected("slow") == 0


async def test_without_a_limit_a_head_may_take_for_ever() -> None:
    async with Receiving(http={"read_header_timeout": "0s"}) as receiving:
        reader, writer = await receiving.connect()
        writer.write(WHOLE[:20])
        await asyncio.sleep(LONGER)
        writer.write(WHOLE[20:])
        await answered(reader)
        writer.close()
