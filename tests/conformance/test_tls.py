"""TLS between both engines' servers and clients, and with clients of others."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.errors import ConfigError
from k8strace.grpc import ClientSettings, grpcio, native
from k8strace.grpc.status import Code, StatusError
from k8strace.tls import contexts, incoming
from k8strace.tls.options import ClientTLS, ServerTLS
from k8strace.units import Duration
from tests.support.backend import PATH
from tests.support.certificates import Authority, Pair, self_signed
from tests.support.engine import Rig, send
from tests.support.http2 import PREFACE, SETTINGS, frame
from tests.support.pipeline import until

BODY = b"\x0a\x00"


@pytest.fixture(params=[grpcio, native], ids=["of-grpcio", "of-native"])
def server(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def trusting(authority: Authority, pair: Pair | None = None, **options: Any) -> ClientTLS:
    return ClientTLS(ca_file=str(authority.cert), **(pair.files if pair else {}), **options)


async def call(engine: ModuleType, target: str, tls: ClientTLS | None) -> bytes:
    one = engine.Client(ClientSettings(target=target, tls=tls))
    await one.start()
    try:
        answer: bytes = await one.call(PATH, (BODY,), timeout=20)
    finally:
        await one.stop()
    return answer


async def refused(engine: ModuleType, target: str, tls: ClientTLS | None) -> str:
    with pytest.raises(StatusError) as caught:
        await call(engine, target, tls)
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.retryable
    return caught.value.message


async def test_calls(
    engine: ModuleType, server: ModuleType, authority: Authority, server_pair: Pair
) -> None:
    async with Rig(server, tls=ServerTLS(**server_pair.files)) as rig:
        assert await call(engine, rig.address, trusting(authority)) == BODY
        for tls in (None, ClientTLS()):
            await refused(engine, rig.address, tls)
        assert [one.origin.subject for one in rig.calls] == [None]


async def test_clients_that_have_to_show_a_certificate(
    engine: ModuleType,
    server: ModuleType,
    authority: Authority,
    server_pair: Pair,
    client_pair: Pair,
    tmp_path: Path,
) -> None:
    mutual = ServerTLS(**server_pair.files, client_ca_file=str(authority.cert))
    async with Rig(server, tls=mutual) as rig:
        tls = trusting(authority, client_pair)
        assert await call(engine, rig.address, tls) == BODY
        assert rig.calls[0].origin.subject == "CN=kubelet,O=acme"
        await refused(engine, rig.address, trusting(authority))
        for pair in (self_signed(tmp_path), authority.issue(expired=True)):
            await refused(engine, rig.address, trusting(authority, pair))
        assert len(rig.calls) == 1


async def test_unix_sockets(
    engine: ModuleType,
    server: ModuleType,
    authority: Authority,
    server_pair: Pair,
    tmp_path: Path,
) -> None:
    endpoint = f"unix:{tmp_path / 'a.sock'}"
    tls = ServerTLS(**server_pair.files)
    async with Rig(server, tls=tls, endpoint=endpoint, transport="unix") as rig:
        named = trusting(authority, server_name_override="localhost")
        assert await call(engine, rig.address, named) == BODY


async def test_authorities_of_the_system(
    engine: ModuleType,
    server: ModuleType,
    authority: Authority,
    server_pair: Pair,
    client_pair: Pair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are trusted where no other is given, or beside it where that is said."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
    other = str(Authority(tmp_path, "other").cert)
    pool: dict[str, Any] = {"include_system_ca_certs_pool": True}
    for options in ({}, pool):
        mutual = ServerTLS(**server_pair.files, client_ca_file=other, **options)
        async with Rig(server, tls=mutual) as rig:
            tls = ClientTLS(**client_pair.files)
            if options:
                assert await call(engine, rig.address, tls) == BODY
            else:
                await refused(engine, rig.address, tls)
    async with Rig(server, tls=ServerTLS(**server_pair.files)) as rig:
        both = ClientTLS(ca_file=other, **pool)
        assert await call(engine, rig.address, both) == BODY
        await refused(engine, rig.address, ClientTLS(ca_file=other))


async def test_certificates_are_renewed_while_calls_go_on(
    engine: ModuleType,
    server: ModuleType,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also those by which clients are judged; connections that are there stay."""
    monkeypatch.setattr(contexts, "LOOK_EVERY", 0.0)
    other = Authority(tmp_path, "other")
    used = Pair(tmp_path / "used.pem", tmp_path / "used.key")
    authority.issue().copy_to(used)
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.cert.read_bytes())
    before = trusting(authority, authority.issue("/CN=before"))
    after = ClientTLS(ca_file=str(other.cert), **other.issue("/CN=after").files)
    tls = ServerTLS(
        **used.files,
        reload_interval=Duration(0.001),
        client_ca_file=str(clients),
        client_ca_file_reload=True,
    )
    async with Rig(server, tls=tls) as rig:
        old = engine.Client(ClientSettings(target=rig.address, tls=before))
        await old.start()
        try:
            await old.call(PATH, (BODY,), timeout=20)
            await refused(engine, rig.address, after)
            other.issue().copy_to(used)
            new = tmp_path / "new.pem"
            new.write_bytes(other.cert.read_bytes())
            new.rename(clients)
            assert await call(engine, rig.address, after) == BODY
            await refused(engine, rig.address, before)
            await old.call(PATH, (BODY,), timeout=20)
        finally:
            await old.stop()
        subjects = [one.origin.subject for one in rig.calls]
        assert subjects == ["CN=before", "CN=after", "CN=before"]


