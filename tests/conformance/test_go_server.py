"""What every engine's client does with grpc-go's server."""

from __future__ import annotations

import asyncio
import hashlib
import os
from types import ModuleType

import pytest
from google.rpc.status_pb2 import Status

from k8strace.exporters._refusals import is_about_size
from k8strace.grpc import native
from k8strace.grpc.status import Code, StatusError
from tests.conformance.test_client import client
from tests.support.backend import PATH
from tests.support.engine import MIB, ONE_LOOP
from tests.support.programs import go_server

LARGE = ("-max-message", str(64 * MIB))


def skip_unless_sent(engine: ModuleType, compression: str) -> None:
    if compression == "snappy" and engine is not native:
        pytest.skip("the engine grpcio does not send snappy")


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy"])
async def test_a_message_of_any_size(engine: ModuleType, compression: str) -> None:
    skip_unless_sent(engine, compression)
    chunk = os.urandom(32 * 1024) + bytes(32 * 1024)
    async with (
        go_server(*LARGE) as server,
        client(engine, server.address, compression=compression) as one,
    ):
        for chunks in (), (b"\x0a",), (b"", chunk[:1000]), (chunk, b"", chunk[:1]) * 33:
            body = b"".join(chunks)
            assert await one.call(PATH, chunks, timeout=20) == b"answer"
            call = await server.call()
            assert (call.path, call.size) == (PATH, len(body))
            assert call.sha256 == hashlib.sha256(body).hexdigest()
            assert call.encoding == ("" if compression == "none" else compression)


@ONE_LOOP
@pytest.mark.parametrize("window", [0, 65_536, 16 * MIB])
async def test_the_largest_message(engine: ModuleType, window: int) -> None:
    options = (*LARGE, "-window", str(window))
    async with (
        go_server(*options) as server,
        client(engine, server.address, compression="none") as one,
    ):
        chunks = (os.urandom(MIB),) * 64
        assert await one.call(PATH, chunks, timeout=60) == b"answer"
        assert (await server.call()).size == 64 * MIB
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (*chunks, b"x"), timeout=60)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert is_about_size(caught.value.message)
        assert await one.call(PATH, (b"x",), timeout=20) == b"answer"


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy"])
async def test_large_answers(engine: ModuleType, compression: str) -> None:
    """grpc-go compresses the answer where the request was."""
    skip_unless_sent(engine, compression)
    async with (
        go_server() as server,
        client(engine, server.address, compression=compression) as one,
    ):
        for size in 0, 1, 100_000, 3 * MIB:
            metadata = (("x-answer-size", str(size)),)
            answer = await one.call(PATH, (b"\x0a",), timeout=20, metadata=metadata)
            assert len(answer) == size
        metadata = (("x-answer-size", str(5 * MIB)),)
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (b"\x0a",), timeout=20, metadata=metadata)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("headers", [False, True], ids=["trailers only", "headers first"])
async def test_every_status(engine: ModuleType, headers: bool) -> None:
    async with go_server() as server, client(engine, server.address) as one:
        for code in Code:
            if code is Code.OK:
                continue
            error = StatusError(code, "100 % because\nünïcode: 花", 2.5)
            with pytest.raises(StatusError) as caught:
                await one.call(
                    PATH,
                    (b"\x0a\x00",),
                    timeout=20,
                    metadata=asking(error.proto(), headers=headers),
                )
            assert (caught.value.code, caught.value.retry_delay) == (code, 2.5)
            assert error.message in caught.value.message


def asking(status: Status, *, headers: bool) -> tuple[tuple[str, str], ...]:
    """Metadata that makes the server answer so."""
    wanted = ("x-status", status.SerializeToString().hex())
    return (wanted, ("x-headers", "")) if headers else (wanted,)


async def test_metadata_and_deadline(engine: ModuleType) -> None:
    metadata = (("x-tenant", "blue"), ("x-other", "red and green"))
    async with (
        go_server() as server,
        client(engine, server.address, user_agent="k8strace/1") as one,
    ):
        await one.call(PATH, (b"",), timeout=5, metadata=metadata)
        await one.call(PATH, (b"",), timeout=None)
        call, other = await server.call(), await server.call()
        assert [call.metadata[name] for name, _ in metadata] == [[v] for _, v in metadata]
        assert call.metadata["user-agent"][0].startswith("k8strace/1")
        assert call.metadata[":authority"] == [server.address]
        assert 3 < call.deadline < 5.1  # core rounds it up
        assert other.deadline == 0


@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_what_is_given_up_is_cancelled_there(engine: ModuleType, how: str) -> None:
    async with go_server() as server, client(engine, server.address) as one:
        await one.call(PATH, (b"",), timeout=20)
        await server.call()
        timeout = 0.5 if how == "deadline" else 20
        calling = asyncio.ensure_future(
            one.call(PATH, (b"",), timeout=timeout, metadata=(("x-hang", ""),))
        )
        if how == "cancel":
            await server.call()  # it has come
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
        else:
            with pytest.raises(StatusError) as caught:
                await calling
            assert caught.value.code is Code.DEADLINE_EXCEEDED
            await server.call()
        ended = (await server.call()).ended
        assert ended == "Canceled" or (how == "deadline" and ended == "DeadlineExceeded")


@pytest.mark.parametrize("streams", [1, 10, 1000])
async def test_the_limit_on_streams_is_kept(engine: ModuleType, streams: int) -> None:
    async with (
        go_server("-max-streams", str(streams), "-quiet") as server,
        client(engine, server.address, compression="none") as one,
    ):
        calls = [one.call(PATH, (b"\x0a" * 100,), timeout=60) for _ in range(1000)]
        assert await asyncio.gather(*calls) == [b"answer"] * 1000


@ONE_LOOP
async def test_nothing_is_lost_where_connections_end_at_their_age(
    engine: ModuleType,
) -> None:
    """Of calls that are told to wait; each is answered once."""
    options = ("-max-age", "100ms", "-grace", "20s")
    async with (
        go_server(*options) as server,
        client(engine, server.address, wait_for_ready=True) as one,
    ):

        async def some(number: int) -> None:
            for _ in range(number):
                assert await one.call(PATH, (b"\x0a",), timeout=20) == b"answer"

        peers: set[str] = set()
        async with asyncio.timeout(60):
            while len(peers) < 2:
                sending = asyncio.gather(*(some(300) for _ in range(10)))
                peers |= {(await server.call()).peer for _ in range(3000)}
                await sending
