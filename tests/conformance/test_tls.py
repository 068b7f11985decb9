"""The native server over TLS, with every engine's client; grpcio's server has none here."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import grpc
import grpc.aio
import pytest

from k8strace.errors import ConfigError
from k8strace.grpc import ClientSettings, ClientTLS, grpcio, native, native_listener
from k8strace.grpc.status import Code, StatusError
from tests.support.backend import PATH
from tests.support.engine import Rig, send
from tests.support.http2 import PREFACE, SETTINGS, frame

TLS = Path(__file__).parent.parent / "data" / "tls"
CERT = (TLS / "server.pem").read_bytes()
KEY = (TLS / "server.key").read_bytes()
BODY = b"\x0a\x00"


def server_tls(*, mutual: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(TLS / "server.pem")
    return context


def client_tls(*alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(TLS / "server.pem"))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def call(engine: ModuleType, target: str, tls: ClientTLS | None) -> bytes:
    one = engine.Client(ClientSettings(target=target, tls=tls))
    await one.start()
    try:
        answer: bytes = await one.call(PATH, (BODY,), timeout=20)
    finally:
        await one.stop()
    return answer


async def test_calls(engine: ModuleType) -> None:
    async with Rig(native, tls=server_tls()) as rig:
        assert await call(engine, rig.address, ClientTLS(ca=CERT)) == BODY
        for tls in (None, ClientTLS()):
            with pytest.raises(StatusError) as caught:
                await call(engine, rig.address, tls)
            assert caught.value.code is Code.UNAVAILABLE
        assert len(rig.calls) == 1
        await rig.until(lambda: not rig.server.shared.connections)


async def test_clients_that_have_to_show_a_certificate(engine: ModuleType) -> None:
    async with Rig(native, tls=server_tls(mutual=True)) as rig:
        tls = ClientTLS(ca=CERT, cert=CERT, key=KEY)
        assert await call(engine, rig.address, tls) == BODY
        with pytest.raises(StatusError) as caught:
            await call(engine, rig.address, ClientTLS(ca=CERT))
        assert caught.value.code is Code.UNAVAILABLE


async def test_unix_sockets(engine: ModuleType, tmp_path: Path) -> None:
    endpoint = f"unix:{tmp_path / 'a.sock'}"
    tls = server_tls()
    async with Rig(native, tls=tls, endpoint=endpoint, transport="unix") as rig:
        named = ClientTLS(ca=CERT, server_name_override="localhost")
        assert await call(engine, rig.address, named) == BODY


async def test_large_messages_and_an_end_while_a_call_runs() -> None:
    async with Rig(native, tls=server_tls()) as rig:
        credentials = grpc.ssl_channel_credentials(CERT)
        async with grpc.aio.secure_channel(rig.address, credentials) as channel:
            body = bytes(range(256)) * 12000
            assert await send(channel, body) == body
            entered = asyncio.Event()

            async def hang(_: object) -> bytes:
                entered.set()
                await asyncio.Event().wait()
                return b""

            rig.answer = hang
            running = asyncio.ensure_future(send(channel, BODY))
            await asyncio.wait_for(entered.wait(), 20)
            await rig.server.stop(0)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_end_for_who_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_listener, "SHUTDOWN_TIMEOUT", 60.0)
    async with Rig(native, tls=server_tls()) as rig:
        host, _, port = rig.address.rpartition(":")

        def connect() -> ssl.SSLSocket:
            sock = socket.create_connection((host, int(port)))
            return client_tls("h2").wrap_socket(sock, server_hostname=host)

        silent = await asyncio.to_thread(connect)
        with silent:
            silent.sendall(PREFACE + frame(SETTINGS, 0, 0))
            await asyncio.to_thread(silent.recv, 1)
            shared = rig.server.shared
            await rig.server.stop(0)
            async with asyncio.timeout(20):
                while shared.connections:
                    shared.changed.clear()
                    await shared.changed.wait()


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
async def test_who_wants_no_http2_is_closed(alpn: tuple[str, ...]) -> None:
    async with Rig(native, tls=server_tls()) as rig:
        host, _, port = rig.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, port, ssl=client_tls(*alpn))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        assert await call(native, rig.address, ClientTLS(ca=CERT)) == BODY
        assert len(rig.calls) == 1


async def test_who_does_not_finish_the_handshake_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_listener, "HANDSHAKE_TIMEOUT", 0.1)
    async with Rig(native, tls=server_tls()) as rig:
        host, _, port = rig.address.rpartition(":")
        for first in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(first)
            with suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 20)
            writer.close()


async def test_a_server_that_wants_no_http2() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls())
    async with server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(StatusError, match="ALPN") as caught:
            await call(native, f"{host}:{port}", ClientTLS(ca=CERT))
        assert caught.value.code is Code.UNAVAILABLE


def test_grpcio_takes_no_context() -> None:
    with pytest.raises(ConfigError, match="engine: native"):
        Rig(grpcio, tls=server_tls())
