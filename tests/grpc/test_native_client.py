"""What only the native client does; the rest is in conformance/."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.grpc import (
    Call,
    ClientKeepalive,
    ServerKeepalive,
    is_over,
    native,
    native_client,
)
from k8strace.grpc.native_channel import Channel
from k8strace.grpc.native_client import grpc_timeout
from k8strace.grpc.native_target import Target
from k8strace.grpc.status import Code, StatusError
from k8strace.units import Duration
from tests.support.backend import PATH
from tests.support.engine import Rig
from tests.support.http2 import (
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    frame,
    serving,
)
from tests.support.native import call, client
from tests.support.ports import free_port


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, b"0m"),
        (0.25, b"250m"),
        (0.2501, b"251m"),
        (86400, b"86400000m"),
        (1e6, b"1000000S"),
        (1e12, b"99999999S"),
    ],
)
def test_timeouts_as_headers(seconds: float, text: bytes) -> None:
    assert grpc_timeout(seconds) == text


def test_a_deadline_that_the_server_noticed_first() -> None:
    now = 12345.678
    assert is_over(now + 0.2, now + 0.199)  # a clock of milliseconds
    assert is_over(now, now)
    assert not is_over(now + 0.2, now + 0.19)
    assert not is_over(math.inf, now)


async def test_connections_that_age_lose_no_request() -> None:
    keepalive = ServerKeepalive(max_connection_age=Duration(0.04))

    async def answer(request: Call) -> bytes:
        await asyncio.sleep(0)
        return request.message

    async with Rig(native, keepalive=keepalive) as rig, client(rig.address) as one:
        rig.answer = answer
        peers: set[str] = set()
        async with asyncio.timeout(30):
            while len(peers) < 4:
                bodies = [b"\x0a" * size for size in range(1, 20)]
                assert await asyncio.gather(*(call(one, body) for body in bodies)) == bodies
                peers |= {request.origin.peer for request in rig.calls}
        assert rig.rejects == []


async def test_round_robin_uses_all_addresses() -> None:
    async with Rig(native) as first, Rig(native) as second:
        target = f"ipv4:{first.address},{second.address}"
        async with client(target) as one:
            await call(one)
            async with asyncio.timeout(20):
                while not (first.calls and second.calls):
                    await call(one)
            before = len(first.calls), len(second.calls)
            for _ in range(10):
                await call(one)
            assert (len(first.calls), len(second.calls)) == (before[0] + 5, before[1] + 5)
            await first.server.stop(0)
            for _ in range(10):
                await call(one)
        async with client(f"ipv4:{second.address}", balancer_name="pick_first") as one:
            assert await call(one) == b"\x0a\x00"


async def test_a_lost_connection_fails_its_calls_and_is_made_anew() -> None:
    async def answer(request: Call) -> bytes:
        for connection in tuple(rig.server.shared.connections):
            connection.abort()
        await asyncio.Event().wait()
        return b""

    async with Rig(native) as rig, client(rig.address) as one:
        rig.answer = answer
        with pytest.raises(StatusError) as caught:
            await call(one)
        assert caught.value.code is Code.UNAVAILABLE
        rig.answer = None
        assert await call(one) == b"\x0a\x00"


async def test_keepalive_gives_up_on_a_server_that_is_silent() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        keepalive = ClientKeepalive(time=Duration(0.02), timeout=Duration(0.02))

        async with client(f"{host}:{port}", keepalive=keepalive) as one:
            with pytest.raises(StatusError) as caught:
                await call(one)
            assert caught.value.code is Code.UNAVAILABLE
            assert "pings" in caught.value.message
            await asyncio.wait_for(gone.wait(), 20)


async def test_many_calls_at_once() -> None:
    async with Rig(native) as rig, client(rig.address) as one:
        rig.keep_calls = False
        bodies = [b"%d" % number * (number % 50) for number in range(2000)]
        assert await asyncio.gather(*(call(one, body) for body in bodies)) == bodies
        await rig.at_rest()


async def test_large_messages_are_written_as_they_are() -> None:
    async with Rig(native) as rig, client(rig.address) as one:
        parts = tuple(bytes([number]) * 3_000_000 for number in range(10))
        assert await one.call(PATH, parts[:1], timeout=60) == parts[0]
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, parts, timeout=60)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert rig.calls[1].message == b"".join(parts)


async def test_answers_may_be_compressed() -> None:
    """As grpc-go's servers do, where the request is."""
    answer = b"\x0a" * 1000

    async def export(_request: bytes, _context: Any) -> bytes:
        return answer

    method: Any = grpc.unary_unary_rpc_method_handler(export)  # bytes in, bytes out
    _, service, name = PATH.split("/")
    server = grpc.aio.server(compression=grpc.Compression.Gzip)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        for compression in ("gzip", "none"):
            target = f"127.0.0.1:{port}"
            async with client(target, compression=compression) as one:
                assert await call(one) == answer
    finally:
        await server.stop(None)


