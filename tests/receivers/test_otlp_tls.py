"""The receiver over TLS: OTLP/HTTP, which is its own, and what both protocols report."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from k8strace.budget import Budget
from k8strace.component import Worker
from k8strace.edges import Edge
from k8strace.errors import OptionError
from k8strace.grpc import ClientSettings, native
from k8strace.payload import Origin
from k8strace.receivers.otlp import OTLP
from k8strace.tls import contexts
from k8strace.tls.options import ClientTLS
from tests.support.backend import PATH
from tests.support.certificates import Authority, Pair
from tests.support.otlp import Receiving
from tests.support.pipeline import MIB, Sink, assert_at_rest, configured, context, until
from tests.support.requests import request

BODY = request(3).SerializeToString()
NATIVE = {"engine": "native"}


def trusting(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(authority.cert))
    if pair is not None:
        found.load_cert_chain(*pair)
    return found


async def post(url: str, tls: ssl.SSLContext | bool = True) -> int:
    headers = {"content-type": "application/x-protobuf"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=BODY, headers=headers, ssl=tls) as response,
    ):
        await response.read()
        return response.status


def origins(receiving: Receiving) -> list[Origin]:
    return [one.origin for one in receiving.sink.payloads if one.origin is not None]


def https(receiving: Receiving) -> str:
    return receiving.url.replace("http://", "https://")


async def test_http(authority: Authority, server_pair: Pair, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    async with Receiving(http={"tls": server_pair.files}) as receiving:
        assert await post(https(receiving), trusting(authority)) == 200
        assert origins(receiving)[0].subject is None
        assert receiving.counted("http") == (3, 0, 0)
    assert "with TLS" in caplog.text


async def test_http_on_a_unix_socket(
    authority: Authority, server_pair: Pair, tmp_path: Path
) -> None:
    path = str(tmp_path / "otlp.sock")
    http = {"tls": server_pair.files, "transport": "unix", "endpoint": path}
    async with Receiving(http=http) as receiving:
        reader, writer = await asyncio.open_unix_connection(
            path, ssl=trusting(authority), server_hostname="localhost"
        )
        head = (
            "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/x-protobuf\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        writer.write(head.encode() + BODY)
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 200")
        writer.close()
        assert receiving.counted("http") == (3, 0, 0)
    assert not os.path.exists(path)  # noqa: ASYNC240


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_on_sockets_that_were_handed_down(
    engine: str, authority: Authority, server_pair: Pair
) -> None:
    """As a worker has them: they must not be plaintext there."""
    listening: dict[str, tuple[socket.socket, ...]] = {}
    for name in ("grpc", "http"):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", 0))
        listening[name] = (one,)
    worker = Worker(slot=0, workers=2, sockets={"otlp": listening})
    plain = context("receivers", "otlp", budget=Budget(64 * MIB))
    protocols = {
        "grpc": {"endpoint": "127.0.0.1:0", "tls": server_pair.files, "engine": engine},
        "http": {"endpoint": "127.0.0.1:0", "tls": server_pair.files},
    }
    sink = Sink()
    surroundings = {
        name: getattr(plain, name) for name in plain.__struct_fields__ if name != "worker"
    }
    receiver = OTLP(
        configured(OTLP, {"protocols": protocols}),
        type(plain)(**surroundings, worker=worker),
        Edge(plain.ledger, sink),
    )
    await receiver.start()
    try:
        url = f"https://{receiver.addresses['http']}/v1/traces"
        assert await post(url, trusting(authority)) == 200
        with pytest.raises(aiohttp.ClientError):
            await post(url.replace("https", "http"))
        tls = ClientTLS(ca_file=str(authority.cert))
        client = native.Client(ClientSettings(target=receiver.addresses["grpc"], tls=tls))
        await client.start()
        assert await client.call(PATH, (BODY,), timeout=20) == b""
        await client.stop()
        assert sink.spans == 6
    finally:
        await receiver.stop(0)
        for sockets in listening.values():
            sockets[0].close()
    assert_at_rest(plain.ledger)


async def test_who_a_client_is_goes_on_with_its_spans(
    authority: Authority, server_pair: Pair, client_pair: Pair
) -> None:
    mutual = {**server_pair.files, "client_ca_file": str(authority.cert)}
    grpc = {"tls": mutual, "include_metadata": True, **NATIVE}
    async with Receiving(grpc=grpc, http={"tls": mutual}) as receiving:
        assert await post(https(receiving), trusting(authority, client_pair)) == 200
        tls = ClientTLS(ca_file=str(authority.cert), **client_pair.files)
        client = native.Client(ClientSettings(target=receiving.grpc, tls=tls))
        await client.start()
        await client.call(PATH, (BODY,), timeout=20, metadata=(("tenant", "a"),))
        await client.stop()
        found = origins(receiving)
        assert [one.subject for one in found] == ["CN=kubelet,O=acme"] * 2
        assert ("tenant", "a") in found[1].metadata
        with pytest.raises(aiohttp.ClientError):
            await post(https(receiving), trusting(authority))
        await until(lambda: receiving.rejected("tls") == 1)
        assert receiving.counted("http") == (3, 0, 0)


async def test_a_connection_over_tls_takes_one_request_after_the_other(
    authority: Authority,
) -> None:
    headers = {"content-type": "application/x-protobuf"}
    before = trusting(authority)
    async with Receiving(http={"tls": authority.issue().files}) as receiving:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as client:
            for _ in range(5):
                post = client.post(https(receiving), data=BODY, ssl=before)
                async with asyncio.timeout(20), post as response:
                    assert response.status == 200
        assert receiving.counted("http")[0] == 15


async def test_http_renews_what_it_shows_and_whom_it_trusts(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "LOOK_EVERY", 0.0)
    other = Authority(tmp_path, "other")
    used = Pair(tmp_path / "used.pem", tmp_path / "used.key")
    authority.issue().copy_to(used)
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.cert.read_bytes())
    tls = {
        **used.files,
        "reload_interval": "1ms",
        "client_ca_file": str(clients),
        "client_ca_file_reload": True,
    }
    before = trusting(authority, authority.issue())
    after = trusting(other, other.issue())
    headers = {"content-type": "application/x-protobuf"}
    async with Receiving(http={"tls": tls}) as receiving:
        async with aiohttp.ClientSession(headers=headers) as old:
            async with old.post(https(receiving), data=BODY, ssl=before) as response:
                assert response.status == 200
            other.issue().copy_to(used)
            clients.write_bytes(other.cert.read_bytes())
            assert await post(https(receiving), after) == 200
            with pytest.raises(aiohttp.ClientError):
                await post(https(receiving), before)
            # A connection that is there goes on.
            async with old.post(https(receiving), data=BODY, ssl=before) as response:
                assert response.status == 200
        assert receiving.counted("http") == (9, 0, 0)


async def speak(address: str, data: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    answer = b""
    with suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


async def test_plaintext_at_a_port_with_tls_is_counted_and_told_of_once(
    server_pair: Pair, caplog: Any
) -> None:
    tls = {"tls": server_pair.files}
    async with Receiving(grpc={**tls, **NATIVE}, http=tls) as receiving:
        for _ in range(3):
            await speak(receiving.receiver.addresses["http"], b"POST / HTTP/1.1\r\n\r\n")
            await speak(receiving.grpc, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        await until(lambda: receiving.rejected("tls") == 6)
        assert not receiving.sink.payloads
    (line,) = [one.__dict__ for one in caplog.records if one.levelname == "WARNING"]
    assert "have it use https://" in line["message"]
    assert (line["reason"], line["peer"][:10]) == ("tls", "127.0.0.1:")


async def test_tls_at_a_plaintext_port_is_counted_and_told_of_once(
    authority: Authority, caplog: Any
) -> None:
    async with Receiving(grpc=NATIVE, http={}) as receiving:
        for _ in range(2):
            with pytest.raises(aiohttp.ClientError):
                await post(https(receiving), trusting(authority))
            host, _, port = receiving.grpc.rpartition(":")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(host, port, ssl=trusting(authority))
        await until(lambda: receiving.rejected("tls") == 4)
    (line,) = [one.__dict__ for one in caplog.records if one.levelname == "WARNING"]
    assert "this port is plaintext" in line["message"]
    assert line["reason"] == "tls"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_what_is_wrong_with_a_file_is_told_by_its_option(
    protocol: str, engine: str, server_pair: Pair, tmp_path: Path
) -> None:
    tls = {"tls": server_pair.files | {"key_file": str(tmp_path / "no.key")}}
    options: dict[str, Any] = {
        protocol: tls | ({"engine": engine} if protocol == "grpc" else {})
    }
    receiving = Receiving(**options)
    with pytest.raises(OptionError) as caught:
        await receiving.receiver.start()
    assert caught.value.path == f"protocols::{protocol}::tls::key_file"
    assert caught.value.text == f"cannot read {tmp_path}/no.key: No such file or directory"
