"""TLS of connections that come in: what is read and held, and when it ends."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from k8strace.tls import incoming
from k8strace.tls.contexts import Contexts, client_context
from k8strace.tls.incoming import (
    MAX_GATHERED,
    MAX_HELLO,
    READ_SIZE,
    HelloTooLargeError,
    Incoming,
)
from k8strace.tls.options import ServerTLS
from tests.support.certificates import Authority, Pair
from tests.support.pipeline import until

RECORD = 5  # bytes of a record's header


class Echo(asyncio.BufferedProtocol):
    """Sends back what it gets, unless it is told otherwise."""

    def __init__(self) -> None:
        self.buffer = bytearray(64 * 1024)
        self.received: list[bytes] = []
        self.transport = cast("Incoming", None)
        self.echoes, self.keeps_open = True, False
        self.has_ended = asyncio.Event()
        self.is_lost = asyncio.Event()
        self.paused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("Incoming", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self.buffer[:nbytes])
        self.received.append(data)
        if self.echoes:
            self.transport.write(data)

    def eof_received(self) -> bool:
        self.has_ended.set()
        return self.keeps_open

    def pause_writing(self) -> None:
        self.paused += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost.set()


class Server:
    """Accepts without a bound, and notes what handshakes say."""

    def __init__(self) -> None:
        self.made: asyncio.Queue[Echo] = asyncio.Queue()
        self.ready: list[Incoming] = []
        self.open = 0
        self.failures: list[Exception] = []
        self.waits = False
        self.host, self.port = "127.0.0.1", 0
        self.accepted: list[Incoming] = []
        self._writers: list[asyncio.StreamWriter] = []

    def make(self) -> Echo:
        one = Echo()
        self.made.put_nowait(one)
        return one

    def is_ready(self, one: Incoming) -> None:
        self.ready.append(one)
        if not self.waits:
            one.shake()

    def opened(self, one: Incoming) -> None:
        self.open += 1

    def failed(self, one: Incoming, error: Exception) -> None:
        self.failures.append(error)

    async def connect(self, authority: Authority | None = None) -> Client:
        """A client that trusts the authority, or one without TLS."""
        options: dict[str, Any] = {}
        if authority is not None:
            context = client_context(authority.cert.read_text())
            options = {"ssl": context, "server_hostname": "localhost"}
        reader, writer = await asyncio.open_connection(self.host, self.port, **options)
        self._writers.append(writer)
        return reader, writer

    async def end(self) -> None:
        """Return when no connection is left on either side."""
        for writer in self._writers:
            if not writer.is_closing():  # Python 3.11.2 aborts no transport that has ended
                writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
        await until(lambda: all(one._phase == incoming.LOST for one in self.accepted))


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(pair: Pair) -> AsyncIterator[Server]:
    contexts = Contexts(ServerTLS(**pair.files))
    contexts.read()
    server, loop = Server(), asyncio.get_running_loop()
    view = memoryview(bytearray(READ_SIZE))

    def accept() -> Incoming:
        one = Incoming(loop, contexts.current, server.make, server, view)
        server.accepted.append(one)
        return one

    listening = await loop.create_server(accept, server.host, 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(30):
            yield server
            await server.end()
    finally:
        listening.close()


def hello(size: int, fragment: int = 16 * 1024, kind: int = 1) -> bytes:
    """A client's first message of so many bytes, in records of so many."""
    message = bytes((kind,)) + size.to_bytes(3) + bytes(size)
    parts = [message[at : at + fragment] for at in range(0, len(message), fragment)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)


def gathered(data: bytes, step: int) -> bool:
    one = incoming._Hello()
    return any(
        one.add(memoryview(data[at : at + step])) for at in range(0, len(data), step)
    )


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize("fragment", [1, 3, 1000, 16 * 1024])
def test_a_hello_is_whole_when_its_last_byte_is_here(step: int, fragment: int) -> None:
    data = hello(1000, fragment)
    assert gathered(data, step)
    assert not gathered(data[:-1], step)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1", hello(9, kind=2), b"\x16\x03\x01\0\0"])
def test_what_is_none_is_for_openssl_to_judge(data: bytes) -> None:
    assert gathered(data, 1)


@pytest.mark.parametrize(
    "data", [hello(MAX_HELLO + 1), hello(MAX_HELLO, 3), hello(0xFFFFFF)[:9]]
)
def test_one_that_is_too_large_is_refused_as_soon_as_that_is_known(data: bytes) -> None:
    with pytest.raises(HelloTooLargeError, match="ClientHello"):
        gathered(data[: MAX_GATHERED + 100], 1000)


