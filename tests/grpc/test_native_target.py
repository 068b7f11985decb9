"""Where the native client connects to, by names."""

from __future__ import annotations

import asyncio

import pytest

from k8strace.errors import OptionError
from k8strace.grpc import ClientSettings
from k8strace.grpc.native_channel import Channel
from k8strace.grpc.native_target import Target, show
from k8strace.secret import Secret
from k8strace.tls.options import ClientTLS


@pytest.mark.parametrize(
    ("name", "authority", "addresses"),
    [
        ("127.0.0.1:4317", b"127.0.0.1:4317", [("127.0.0.1", 4317)]),
        ("[::1]:4317", b"[::1]:4317", [("::1", 4317)]),
        ("dns:///127.0.0.1:1", b"127.0.0.1:1", [("127.0.0.1", 1)]),
        ("dns:127.0.0.1:1", b"127.0.0.1:1", [("127.0.0.1", 1)]),
        ("dns://8.8.8.8/127.0.0.1:1", b"127.0.0.1:1", [("127.0.0.1", 1)]),
        ("ipv4:1.2.3.4:5,6.7.8.9:10", b"1.2.3.4:5", None),
        ("ipv6:[::1]:5", b"[::1]:5", [("::1", 5)]),
        ("unix:/a/b.sock", b"localhost", [("/a/b.sock", 0)]),
        ("unix:///a/b.sock", b"localhost", [("/a/b.sock", 0)]),
        ("unix-abstract:name", b"localhost", [("\0name", 0)]),
    ],
)
async def test_names(
    name: str, authority: bytes, addresses: list[tuple[str, int]] | None
) -> None:
    target = Target(ClientSettings(target=name))
    assert target.authority == authority
    found = await target.resolve()
    assert found == (addresses or [("1.2.3.4", 5), ("6.7.8.9", 10)])
    assert target.is_name == (name == "localhost:1")


def test_authorities_that_are_given() -> None:
    tls = ClientTLS(server_name_override="name")
    assert Target(ClientSettings(target="a:1", tls=tls)).authority == b"name"
    settings = ClientSettings(target="a:1", tls=tls, authority="other")
    assert Target(settings).authority == b"other"


async def test_a_certificate_that_is_none() -> None:
    target = Target(ClientSettings(target="a:1", tls=ClientTLS(ca_pem=Secret("rubbish"))))
    with pytest.raises(OptionError, match="ca_pem: holds no certificate"):
        await target.load()


def test_addresses_as_people_read_them() -> None:
    assert show(("::1", 1)) == "[::1]:1"
    assert show(("\0name", 0)) == "unix-abstract:name"


async def test_a_server_that_speaks_no_http2() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    def changed(channel: Channel) -> None:
        changes.append(channel.error)

    changes: list[str | None] = []
    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        target = Target(ClientSettings(target=f"127.0.0.1:{port}"))
        with pytest.raises(ConnectionError):
            await target.connect(("127.0.0.1", port), changed)
    assert len(changes) == 1
    assert changes[0]