async def test_a_client_renews_its_own(
    authority: Authority, server_pair: Pair, tmp_path: Path
) -> None:
    used = Pair(tmp_path / "used.pem", tmp_path / "used.key")
    authority.issue("/CN=before").copy_to(used)
    mutual = ServerTLS(**server_pair.files, client_ca_file=str(authority.cert))
    async with Rig(native, tls=mutual) as rig:
        tls = trusting(authority, used, reload_interval=Duration(0.001))
        one = native.Client(ClientSettings(target=rig.address, tls=tls))
        await one.start()
        try:
            await one.call(PATH, (BODY,), timeout=20)
            authority.issue("/CN=after").copy_to(used)
            for connection in tuple(rig.server.shared.connections):
                connection.drain(20)
            await until(lambda: not rig.server.shared.connections)
            await one.call(PATH, (BODY,), timeout=20)
        finally:
            await one.stop()
        assert [c.origin.subject for c in rig.calls] == ["CN=before", "CN=after"]


async def test_what_a_client_says_of_a_certificate(
    authority: Authority, tmp_path: Path
) -> None:
    own = self_signed(tmp_path)
    wrong = authority.issue(names="DNS:elsewhere")
    for pair, tls, text in (
        (own, trusting(authority), "self-signed certificate; give the authority"),
        (wrong, trusting(authority), "see `server_name_override`"),
        (authority.issue(expired=True), trusting(authority), "expired; renew it"),
        (own, ClientTLS(ca_file=str(own.cert)), ""),
        (own, ClientTLS(insecure_skip_verify=True), ""),
        (wrong, trusting(authority, server_name_override="elsewhere"), ""),
    ):
        async with Rig(native, tls=ServerTLS(**pair.files)) as rig:
            if text:
                assert text in await refused(native, rig.address, tls)
            else:
                assert await call(native, rig.address, tls) == BODY


