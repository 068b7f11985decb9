"""What every engine's server does for real clients."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import os
import zlib
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.budget import Budget
from k8strace.errors import MalformedPayloadError, RefusedError, RejectedError
from k8strace.grpc import Call, ServerKeepalive
from k8strace.grpc.status import retry_delay
from k8strace.units import Duration
from tests.support.backend import PATH
from tests.support.engine import MIB, Rig
from tests.support.http2 import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GRPC,
    HEADERS,
    RST_STREAM,
    Raw,
    frame,
    headers,
    message,
)

CODE = grpc.StatusCode
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]


@asynccontextmanager
async def channel(rig: Rig) -> Any:
    async with grpc.aio.insecure_channel(rig.address, options=OPTIONS) as one:
        yield one


async def send(one: grpc.aio.Channel, body: bytes, **options: Any) -> bytes:
    options.setdefault("timeout", 20)
    path = options.pop("path", PATH)
    method: Any = one.unary_unary(path)
    answer: bytes = await method(body, **options)
    return answer


async def failure(one: grpc.aio.Channel, body: bytes, **options: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(one, body, **options)
    return caught.value


def delay_of(error: Any) -> float | None:
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    return None if details is None else retry_delay(details)


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
        host, _, port = short.peer.rpartition(":")
        assert host == "127.0.0.1"
        assert port.isdigit()
        assert dict(short.metadata)["x-tenant"] == "blue"
        assert "x-raw-bin" not in dict(short.metadata)


async def test_metadata_is_left_out_when_nobody_asks(engine: ModuleType) -> None:
    async with Rig(engine) as rig, channel(rig) as one:
        await send(one, b"\x0a\x00", metadata=(("x-tenant", "blue"),))
        assert rig.calls[0].metadata == ()


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
        assert rig.calls[0].peer.startswith("[::1]:")


async def test_all_addresses(engine: ModuleType) -> None:
    async with Rig(engine, endpoint=":0") as rig:
        port = rig.address.rpartition(":")[2]
        rig.address = f"127.0.0.1:{port}"
        async with channel(rig) as one:
            assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        assert rig.calls[0].peer.startswith("127.0.0.1:")


@pytest.mark.parametrize("form", ["{}", "unix:{}", "unix://{}"])
async def test_unix_socket(engine: ModuleType, tmp_path: Path, form: str) -> None:
    path = tmp_path / "otlp.sock"
    async with (
        Rig(engine, endpoint=form.format(path), transport="unix") as rig,
        channel(rig) as one,
    ):
        assert rig.address == f"unix:{path}"
        await send(one, b"\x0a\x00")
        assert rig.calls[0].peer == "unix:"
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
                assert rig.budget.used == 0
            await failure(one, gzip.compress(b"\x0a" * 100)[:-2])
            assert rig.budget.used == 0
        finally:
            gc.enable()


async def test_an_unknown_method(engine: ModuleType) -> None:
    async with Rig(engine) as rig, channel(rig) as one:
        for path in ("/no.such.Service/Export", f"{PATH}2", "/"):
            caught = await failure(one, b"\x0a\x00", path=path)
            assert caught.code() is CODE.UNIMPLEMENTED
            assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        assert rig.reasons == ["unknown_method"] * 3


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
                frame(HEADERS, END_HEADERS, 1, headers(*GRPC, ("grpc-encoding", "snappy"))),
                frame(DATA, END_STREAM, 1, message(zlib.compress(b"\x0a\x00"), 1)),
            )
            assert b"grpc-status" in await raw.trailers()
        assert len(rig.calls) == 1


async def test_a_full_budget_holds_the_answer_and_then_refuses(engine: ModuleType) -> None:
    budget = Budget(1000)
    async with Rig(engine, budget=budget) as rig, channel(rig) as one:
        lease = budget.lease(950, "another")
        caught = await failure(one, b"\x0a" * 100, timeout=1.5)
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


async def test_nothing_is_read_while_the_budget_is_used_up(engine: ModuleType) -> None:
    budget = Budget(1000)
    async with Rig(engine, budget=budget) as rig, channel(rig) as one:
        lease = budget.lease(1000, "another")
        caught = await failure(one, b"\x0a", timeout=1.0)
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
        caught = await failure(one, b"\x0a" * 100, timeout=1.0)
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
        rig.answer = answer
        caught = await failure(one, b"\x0a" * 100, timeout=0.3)
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
        raw.writer.write_eof()
        await asyncio.wait_for(raw.reader.read(), 20)
        assert await send(one, b"\x0a\x00") == b"\x0a\x00"
        assert len(rig.calls) == 1


async def test_a_declared_size_over_the_limit_is_refused_before_it_comes(
    engine: ModuleType,
) -> None:
    async with Rig(engine, max_message_size=1000) as rig, Raw(rig.address) as raw:
        await raw.send(BEGUN, frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"))
        assert b"grpc-status\x018" in await raw.trailers()
        await rig.until(lambda: bool(rig.rejects))
        assert rig.reasons == ["msg_too_large"]


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
        max_connection_age=Duration(0.05), max_connection_age_grace=Duration(0.05)
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

    async with Rig(engine) as rig, channel(rig) as one:
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
