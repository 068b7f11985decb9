"""What every engine's server does for real clients."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.budget import LONGEST_PACE, Budget
from k8strace.errors import MalformedPayloadError, RefusedError, RejectedError
from k8strace.grpc import Call, ServerKeepalive
from k8strace.grpc.status import Code, StatusError
from k8strace.units import Duration
from tests.support.backend import PATH
from tests.support.engine import MIB, OPTIONS, Rig, channel, delay_of, failure, send
from tests.support.http2 import (
    GOAWAY,
    Raw,
)
from tests.support.ports import free_port

CODE = grpc.StatusCode


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 2 * MIB])
async def test_a_message_arrives_as_it_was_sent(
    engine: ModuleType, compression: grpc.Compression | None, size: int
) -> None:
    body = (b"\x0a" + os.urandom(99)) * (size // 100) + b"\x0a" * (size % 100)
    async with Rig(engine) as rig, channel(rig) as one:
        assert await send(one, body, compression=compression) == body
        (call,) = rig.calls
        assert call.lease is not None
        assert call.lease.size == len(body) == rig.budget.used
        del call
        await rig.at_rest()


async def test_senders_go_at_the_pace_of_what_is_behind(engine: ModuleType) -> None:
    """Each request is served; between two of a sender, others have time to go on."""
    budget = Budget(MIB)
    budget.backlog = MIB // 2
    async with Rig(engine, budget=budget) as rig, channel(rig) as one:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(4):
            assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        assert loop.time() - begun >= 3 * LONGEST_PACE - 0.01
        await rig.at_rest()


async def test_the_synchronous_client(engine: ModuleType) -> None:
    async with Rig(engine) as rig:

        def client() -> bytes:
            with grpc.insecure_channel(rig.address, options=OPTIONS) as one:
                method: Any = one.unary_unary(PATH)
                answer: bytes = method(
                    b"\x0ahello" * 100, timeout=20, compression=grpc.Compression.Gzip
                )
                return answer

        assert await asyncio.to_thread(client) == b"\x0ahello" * 100


async def test_a_message_of_several_gzip_members(engine: ModuleType) -> None:
    async with Rig(engine) as rig, channel(rig) as one:
        parts = [b"\x0a" * 1000, b"", b"\x12" * 5]
        body = b"".join(map(gzip.compress, parts))
        assert await send(one, body) == b"".join(parts)


async def test_deadline_peer_and_metadata(engine: ModuleType) -> None:
    async with Rig(engine, include_metadata=True) as rig, channel(rig) as one:
        before = asyncio.get_running_loop().time()
        metadata = (("x-tenant", "blue"), ("x-raw-bin", b"\xff"))
        await send(one, b"\x0a\x00", timeout=3.0, metadata=metadata)
        await send(one, b"\x0a\x00", timeout=100.0)
        await send(one, b"\x0a\x00", timeout=None)
        after = asyncio.get_running_loop().time()
        short, long, none = rig.calls
        assert short.deadline is not None
        assert before < short.deadline <= after + 3.1  # clocks are not read at once
        assert short.wait_until < short.deadline
        assert before + 1.9 <= long.wait_until <= after + 2
        assert none.deadline is None
        assert before + 2 <= none.wait_until <= after + 2
        host, _, port = short.origin.peer.rpartition(":")
        assert host == "127.0.0.1"
        assert port.isdigit()
        assert dict(short.origin.metadata)["x-tenant"] == "blue"
        assert "x-raw-bin" not in dict(short.origin.metadata)
        assert short.lease is not None
        assert short.lease.beside >= len("x-tenant") + len("blue")


async def test_metadata_is_left_out_when_nobody_asks(engine: ModuleType) -> None:
    async with Rig(engine) as rig, channel(rig) as one:
        await send(one, b"\x0a\x00", metadata=(("x-tenant", "blue"),))
        assert rig.calls[0].origin.metadata == ()


async def test_ipv6(engine: ModuleType) -> None:
    try:
        rig = Rig(engine, endpoint="[::1]:0")
        await rig.server.start()
    except OSError:
        pytest.skip("this machine has no IPv6")
    await rig.server.stop(0)
    async with Rig(engine, endpoint="[::1]:0") as rig, channel(rig) as one:
        assert rig.address.startswith("[::1]:")
        await send(one, b"\x0a\x00")
        assert rig.calls[0].origin.peer.startswith("[::1]:")


async def test_all_addresses(engine: ModuleType) -> None:
    async with Rig(engine, endpoint=":0") as rig:
        port = rig.address.rpartition(":")[2]
        rig.address = f"127.0.0.1:{port}"
        async with channel(rig) as one:
            assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        assert rig.calls[0].origin.peer.startswith("127.0.0.1:")


@pytest.mark.parametrize("form", ["{}", "unix:{}", "unix://{}"])
async def test_unix_socket(engine: ModuleType, tmp_path: Path, form: str) -> None:
    path = tmp_path / "otlp.sock"
    async with (
        Rig(engine, endpoint=form.format(path), transport="unix") as rig,
        channel(rig) as one,
    ):
        assert rig.address == f"unix:{path}"
        await send(one, b"\x0a\x00")
        assert rig.calls[0].origin.peer == "unix:"
    assert not path.exists()


async def test_abstract_unix_socket(engine: ModuleType) -> None:
    name = f"@k8strace-test-{os.getpid()}"
    async with Rig(engine, endpoint=name, transport="unix") as rig, channel(rig) as one:
        assert await send(one, b"\x0a\x00") == b"\x0a\x00"


async def test_an_endpoint_in_use_is_named(engine: ModuleType, tmp_path: Path) -> None:
    path = str(tmp_path / "otlp.sock")
    async with Rig(engine) as rig, Rig(engine, endpoint=path, transport="unix") as unix:
        with pytest.raises(OSError, match="in use") as caught:
            await Rig(engine, endpoint=rig.address).server.start()
        assert rig.address in str(caught.value)
        with pytest.raises(OSError, match="in use") as caught:
            await Rig(engine, endpoint=path, transport="unix").server.start()
        assert path in str(caught.value)
        async with channel(unix) as one:
            assert await send(one, b"\x0a\x00") == b"\x0a\x00"


@pytest.mark.parametrize(
    ("error", "code", "text", "delay"),
    [
        (RefusedError("queue is full", 0.7), CODE.UNAVAILABLE, "queue is full", 0.7),
        (RefusedError("later"), CODE.UNAVAILABLE, "later", 1.0),
        (RefusedError("much later", 60), CODE.UNAVAILABLE, "much later", 2.0),
        (RefusedError("at once", 0), CODE.UNAVAILABLE, "at once", 0.1),
        (RejectedError("no"), CODE.INVALID_ARGUMENT, "no", None),
        (RejectedError("bug", "internal_error"), CODE.INTERNAL, "bug", None),
        (MalformedPayloadError("bad", 7), CODE.INVALID_ARGUMENT, "bad at byte 7", None),
    ],
)
async def test_errors_become_statuses(
    engine: ModuleType, error: Exception, code: Any, text: str, delay: float | None
) -> None:
    async def answer(call: Call) -> bytes:
        raise error

    async with Rig(engine) as rig, channel(rig) as one:
        rig.answer = answer
        caught = await failure(one, b"\x0a\x00")
        assert (caught.code(), caught.details()) == (code, text)
        assert delay_of(caught) == delay
        rig.answer = None
        await send(one, b"\x0a\x00")


@pytest.mark.parametrize("delay", [0.5, None])
async def test_the_longest_text_fits_where_clients_have_a_limit(
    engine: ModuleType, delay: float | None
) -> None:
    """gRPC's core makes RESOURCE_EXHAUSTED of trailers that are too large, at random."""

    async def answer(call: Call) -> bytes:
        raise StatusError(Code.UNAVAILABLE, call.message.decode() * 8192, delay)

    async with Rig(engine) as rig, channel(rig) as one:
        rig.answer = answer
        for text in ("x", "%", "ü", "花", "\U0001f600", "\n"):
            for _ in range(20):
                error = await failure(one, text.encode())
                assert error.code() is CODE.UNAVAILABLE, error
                assert error.details().startswith(text * 20)
                assert delay_of(error) == delay