@asynccontextmanager
async def openssl_server(authority: Authority, pair: Pair) -> AsyncIterator[str]:
    """A server that says by alerts what it refuses; it wants clients' certificates."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_server", "-accept", "127.0.0.1:0", "-alpn", "h2", "-tls1_3"),
        *("-cert", pair.cert, "-key", pair.key, "-CAfile", authority.cert),
        *("-Verify", "3", "-verify_return_error"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while not (line := await process.stdout.readline()).startswith(b"ACCEPT "):
                assert line
        yield line.split()[1].decode()
    finally:
        process.kill()
        await process.communicate()


async def test_what_a_server_says_by_an_alert(
    authority: Authority, server_pair: Pair, tmp_path: Path
) -> None:
    own = self_signed(tmp_path)
    async with openssl_server(authority, server_pair) as target:
        text = await refused(native, target, trusting(authority))
        assert "give `cert_file` and `key_file`" in text
        text = await refused(native, target, trusting(authority, own))
        assert "refuses our certificate (unknown ca)" in text


async def test_what_is_said_where_only_one_side_has_tls(
    authority: Authority, server_pair: Pair
) -> None:
    async with Rig(native) as rig:
        text = await refused(native, rig.address, trusting(authority))
        assert "does it speak TLS" in text or "speaks no TLS" in text
        await rig.until(lambda: bool(rig.rejects))
        assert rig.reasons[0] == "tls"
        assert "this port is plaintext" in rig.rejects[0][2]
    async with Rig(native, tls=ServerTLS(**server_pair.files)) as rig:
        assert "does it want TLS" in await refused(native, rig.address, None)
        await rig.until(lambda: bool(rig.rejects))
        assert rig.reasons[0] == "tls"
        assert "it speaks no TLS" in rig.rejects[0][2]


async def test_versions_and_ciphers(authority: Authority, server_pair: Pair) -> None:
    suites = ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",)
    other = ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",)
    for limits, theirs, text in (
        ({"min_version": "1.3"}, {}, ""),
        ({"min_version": "1.3"}, {"max_version": "1.2"}, "no version"),
        ({"min_version": "1.0", "max_version": "1.1"}, {"min_version": "1.1"}, ""),
        ({"min_version": "1.0", "max_version": "1.1"}, {}, "no version"),
        ({"max_version": "1.2", "cipher_suites": suites}, {"cipher_suites": suites}, ""),
        (
            {"max_version": "1.2", "cipher_suites": suites},
            {"cipher_suites": other},
            "suite",
        ),
        (
            {"cipher_suites": ("TLS_AES_128_GCM_SHA256",)},
            {"max_version": "1.2"},
            "no version",
        ),
    ):
        tls = ServerTLS(**server_pair.files, **limits)
        async with Rig(native, tls=tls) as rig:
            client = trusting(authority, **theirs)
            if not text:
                assert await call(native, rig.address, client) == BODY
                continue
            await refused(native, rig.address, client)
            await rig.until(lambda: bool(rig.rejects))
            assert text in rig.rejects[0][2]


async def test_large_messages_and_an_end_while_a_call_runs(
    authority: Authority, server_pair: Pair
) -> None:
    async with Rig(native, tls=ServerTLS(**server_pair.files)) as rig:
        credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
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


async def test_an_end_for_who_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, server_pair: Pair
) -> None:
    monkeypatch.setattr(incoming, "SHUTDOWN_TIMEOUT", 60.0)
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.set_alpn_protocols(["h2"])
    async with Rig(native, tls=ServerTLS(**server_pair.files)) as rig:
        host, _, port = rig.address.rpartition(":")

        def connect() -> ssl.SSLSocket:
            sock = socket.create_connection((host, int(port)))
            return context.wrap_socket(sock, server_hostname=host)

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
async def test_who_wants_no_http2_is_closed(
    alpn: tuple[str, ...], authority: Authority, server_pair: Pair
) -> None:
    async with Rig(native, tls=ServerTLS(**server_pair.files)) as rig:
        host, _, port = rig.address.rpartition(":")
        context = ssl.create_default_context(cafile=str(authority.cert))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        assert rig.reasons == ["tls"]
        assert await call(native, rig.address, trusting(authority)) == BODY
        assert len(rig.calls) == 1


async def test_who_does_not_finish_the_handshake_is_closed(
    monkeypatch: pytest.MonkeyPatch, server_pair: Pair
) -> None:
    monkeypatch.setattr(incoming, "HANDSHAKE_TIMEOUT", 0.1)
    async with Rig(native, tls=ServerTLS(**server_pair.files)) as rig:
        host, _, port = rig.address.rpartition(":")
        for first in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(first)
            with suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 20)
            writer.close()
        await rig.until(lambda: len(rig.rejects) == 2)
        assert rig.reasons == ["tls", "tls"]
        # A load balancer that only looks whether somebody listens is nothing to tell of.
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        await asyncio.wait_for(writer.wait_closed(), 20)
    assert len(rig.rejects) == 2


async def test_a_server_that_wants_no_http2(
    authority: Authority, server_pair: Pair
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server_pair)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        host, port = server.sockets[0].getsockname()
        text = await refused(native, f"{host}:{port}", trusting(authority))
        assert "ALPN" in text


def test_what_grpcio_has_no_way_to_is_an_error(server_pair: Pair) -> None:
    for options in ({"min_version": "1.3"}, {"cipher_suites": ("TLS_AES_128_GCM_SHA256",)}):
        with pytest.raises(ConfigError, match="engine: native"):
            Rig(grpcio, tls=ServerTLS(**server_pair.files, **options))
    for tls in (ClientTLS(insecure_skip_verify=True), ClientTLS(max_version="1.2")):
        with pytest.raises(ConfigError, match="engine: native"):
            grpcio.Client(ClientSettings(target="localhost:1", tls=tls))