async def test_bytes_go_through_and_the_client_closes(
    server_pair: Pair, authority: Authority
) -> None:
    async with serving(server_pair) as server:
        reader, writer = await server.connect(authority)
        body = bytes(range(256)) * 4000
        writer.write(body)
        assert await reader.readexactly(len(body)) == body
        one = await server.made.get()
        assert (server.open, server.failures) == (1, [])
        assert one.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert one.transport.get_extra_info("peername")[0] == "127.0.0.1"
        one.transport.write(b"end")
        one.transport.close()
        assert await reader.read() == b"end"
        writer.close()
        await one.is_lost.wait()


async def test_nothing_is_read_while_reading_is_paused(
    server_pair: Pair, authority: Authority
) -> None:
    async with serving(server_pair) as server:
        reader, writer = await server.connect(authority)
        one = await server.made.get()
        one.transport.pause_reading()
        assert not one.transport.is_reading()
        body = b"x" * 3_000_000
        writer.write(body)
        echoed = asyncio.ensure_future(reader.readexactly(len(body)))
        done, _ = await asyncio.wait((echoed,), timeout=0.1)
        assert not done
        assert not one.received
        # What OpenSSL holds is what was read at once.
        assert one.transport._received is None or (
            one.transport._received.pending <= READ_SIZE
        )
        one.transport.resume_reading()
        assert await echoed == body
        writer.close()


async def test_what_is_not_taken_pauses_writing(
    server_pair: Pair, authority: Authority
) -> None:
    async with serving(server_pair) as server:
        _, writer = await server.connect(authority)
        one = await server.made.get()
        one.transport.set_write_buffer_limits(high=1, low=0)
        assert one.transport.get_write_buffer_limits() == (0, 1)
        while not one.paused:
            one.transport.write(bytes(1_000_000))
            await asyncio.sleep(0)
        assert one.transport.get_write_buffer_size()
        one.transport.abort()
        await one.is_lost.wait()
        writer.close()


@pytest.mark.parametrize("keeps_open", [True, False])
async def test_a_client_that_sends_nothing_more_gets_its_answer(
    server_pair: Pair, authority: Authority, *, keeps_open: bool
) -> None:
    async with serving(server_pair) as server:
        context = client_context(authority.cert.read_text())
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(received, sent, server_hostname="localhost")
        reader, writer = await server.connect()

        async def when_read(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLZeroReturnError:
                    return b""
                except ssl.SSLWantReadError:
                    writer.write(sent.read())
                    received.write(await reader.read(65536))

        await when_read(tls.do_handshake)
        writer.write(sent.read())
        one = await server.made.get()
        one.echoes, one.keeps_open = False, keeps_open
        tls.write(b"request")
        with suppress(ssl.SSLError):
            tls.unwrap()
        writer.write(sent.read())
        await one.has_ended.wait()
        assert one.received == [b"request"]
        assert one.transport.is_closing() is not keeps_open
        if keeps_open:
            one.transport.write(b"answer")
            one.transport.close()
            assert await when_read(lambda: tls.read(100)) == b"answer"
        assert await when_read(lambda: tls.read(100)) == b""
        writer.close()
        await one.is_lost.wait()


async def test_a_hello_waits_until_it_may_go_on(
    server_pair: Pair, authority: Authority
) -> None:
    async with serving(server_pair) as server:
        server.waits = True
        connecting = asyncio.ensure_future(server.connect(authority))
        await until(lambda: bool(server.ready))
        assert not connecting.done()
        assert server.ready[0].get_extra_info("ssl_object") is None
        server.ready[0].shake()
        reader, writer = await connecting
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()


async def test_who_is_broken_off_is_told_of_once(server_pair: Pair) -> None:
    async with serving(server_pair) as server:
        server.waits = True
        reader, writer = await server.connect()
        writer.write(hello(100))
        await until(lambda: bool(server.ready))
        server.ready[0].evict()
        server.ready[0].evict()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert [type(one) for one in server.failures] == [MemoryError]


async def test_what_goes_wrong_in_a_handshake(
    server_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(server_pair) as server:

        async def failure(data: bytes, *, ends: bool = False) -> Exception:
            count = len(server.failures)
            reader, writer = await server.connect()
            writer.write(data)
            if ends:
                writer.write_eof()
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
            await until(lambda: len(server.failures) > count)
            return server.failures[-1]

        assert isinstance(await failure(hello(MAX_HELLO + 1)), HelloTooLargeError)
        plain = await failure(b"GET / HTTP/1.1\r\n\r\n")
        assert isinstance(plain, ssl.SSLError)
        assert plain.reason == "HTTP_REQUEST"
        assert isinstance(await failure(hello(100)[:-1], ends=True), ConnectionResetError)
        monkeypatch.setattr(incoming, "HANDSHAKE_TIMEOUT", 0.01)
        assert isinstance(await failure(b""), TimeoutError)
        monkeypatch.setattr(incoming, "MAX_HANDSHAKE", 10)
        assert isinstance(await failure(hello(100)), HelloTooLargeError)
    assert server.open == 0
