"""What the OTLP/gRPC exporter speaks over, and answers that say nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.errors import RefusedError
from k8strace.exporters.otlp_grpc import OtlpGrpc
from tests.support.backend import PATH
from tests.support.sending import running_as

TLS = Path(__file__).parents[1] / "data" / "tls"
INSECURE = {"insecure": True}
DIRECT = {"sending_queue": {"enabled": False}, "retry_on_failure": {"enabled": False}}


Handler = Callable[[bytes, Any], Awaitable[bytes]]


@asynccontextmanager
async def raw_backend(
    handler: Handler, address: str, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[int]:
    """A server that answers with bytes; gives its port."""
    server = grpc.aio.server()
    service, name = PATH[1:].split("/")
    methods: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, methods),)
    )
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def accept(_: bytes, __: Any) -> bytes:
    return b""


async def test_over_tls() -> None:
    pair = ((TLS / "server.key").read_bytes(), (TLS / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair])
    async with raw_backend(accept, "localhost:0", credentials) as port:
        endpoint = f"https://localhost:{port}"
        tls = {"ca_file": str(TLS / "server.pem")}
        async with running_as(OtlpGrpc, endpoint=endpoint, tls=tls, **DIRECT) as rig:
            await rig.send(3)
            assert rig.ledger.sent == 3
        async with running_as(OtlpGrpc, endpoint=endpoint, **DIRECT) as rig:
            with pytest.raises(RefusedError):
                await rig.send(3)


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    endpoint = f"unix:{tmp_path / 'otlp.sock'}"
    async with (
        raw_backend(accept, endpoint),
        running_as(OtlpGrpc, endpoint=endpoint, tls=INSECURE, **DIRECT) as rig,
    ):
        await rig.send(3)
        assert rig.ledger.sent == 3


async def test_an_answer_that_cannot_be_read_still_says_that_it_was_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def garbage(_: bytes, __: Any) -> bytes:
        return b"\xff\xff"

    async with raw_backend(garbage, "127.0.0.1:0") as port:
        endpoint = f"http://127.0.0.1:{port}"
        async with running_as(OtlpGrpc, endpoint=endpoint, **DIRECT) as rig:
            await rig.send(3)
            assert (rig.ledger.sent, rig.ledger.dropped) == (3, {})
    assert "an answer that is no ExportTraceServiceResponse" in caplog.text