async def test_several_connections_take_turns() -> None:
    async with Rig(native) as rig, client(rig.address, connections=3) as one:
        async with asyncio.timeout(20):
            while len(one._ready) < 3:
                await call(one)
        rig.calls.clear()
        for _ in range(30):
            await call(one)
        peers = Counter(request.origin.peer for request in rig.calls)
        assert list(peers.values()) == [10, 10, 10]


async def test_pick_first_stays_where_it_is_and_falls_back() -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    async with Rig(native, endpoint=endpoint) as first, Rig(native) as second:
        target = f"ipv4:{first.address},{second.address}"
        settings = {"balancer_name": "pick_first", "connections": 2}
        async with client(target, **settings) as one:
            for _ in range(20):
                await call(one)
            assert (len(first.calls), len(second.calls)) == (20, 0)
            await first.server.stop(0)
            for _ in range(20):
                await call(one)
            assert len(second.calls) == 20
            async with Rig(native, endpoint=first.address) as again:
                for _ in range(20):
                    await call(one)
                assert (len(again.calls), len(second.calls)) == (0, 40)


class Names:
    """What names resolve to, of the running loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._resolve)

    async def _resolve(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked += 1
        return [(2, 1, 6, "", (address, port)) for address in self.addresses]


async def test_a_new_address_is_found_while_all_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_client, "RESOLVE_INTERVAL", 0.02)
    monkeypatch.setattr(native_client, "REFRESH_INTERVAL", 0.05)
    async with Rig(native) as first:
        port = first.address.rpartition(":")[2]
        async with Rig(native, endpoint=f"127.0.0.2:{port}") as second:
            names = Names(monkeypatch, "127.0.0.1")
            async with client(f"backend:{port}") as one:
                await call(one)
                names.addresses = ("127.0.0.1", "127.0.0.2")
                async with asyncio.timeout(20):
                    while not second.calls:
                        await call(one)
                names.addresses = ("127.0.0.2",)
                async with asyncio.timeout(20):
                    while first.server.shared.connections:
                        await call(one)
                await call(one)


@pytest.mark.parametrize("balancer", ["round_robin", "pick_first"])
async def test_names_are_resolved_again_when_a_server_goes(
    balancer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_client, "RESOLVE_INTERVAL", 0.02)
    async with Rig(native) as first:
        port = first.address.rpartition(":")[2]
        async with Rig(native, endpoint=f"127.0.0.2:{port}") as second:
            names = Names(monkeypatch, "127.0.0.1")
            settings = {"balancer_name": balancer, "wait_for_ready": True}
            async with client(f"backend:{port}", **settings) as one:
                await call(one)
                names.addresses = ("127.0.0.2",)
                await first.server.stop(0)
                for _ in range(20):
                    assert await call(one) == b"\x0a\x00"
                assert len(second.calls) == 20
                assert names.asked < 10


async def test_a_resolver_that_fails_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody expects, of a resolver or of a connection, is logged, and tried again."""
    async with Rig(native) as rig:
        names = Names(monkeypatch, "127.0.0.1")
        failures: list[Exception] = [ValueError("names"), MemoryError("names")]
        resolve = names._resolve

        async def failing(*args: Any, **kwargs: Any) -> list[Any]:
            if failures:
                raise failures.pop()
            return await resolve(*args, **kwargs)

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", failing)
        connect = Target.connect
        defects: list[Exception] = [KeyError("connections")]

        async def connecting(self: Target, *args: Any) -> Channel:
            if defects:
                raise defects.pop()
            return await connect(self, *args)

        monkeypatch.setattr(Target, "connect", connecting)
        target = f"backend:{rig.address.rpartition(':')[2]}"
        async with client(target, wait_for_ready=True) as one:
            await call(one)
        texts = [record.getMessage() for record in caplog.records]
        assert [text.partition(";")[0] for text in texts] == [
            f"resolving {target} failed",
            f"resolving {target} failed",
            f"connecting to {target} failed",
        ]