async def test_a_fault_of_the_machine_passes(engine: ModuleType) -> None:
    async def answer(call: Call) -> bytes:
        raise MemoryError

    async with Rig(engine) as rig, channel(rig) as one:
        rig.answer = answer
        error = await failure(one, b"x")
        assert (error.code(), delay_of(error)) == (CODE.UNAVAILABLE, 1.0)


async def test_a_defect_is_internal_and_logged(
    engine: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(call: Call) -> bytes:
        raise ZeroDivisionError("secret")

    async with Rig(engine) as rig, channel(rig) as one:
        rig.answer = answer
        with caplog.at_level(logging.ERROR):
            caught = await failure(one, b"\x0a\x00")
        assert caught.code() is CODE.INTERNAL
        assert "secret" not in caught.details()
        assert "secret" in caplog.text


async def test_an_error_frees_the_message_at_once(engine: ModuleType) -> None:
    """Without a garbage collection: nothing that is kept points at a cycle."""

    async def answer(call: Call) -> bytes:
        failures = [RefusedError("one"), RefusedError("two")]
        raise failures[0]  # a cycle: error, traceback, frame, list, error

    async with Rig(engine) as rig, channel(rig) as one:
        rig.answer, rig.keep_calls = answer, False
        gc.collect()
        gc.disable()
        try:
            for compression in (None, grpc.Compression.Gzip):
                await failure(one, b"\x0a" * 1000, compression=compression)
                await rig.at_rest()
            await failure(one, gzip.compress(b"\x0a" * 100)[:-2])
            await rig.at_rest()
        finally:
            gc.enable()


async def test_an_unknown_method(engine: ModuleType) -> None:
    async with Rig(engine) as rig, channel(rig) as one:
        for path in ("/no.such.Service/Export", f"{PATH}2", "/"):
            caught = await failure(one, b"\x0a\x00", path=path)
            assert caught.code() is CODE.UNIMPLEMENTED
            assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        assert rig.reasons == ["unknown_method"] * 3


async def test_concurrent_streams_are_limited(engine: ModuleType) -> None:
    running = most = 0

    async def answer(call: Call) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return b"ok"

    async with Rig(engine, max_concurrent_streams=2) as rig:
        rig.answer = answer
        # As by default, the client sends what is refused by REFUSED_STREAM once more.
        async with grpc.aio.insecure_channel(rig.address, options=OPTIONS[:1]) as one:
            await send(one, b"\x0a")  # from now on it knows the server's settings
            await asyncio.gather(*(send(one, b"\x0a") for _ in range(10)))
        assert most == 2


async def test_connections_end_at_their_age(engine: ModuleType) -> None:
    keepalive = ServerKeepalive(
        max_connection_age=Duration(0.05), max_connection_age_grace=Duration(20)
    )
    async with Rig(engine, keepalive=keepalive) as rig, Raw(rig.address) as raw:
        assert (await raw.frame(GOAWAY)).type == GOAWAY
        async with channel(rig) as one:
            for _ in range(5):
                assert await send(one, b"\x0a", wait_for_ready=True) == b"\x0a"


async def test_stop_lets_running_calls_end(engine: ModuleType) -> None:
    gate = asyncio.Event()

    async def answer(call: Call) -> bytes:
        await gate.wait()
        return b"late"

    endpoint = f"127.0.0.1:{free_port()}"
    async with Rig(engine, endpoint=endpoint) as rig, channel(rig) as one:
        rig.answer = answer
        running = asyncio.ensure_future(send(one, b"\x0a"))
        await rig.until(lambda: len(rig.calls) == 1)
        stopping = asyncio.ensure_future(rig.server.stop(20))
        async with channel(rig) as other:
            caught = await failure(other, b"\x0a")
        assert caught.code() is CODE.UNAVAILABLE
        assert not stopping.done()
        gate.set()
        assert await running == b"late"
        await stopping
        await rig.server.stop(20)
        async with Rig(engine, endpoint=rig.address) as again, channel(again) as other:
            assert await send(other, b"\x0a") == b"\x0a"


async def test_stop_cancels_what_does_not_end_in_time(engine: ModuleType) -> None:
    async def answer(call: Call) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with Rig(engine) as rig, channel(rig) as one:
        rig.answer = answer
        running = asyncio.ensure_future(failure(one, b"\x0a" * 100))
        await rig.until(lambda: len(rig.calls) == 1)
        await rig.server.stop(0.05)
        caught = await running
        assert caught.code() in (CODE.UNAVAILABLE, CODE.CANCELLED)
        await rig.at_rest()


async def test_stop_without_start(engine: ModuleType) -> None:
    rig = Rig(engine)
    await rig.server.stop(1)
    await rig.server.stop(1)
    assert rig.budget.used == 0
