"""What only the engine on grpcio has; the rest is in conformance/."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from k8strace.budget import Budget
from k8strace.errors import ConfigError
from k8strace.grpc import (
    ClientKeepalive,
    ClientSettings,
    ServerKeepalive,
    ServerSettings,
    grpcio,
)
from k8strace.units import Duration
from tests.support.engine import Rig
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


def test_server_options() -> None:
    options = dict(
        grpcio._server_options(
            ServerSettings(
                endpoint="localhost:0",
                max_message_size=2**40,
                max_concurrent_streams=7,
                keepalive=ServerKeepalive(
                    max_connection_idle=Duration(1.5),
                    max_connection_age=Duration(0.0001),
                    max_connection_age_grace=Duration(1e9),
                    time=Duration(0),
                    min_time=Duration(60),
                    permit_without_stream=True,
                ),
            )
        )
    )
    assert options["grpc.max_receive_message_length"] == 2**31 - 1
    assert options["grpc.max_concurrent_streams"] == 7
    assert options["grpc.max_connection_idle_ms"] == 1500
    assert options["grpc.max_connection_age_ms"] == 1
    assert options["grpc.max_connection_age_grace_ms"] == 2**31 - 1
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 60_000
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert "grpc.keepalive_time_ms" not in options
    assert "grpc.keepalive_timeout_ms" not in options


def test_client_options() -> None:
    keepalive = ClientKeepalive(time=Duration(10), timeout=Duration(2))
    options = dict(
        grpcio._client_options(
            ClientSettings(target="x:1", balancer_name="pick_first", keepalive=keepalive)
        )
    )
    assert options["grpc.keepalive_time_ms"] == 10_000
    assert options["grpc.keepalive_timeout_ms"] == 2_000
    assert "pick_first" in options["grpc.service_config"]
    assert "grpc.default_authority" not in options


async def test_a_message_that_takes_too_long_is_cut_off() -> None:
    rig = Rig(grpcio)
    rig.server._read_timeout = 0.05
    async with rig, Raw(rig.address) as raw:
        await raw.send(frame(HEADERS, END_HEADERS, 1, headers(*GRPC)))
        await raw.send(frame(DATA, 0, 1, message(bytes(100))[:50]))
        assert await raw.status() == 4
        assert rig.reasons == ["slow"]


async def test_stop_while_a_message_is_read() -> None:
    async with Rig(grpcio) as rig, Raw(rig.address) as raw:
        await raw.send(frame(HEADERS, END_HEADERS, 1, headers(*GRPC)))
        async with asyncio.timeout(20):
            while not rig.server._running:  # noqa: ASYNC110  (core has threads of its own)
                await asyncio.sleep(0.01)
        await rig.server.stop(0)
        await rig.until(lambda: "incomplete" in rig.reasons)
        assert not rig.calls


async def test_any_content_type_is_taken() -> None:
    """Core doesn't show it; this pins what the engine's docstring says."""
    async with Rig(grpcio) as rig, Raw(rig.address) as raw:
        await raw.send(
            frame(HEADERS, END_HEADERS, 1, headers(("content-type", "a/b"), GRPC[1])),
            frame(DATA, END_STREAM, 1, message(b"\x0a\x00")),
        )
        assert await raw.status() == 0


async def test_binding_that_fails_for_core_alone_names_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def free(host: str, port: int) -> None:
        return None

    async with Rig(grpcio) as rig:
        monkeypatch.setattr(grpcio, "check_free", free)
        server = grpcio.Server(
            ServerSettings(endpoint=rig.address), {}, Budget(1000), lambda *_: None
        )
        with pytest.raises(OSError, match=rig.address):
            await server.start()
        await server.stop(0)


async def test_handlers_that_outlive_their_calls_are_gone_after_stop() -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def answer(call: Any) -> bytes:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            left.set()
        return b""

    async with Rig(grpcio) as rig, Raw(rig.address) as raw:
        rig.answer = answer
        await raw.send(
            frame(HEADERS, END_HEADERS, 1, headers(*GRPC)),
            frame(DATA, END_STREAM, 1, message(b"\x0a\x00")),
        )
        await asyncio.wait_for(entered.wait(), 20)
        await rig.server.stop(0)
        assert left.is_set()


def test_sockets_cannot_be_handed_down() -> None:
    with socket.socket() as given, pytest.raises(ConfigError, match="engine: native"):
        Rig(grpcio, sockets=(given,))


async def test_headers_that_are_not_utf8_fill_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    block = headers(*GRPC) + b"\0\x05x-bad\x02\xff\xfe"
    async with Rig(grpcio, include_metadata=True) as rig, Raw(rig.address) as raw:
        await raw.send(
            frame(HEADERS, END_HEADERS, 1, block), frame(DATA, END_STREAM, 1, message(b"x"))
        )
        assert await raw.status() == 0
        assert dict(rig.calls[0].origin.metadata)["x-bad"] == "ÿþ"
    assert caplog.records == []
