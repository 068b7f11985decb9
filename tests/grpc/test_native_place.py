"""How places get connections and keep them; what uses them is in test_native_client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from k8strace.grpc import ClientKeepalive, ClientSettings, native, native_place
from k8strace.grpc.native_place import Place, jittered, longer
from k8strace.grpc.native_target import Address, Target
from k8strace.units import Duration
from tests.support.engine import Rig
from tests.support.http2 import ENHANCE_YOUR_CALM, GOAWAY, SETTINGS, frame, serving
from tests.support.ports import free_port


def address_of(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


def unused() -> Address:
    """Where nobody listens."""
    return "127.0.0.1", free_port()


class Watched:
    """A place, and how often it changed."""

    def __init__(self, *addresses: Address) -> None:
        self.changes = 0
        self._changed = asyncio.Event()
        target = Target(ClientSettings(target="127.0.0.1:1"))
        self.place = Place(target, addresses, self._change)
        self.tasks: list[asyncio.Task[None]] = []

    def _change(self) -> None:
        self.changes += 1
        self._changed.set()

    def connect(self) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self.place.connect())
        self.tasks.append(task)
        return task

    async def until_changed(self, changes: int) -> None:
        async with asyncio.timeout(20):
            while self.changes < changes:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def watched(*addresses: Address) -> AsyncIterator[Watched]:
    one = Watched(*addresses)
    try:
        yield one
    finally:
        one.place.close("the test is over")
        for task in one.tasks:
            task.cancel()
        await asyncio.wait(one.tasks)


def test_backoffs_grow_and_are_jittered() -> None:
    backoff, found = 0.0, []
    for _ in range(12):
        backoff = longer(backoff)
        found.append(backoff)
    assert found[:2] == [native_place.FIRST_BACKOFF, native_place.FIRST_BACKOFF * 1.6]
    assert found[-1] == native_place.MAX_BACKOFF
    assert len({jittered(1.0) for _ in range(50)}) > 1
    assert all(0.8 <= jittered(1.0) <= 1.2 for _ in range(50))


async def test_the_first_address_that_connects_is_taken() -> None:
    async with Rig(native) as rig:
        async with watched(unused(), address_of(rig.address)) as one:
            await one.connect()
            assert not one.place.is_idle
            assert one.place.channel is not None
            assert one.place.error is None


async def test_it_tries_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_place, "FIRST_BACKOFF", 0.01)
    nowhere = unused()
    async with watched(nowhere) as one:
        task = one.connect()
        await one.until_changed(2)
        assert f"{nowhere[1]}" in (one.place.error or "")
        async with Rig(native, endpoint=f"{nowhere[0]}:{nowhere[1]}"):
            await asyncio.wait_for(task, 20)
            assert one.place.channel is not None
            assert one.place.error is None


async def test_addresses_that_are_no_more_are_left() -> None:
    async with Rig(native) as first, Rig(native) as second:
        addresses = address_of(first.address), address_of(second.address)
        async with watched(*addresses) as one:
            await one.connect()
            channel = one.place.channel
            one.place.move(addresses[::-1])
            assert one.place.channel is channel
            one.place.move(addresses[1:])
            assert one.place.channel is None
            assert one.place.is_idle
            await one.connect()
            assert len(second.server.shared.connections) == 1
            async with asyncio.timeout(20):
                while first.server.shared.connections:
                    first.server.shared.changed.clear()
                    await first.server.shared.changed.wait()


@pytest.mark.parametrize(
    ("keepalive", "text", "intervals", "says"),
    [
        (50.0, b"too_many_pings", [100.0, 200.0, 400.0, 800.0], "are 100s apart"),
        (50.0, b"too_many_pings!", [50.0] * 4, "ENHANCE_YOUR_CALM: too_many_pings!"),
        (50.0, b"\x1b[2J", [50.0] * 4, "ENHANCE_YOUR_CALM: \\x1b[2J"),
        (None, b"too_many_pings", [None] * 4, "ENHANCE_YOUR_CALM: too_many_pings"),
        (None, b"", [None] * 4, "ENHANCE_YOUR_CALM: it did not say why"),
    ],
)
async def test_a_server_that_asks_for_calm_gets_it(
    keepalive: float | None,
    text: bytes,
    intervals: list[float | None],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(native_place, "FIRST_BACKOFF", 0.01)

    async def complain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0))
        code = ENHANCE_YOUR_CALM.to_bytes(4, "big")
        writer.write(frame(GOAWAY, 0, 0, bytes(4) + code + text))
        await reader.read()

    given = ClientKeepalive(time=None if keepalive is None else Duration(keepalive))
    async with serving(complain) as address, watched(address_of(address)) as one:
        one.place._target = Target(ClientSettings(target=address, keepalive=given))
        found, backoffs = [], []
        for _ in intervals:
            await one.connect()
            async with asyncio.timeout(20):
                while one.place.channel is not None:
                    await one.until_changed(one.changes + 1)
            found.append(one.place._target._keepalive.time)
            backoffs.append(one.place._backoff)
        assert found == intervals
        assert backoffs[0] == 0.01
        assert backoffs == sorted(backoffs)
    line = caplog.messages[0]
    assert line.startswith(f"{address} closed a connection ")
    assert says in line


@pytest.mark.parametrize("goes", [True, False])
async def test_servers_that_let_go_at_once_are_not_asked_again_at_once(
    goes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_place, "FIRST_BACKOFF", 0.01)
    connections = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(frame(SETTINGS, 0, 0))
        if goes:
            writer.write(frame(GOAWAY, 0, 0, bytes(8)))

    async with serving(refuse) as address, watched(address_of(address)) as one:
        errors = []
        for number in range(1, 5):
            await one.connect()
            async with asyncio.timeout(20):
                while one.place.channel is not None:
                    await one.until_changed(one.changes + 1)
            assert connections == number
            errors.append(one.place.error is None)
            assert (one.place._backoff > 0) == (number > 1)
        # One may be bad luck; and who says goodbye is no error.
        assert errors == [True, *[goes] * 3]


async def test_a_place_that_is_left_while_it_connects() -> None:
    async with Rig(native) as rig, watched(address_of(rig.address)) as one:
        task = one.connect()
        one.place.leave()
        await task
        assert one.place.channel is None
        async with asyncio.timeout(20):
            while rig.server.shared.connections:
                rig.server.shared.changed.clear()
                await rig.server.shared.changed.wait()
