"""Addresses are read as the collector reads them."""

import asyncio
import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.addresses import (
    Found,
    check_host,
    join_address,
    listen_address,
    listening_sockets,
    resolved,
)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("localhost:4317", ("localhost", 4317)),
        (":4317", ("", 4317)),
        ("[::1]:0", ("::1", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_listen_address(endpoint: str, expected: tuple[str, int]) -> None:
    assert listen_address(endpoint) == expected


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("", "the port is missing"),
        ("localhost", "the port is missing"),
        ("4317", "write :4317 for all addresses"),
        ("a:b", "the port is not a number up to 65535"),
        ("a:65536", "the port is not a number up to 65535"),
        ("a:-1", "the port is not a number up to 65535"),
        ("::1:4317", r"write an IPv6 address as \[address\]:port"),
    ],
)
def test_what_is_no_address_is_named(endpoint: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        listen_address(endpoint)
    assert repr(endpoint) in str(caught.value)


def test_a_scheme_is_no_part_of_where_to_listen() -> None:
    with pytest.raises(ValueError, match="without a scheme"):
        listen_address("http://0.0.0.0:4317")


@given(st.sampled_from(["localhost", "10.0.0.1", "::1", ""]), st.integers(0, 65535))
def test_join_is_the_inverse(host: str, port: int) -> None:
    assert listen_address(join_address(host, port)) == (host, port)


V4: Found = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))
# Of documentation: no machine has it.
NOT_HERE: Found = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 0))


def resolve_to(monkeypatch: pytest.MonkeyPatch, *found: Found) -> None:
    async def getaddrinfo(*_: object, **__: object) -> list[Found]:
        return list(found)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("host", ["backend..svc", "a" * 64 + ".example", ".svc", "ä" * 60])
async def test_what_is_not_a_name(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        check_host(host)
    with pytest.raises(socket.gaierror, match="not a host name"):
        await resolved(host, 4317)


@pytest.mark.parametrize("host", ["a_b.example.", "münchen.test", "a" * 63, "fe80::1%lo"])
def test_what_is_a_name(host: str) -> None:
    check_host(host)


async def test_all_addresses_of_a_name_listen_on_one_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other: Found = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.2", 0))
    resolve_to(monkeypatch, V4, other, V4)
    first, second = await listening_sockets("name", 0)
    assert first.getsockname() == ("127.0.0.1", first.getsockname()[1])
    assert second.getsockname() == ("127.0.0.2", first.getsockname()[1])
    first.close()
    second.close()


@pytest.mark.parametrize("order", [(V4, NOT_HERE), (NOT_HERE, V4)])
async def test_an_address_that_is_not_here_is_left_out(
    monkeypatch: pytest.MonkeyPatch, order: tuple[Found, Found]
) -> None:
    resolve_to(monkeypatch, *order)
    (only,) = await listening_sockets("localhost", 0)
    assert only.getsockname()[0] == "127.0.0.1"
    only.close()


async def test_a_name_of_which_nothing_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, NOT_HERE)
    with pytest.raises(OSError, match="cannot listen on name:0: Cannot assign") as caught:
        await listening_sockets("name", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_one_address_in_use_is_enough_to_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (taken,) = await listening_sockets("127.0.0.1", 0)
    port = taken.getsockname()[1]
    elsewhere: Found = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.2", 0))
    resolve_to(monkeypatch, elsewhere, V4)
    with pytest.raises(OSError, match=f"cannot listen on name:{port}: Address already in"):
        await listening_sockets("name", port)
    taken.close()
    # What had been bound was given back.
    resolve_to(monkeypatch, elsewhere)
    (again,) = await listening_sockets("name", port)
    again.close()
