"""Endpoints of servers, and who their peers are."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from k8strace.grpc.endpoints import (
    cannot_listen,
    check_endpoint,
    check_free,
    claim_unix,
    host_of,
    listen_unix,
    peer_of_grpc,
    peer_of_socket,
    show_unix,
    speaks_http1,
    unix_path,
)
from tests.support.ports import free_port


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("/run/a.sock", "/run/a.sock"),
        ("run/a.sock", "run/a.sock"),
        ("unix:/run/a.sock", "/run/a.sock"),
        ("unix:run/a.sock", "run/a.sock"),
        ("unix:///run/a.sock", "/run/a.sock"),
        ("@name", "\0name"),
        ("unix-abstract:name", "\0name"),
    ],
)
def test_unix_path(endpoint: str, path: str) -> None:
    assert unix_path(endpoint) == path
    assert unix_path(show_unix(path)) == path


@pytest.mark.parametrize("endpoint", ["", "unix:", "unix://", "@", "/" + "x" * 107])
def test_what_is_no_unix_socket(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        check_endpoint(endpoint, "unix")


def test_check_endpoint() -> None:
    check_endpoint("localhost:4317", "tcp")
    check_endpoint("/run/a.sock", "unix")
    with pytest.raises(ValueError, match="localhost"):
        check_endpoint("localhost", "tcp")


def test_claim_leaves_what_is_not_there(tmp_path: Path) -> None:
    claim_unix(str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_claim_removes_a_socket_without_a_listener(tmp_path: Path) -> None:
    path = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    claim_unix(str(path))
    assert not path.exists()


@pytest.mark.parametrize("abstract", [True, False])
def test_claim_keeps_a_socket_with_a_listener(tmp_path: Path, abstract: bool) -> None:
    path = f"\0k8strace-{os.getpid()}" if abstract else str(tmp_path / "busy")
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen()
        with pytest.raises(OSError, match="in use") as caught:
            claim_unix(path)
        assert show_unix(path) in str(caught.value)
        assert abstract or Path(path).exists()


def test_claim_keeps_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match="no socket"):
        claim_unix(str(path))
    assert path.read_text() == "precious"


def test_a_socket_removes_its_own_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    ours = listen_unix(str(path))
    ours.dup().close()
    assert path.exists()
    path.unlink()
    with listen_unix(str(path)) as theirs:
        theirs.listen()
        ours.close()
        ours.close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_a_socket_whose_file_is_gone_is_closed(tmp_path: Path) -> None:
    ours = listen_unix(str(tmp_path / "a.sock"))
    (tmp_path / "a.sock").unlink()
    ours.close()
    assert ours.fileno() == -1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
async def test_check_free(host: str) -> None:
    port = free_port()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", port))
        busy.listen()
        with pytest.raises(OSError, match="in use") as caught:
            await check_free(host, port)
        assert f"{host}:{port}" in str(caught.value)
    await check_free(host, port)


async def test_check_free_names_what_does_not_resolve() -> None:
    with pytest.raises(OSError, match=r"no\.such\.name\.invalid:4317"):
        await check_free("no.such.name.invalid", 4317)


async def test_check_free_names_an_address_that_is_not_ours() -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1:4317"):
        await check_free("192.0.2.1", 4317)


def test_cannot_listen_without_a_reason() -> None:
    assert "unknown" in str(cannot_listen("here:1", None))


@pytest.mark.parametrize(
    ("uri", "peer", "host"),
    [
        ("ipv4:10.0.0.7:51812", "10.0.0.7:51812", "10.0.0.7"),
        ("ipv6:%5B::1%5D:4000", "[::1]:4000", "[::1]"),
        ("ipv6:[fe80::1%25eth0]:4000", "[fe80::1%eth0]:4000", "[fe80::1%eth0]"),
        ("unix:", "unix:", "unix"),
        ("unix:/run/a.sock", "unix:", "unix"),
        ("unix-abstract:name", "unix:", "unix"),
        ("", "unknown", ""),
    ],
)
def test_peer_of_grpc(uri: str, peer: str, host: str) -> None:
    assert peer_of_grpc(uri) == peer
    assert host_of(peer) == host


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        (("10.0.0.7", 51812), "10.0.0.7:51812"),
        (("::1", 4000, 0, 0), "[::1]:4000"),
        (("::ffff:10.0.0.7", 4000, 0, 0), "10.0.0.7:4000"),
        ("", "unix:"),
        (None, "unix:"),
    ],
)
def test_peer_of_socket(name: object, peer: str) -> None:
    assert peer_of_socket(name) == peer


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"POST /v1/traces HTTP/1.1\r\n", True),
        (b"OPTIONS * HTTP/1.1\r\n", True),
        (b"GET http://gateway/ HTTP/1.1\r\n", True),
        (b"PRI * HTTP/2.0\r\n\r\nXX", False),
        (b"\x16\x03\x01\x02\x00", False),
        (b"POST", False),
        (b"", False),
    ],
)
def test_speaks_http1(data: bytes, expected: bool) -> None:
    assert speaks_http1(data) == expected