async def test_a_name_that_is_not_one_is_an_error_of_each_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: Any, **__: Any) -> list[Any]:
        raise UnicodeError("label empty or too long")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", refuse)
    async with client("backend:4317") as one:
        for _ in range(2):
            with pytest.raises(StatusError, match="not a host name: label empty"):
                await call(one)


async def test_what_a_server_did_not_process_is_sent_again() -> None:
    refused = False

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        writer.write(frame(SETTINGS, 0, 0))
        if refused:
            # Only the first: who comes later is passed on.
            host, _, port = rig.address.rpartition(":")
            behind, into = await asyncio.open_connection(host, port)
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, into))
                group.create_task(pump(behind, writer))
            return
        await reader.readuntil(b"the last")
        refused = True
        writer.write(frame(GOAWAY, 0, 0, bytes(8)))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with Rig(native) as rig, serving(refuse) as address, client(address) as one:
        bodies = [*(b"%d" % number for number in range(50)), b"the last"]
        assert await asyncio.gather(*(call(one, body) for body in bodies)) == bodies
        assert refused
        assert sorted(request.message for request in rig.calls) == sorted(bodies)


def answered(*pairs: tuple[bytes, bytes], status: bytes = b"200") -> bytes:
    """Trailers that are all of the first stream's response."""
    block = b""
    for name, value in ((b":status", status), *pairs):
        block += b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, block)


