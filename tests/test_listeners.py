"""Sockets that several workers share: bound before them, kept behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8strace.component import Endpoint
from k8strace.errors import ConfigError
from k8strace.listeners import Listeners
from tests.support.ports import free_port


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    one = Listeners()
    yield one
    one.close()


def tcp(port: int = 0) -> dict[str, dict[str, Endpoint]]:
    return {"otlp": {"grpc": Endpoint(f"127.0.0.1:{port}")}}


def port_of(listeners: Listeners, slot: int = 0) -> int:
    port: int = listeners.of(tcp(), slot)["otlp"]["grpc"][0].getsockname()[1]
    return port


def dial(address: object, family: int = socket.AF_INET) -> None:
    with socket.socket(family) as one:
        one.connect(address)  # type: ignore[arg-type]


async def test_each_worker_has_a_socket_of_its_own_on_one_port(
    listeners: Listeners,
) -> None:
    await listeners.open(tcp(), 3)
    sockets = [listeners.of(tcp(), slot)["otlp"]["grpc"][0] for slot in range(3)]
    assert len({one.fileno() for one in sockets}) == 3
    assert len({one.getsockname() for one in sockets}) == 1
    # Nobody can connect before a worker listens.
    with pytest.raises(ConnectionRefusedError):
        dial(sockets[0].getsockname())
    for one in sockets:
        one.listen()
    dial(sockets[0].getsockname())


async def test_what_is_open_stays_as_the_number_of_workers_changes(
    listeners: Listeners,
) -> None:
    await listeners.open(tcp(), 1)
    port, first = port_of(listeners), listeners.of(tcp(), 0)["otlp"]["grpc"][0]
    first.listen()
    await listeners.open(tcp(), 2)
    assert listeners.of(tcp(), 0)["otlp"]["grpc"][0] is first
    assert port_of(listeners, 1) == port
    second = listeners.of(tcp(), 1)["otlp"]["grpc"][0]
    listeners.keep(tcp(), 1)
    assert (second.fileno(), first.fileno() >= 0) == (-1, True)
    listeners.keep({}, 1)
    assert first.fileno() == -1


async def test_an_endpoint_moves_to_another_name_or_address(listeners: Listeners) -> None:
    # One that no connection of another address has, as those that the system chooses may.
    port = free_port()
    await listeners.open(tcp(port), 1)
    listeners.of(tcp(port), 0)["otlp"]["grpc"][0].listen()
    wider = {"otlp/b": {"grpc": Endpoint(f"0.0.0.0:{port}")}}
    await listeners.open(wider, 1)
    listeners.keep(wider, 1)
    listeners.of(wider, 0)["otlp/b"]["grpc"][0].listen()
    dial(("127.0.0.1", port))


async def test_a_port_that_is_in_use(listeners: Listeners) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            await listeners.open(tcp(port), 2)
    text = f"receivers::otlp: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert caught.value.problems == [text]


async def test_two_receivers_of_one_endpoint(listeners: Listeners) -> None:
    port = free_port()
    twice = {"otlp": tcp(port)["otlp"], "otlp/b": tcp(port)["otlp"]}
    with pytest.raises(ConfigError, match=r"otlp/b.*in use"):
        await listeners.open(twice, 2)


@pytest.mark.parametrize("abstract", [False, True])
async def test_a_unix_socket_is_one_for_all(
    listeners: Listeners, abstract: bool, tmp_path: Path
) -> None:
    name = "@" + tmp_path.name if abstract else str(tmp_path / "s")
    address = name.replace("@", "\0")
    wanted = {"otlp": {"grpc": Endpoint(name, "unix")}}
    await listeners.open(wanted, 2)
    (one,), (other,) = (listeners.of(wanted, slot)["otlp"]["grpc"] for slot in (0, 1))
    assert one is other
    one.listen()
    dial(address, socket.AF_UNIX)
    rival = Listeners()
    with pytest.raises(ConfigError, match="in use"):
        await rival.open(wanted, 1)
    rival.close()
    await asyncio.sleep(0)
    dial(address, socket.AF_UNIX)
    listeners.close()
    assert not (tmp_path / "s").exists()
    with pytest.raises(OSError, match=r"No such file|refused"):
        dial(address, socket.AF_UNIX)
