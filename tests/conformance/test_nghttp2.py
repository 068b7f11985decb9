"""What every engine's client does with nghttp2's own server, which knows no gRPC."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType

import pytest

from k8strace.grpc.status import Code, StatusError
from tests.conformance.test_client import client
from tests.support.backend import PATH
from tests.support.ports import free_port
from tests.support.programs import installed, listening, running

ECHO = ("--echo-upload", "--trailer=grpc-status: 0")


@asynccontextmanager
async def nghttpd(*options: str) -> AsyncIterator[str]:
    """The address of one that listens."""
    command = installed("nghttpd", "nghttp2-server")
    port = free_port()
    async with running(command, "--no-tls", "-a127.0.0.1", *options, str(port)):
        await listening(port)
        yield f"127.0.0.1:{port}"


@pytest.mark.parametrize("bits", [10, 16, 30])
async def test_a_message_of_any_size(engine: ModuleType, bits: int) -> None:
    """Through windows of 1 KiB to 1 GiB; the answer is the message."""
    options = (*ECHO, f"-w{bits}", f"-W{max(bits, 16)}")
    async with nghttpd(*options) as address:
        async with client(engine, address, compression="none") as one:
            for size in 0, 1, 1000, 100_000, 1_000_000:
                body = os.urandom(size)
                assert await one.call(PATH, (body,), timeout=20) == body


@pytest.mark.parametrize("streams", [1, 10, 1000])
async def test_the_limit_on_streams_is_kept(engine: ModuleType, streams: int) -> None:
    async with nghttpd(*ECHO, f"-m{streams}") as address:
        async with client(engine, address, compression="none") as one:
            bodies = [os.urandom(100) for _ in range(1000)]
            calls = [one.call(PATH, (body,), timeout=60) for body in bodies]
            assert await asyncio.gather(*calls) == bodies


async def test_an_answer_without_a_status(engine: ModuleType) -> None:
    async with nghttpd("--echo-upload") as address, client(engine, address) as one:
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (b"\x0a",), timeout=20)
        assert caught.value.code in (Code.INTERNAL, Code.UNKNOWN)


async def test_a_server_of_files_has_no_such_method(engine: ModuleType) -> None:
    """HTTP's 404 is gRPC's UNIMPLEMENTED."""
    async with nghttpd() as address, client(engine, address) as one:
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (b"\x0a",), timeout=20)
        assert caught.value.code is Code.UNIMPLEMENTED