@asynccontextmanager
async def answering(response: bytes) -> AsyncIterator[native.Client]:
    """A client of a server that sends the same bytes for each request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0))
        await reader.readuntil(b"a message")
        writer.write(response)
        await reader.read()

    async with serving(answer) as address, client(address) as one:
        yield one


@pytest.mark.parametrize(
    ("response", "code", "text", "delay"),
    [
        (answered(status=b"413"), Code.RESOURCE_EXHAUSTED, "HTTP status 413", None),
        (answered(status=b"408"), Code.UNAVAILABLE, "HTTP status 408", None),
        (
            answered((b"retry-after", b"7"), status=b"429"),
            *(Code.UNAVAILABLE, "HTTP status 429", 7.0),
        ),
        (
            answered((b"retry-after", b"7"), status=b"403"),
            *(Code.PERMISSION_DENIED, "HTTP status 403", None),
        ),
        (
            answered((b"content-type", b"text/html; charset=utf-8")),
            *(Code.UNIMPLEMENTED, "'text/html; charset=utf-8' and not gRPC", None),
        ),
        (
            answered((b"grpc-status", b"3"), (b"grpc-message", b"%1b[2J%0a%ff%ed%a0%80")),
            *(Code.INVALID_ARGUMENT, "\x1b[2J\n\ufffd", None),
        ),
        (
            frame(RST_STREAM, 0, 1, ENHANCE_YOUR_CALM.to_bytes(4, "big")),
            *(Code.RESOURCE_EXHAUSTED, "the stream was reset with ENHANCE_YOUR_CALM", None),
        ),
        (
            frame(RST_STREAM, 0, 1, (2).to_bytes(4, "big")),
            *(Code.INTERNAL, "the stream was reset with INTERNAL_ERROR", None),
        ),
        (
            frame(RST_STREAM, 0, 1, (99).to_bytes(4, "big")),
            *(Code.INTERNAL, "the stream was reset with error 99", None),
        ),
        (
            frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff" * 9),
            *(Code.UNAVAILABLE, "the server sent what HTTP/2 does not allow", None),
        ),
    ],
)
async def test_what_servers_and_proxies_say(
    response: bytes, code: Code, text: str, delay: float | None
) -> None:
    async with answering(response) as one:
        with pytest.raises(StatusError) as caught:
            await call(one, b"a message")
    assert (caught.value.code, caught.value.retry_delay) == (code, delay)
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("goaway", "text"),
    [
        (b"\2up\n\x1b[2J\xff", "GOAWAY with INTERNAL_ERROR: up\\n\\x1b[2J\ufffd"),
        (bytes([1]), "GOAWAY with PROTOCOL_ERROR"),
        (bytes([0]) + b"max_age", "GOAWAY with NO_ERROR: max_age"),
        (bytes([0]), "lost"),
    ],
)
async def test_why_a_server_ended_the_connection_is_said(goaway: bytes, text: str) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0))
        await reader.readuntil(b"a message")
        writer.write(frame(GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(3) + goaway))

    async with serving(end) as address, client(address) as one:
        with pytest.raises(StatusError) as caught:
            await call(one, b"a message")
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.message.endswith(text)


async def test_a_server_that_refuses_every_stream() -> None:
    tries = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        writer.write(frame(SETTINGS, 0, 0))
        while True:
            await reader.readuntil(b"no thanks")
            tries += 1
            stream = 2 * tries - 1
            writer.write(frame(RST_STREAM, 0, stream, REFUSED_STREAM.to_bytes(4, "big")))

    async with serving(refuse) as address, client(address) as one:
        with pytest.raises(StatusError) as caught:
            await call(one, b"no thanks")
        assert caught.value.code is Code.UNAVAILABLE
        assert tries == 1 + native_client.MAX_REFUSALS


async def test_headers_that_cannot_be_sent_fail_the_call() -> None:
    async with Rig(native) as rig, client(rig.address) as one:
        with pytest.raises(StatusError, match="headers"):
            await one.call(
                PATH, (b"x",), timeout=20, metadata=(("x-large", "x" * 200_000),)
            )
        assert await call(one) == b"\x0a\x00"


async def test_thousands_of_requests_over_connections_that_age() -> None:
    keepalive = ServerKeepalive(max_connection_age=Duration(0.1))
    async with Rig(native, keepalive=keepalive, max_concurrent_streams=20) as rig:
        sent: set[bytes] = set()
        answered: set[bytes] = set()
        peers: set[str] = set()

        async def answer(request: Call) -> bytes:
            peers.add(request.origin.peer)
            await asyncio.sleep(0.001)
            return request.message

        async def send(one: native.Client, worker: int) -> None:
            number = 0
            # At least a hundred, and as many as it takes for the connections to age.
            while number < 100 or len(peers) <= 4:
                body = b"%d/%d" % (worker, number)
                sent.add(body)
                assert await call(one, body) == body
                answered.add(body)
                number += 1

        rig.keep_calls = False
        rig.answer = answer
        async with client(rig.address, connections=2) as one:
            async with asyncio.TaskGroup() as group:
                for worker in range(60):
                    group.create_task(send(one, worker))
        assert answered == sent
        assert rig.rejects == []
