"""As much HTTP/2 as it takes to be a hostile gRPC client or server, byte by byte."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from tests.support.backend import PATH

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 7, 8, 11


class Frame(NamedTuple):
    type: int
    flags: int
    stream: int
    body: bytes


def frame(type: int, flags: int, stream: int, body: bytes = b"") -> bytes:  # noqa: A002
    return (
        struct.pack(">I", len(body))[1:] + struct.pack(">BBI", type, flags, stream) + body
    )


def headers(*pairs: tuple[str, str], path: str = PATH) -> bytes:
    """A header block of literals; `pairs` are in addition to what HTTP/2 asks for."""
    block = b""
    for pair in (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        *pairs,
    ):
        block += b"\0"
        for text in pair:
            assert len(text) < 127
            block += bytes([len(text)]) + text.encode()
    return block


GRPC = (("content-type", "application/grpc"), ("te", "trailers"))


def message(body: bytes, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return struct.pack(">BI", compressed, len(body)) + body


STATUS_NAMES = (b"grpc-status", b"\x9a\xca\xc8\xb2\x12\x34\xda\x8f")


def grpc_status(block: bytes) -> int:
    """The grpc-status of a header block, whose name is a literal, plain or by Huffman."""
    for name in STATUS_NAMES:
        _, found, after = block.partition(name)
        if found:
            return int(after[1 : 1 + after[0]])
    raise AssertionError(f"no grpc-status in {block!r}")


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)


def frames(data: bytes) -> list[Frame]:
    """The frames that `data` is made of."""
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", data[3:9])
        assert len(data) >= 9 + length
        found.append(Frame(kind, flags, stream, data[9 : 9 + length]))
        data = data[9 + length :]
    return found


class Raw:
    """A connection on which a test writes what it likes."""

    def __init__(self, address: str, source: str | None = None) -> None:
        self._source = None if source is None else (source, 0)
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)

    async def __aenter__(self) -> Raw:
        self.reader, self.writer = await asyncio.open_connection(
            self._host, self._port, local_addr=self._source
        )
        self.writer.write(PREFACE)
        await self.writer.drain()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    def reset(self) -> None:
        """Go away without a word."""
        self.writer.transport.abort()

    async def frame(self, *types: int, timeout: float = 20.0) -> Frame:
        """The next frame of one of `types`; raises EOFError at the end."""
        async with asyncio.timeout(timeout):
            while True:
                head = await self.reader.readexactly(9)
                length = int.from_bytes(head[:3], "big")
                body = await self.reader.readexactly(length)
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                if kind in types:
                    return Frame(kind, flags, stream, body)

    async def status(self) -> int:
        """The grpc-status in the header block that ends the stream."""
        return grpc_status(await self.trailers())

    async def trailers(self) -> bytes:
        """The header block that ends the stream: grpc-status is readable in it."""
        while True:
            found = await self.frame(HEADERS)
            if found.flags & END_STREAM:
                return found.body


@asynccontextmanager
async def serving(handle: Any) -> AsyncIterator[str]:
    """A server of which `handle` writes every byte itself; its address."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await handle(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    running: set[Any] = set()
    server = await asyncio.start_server(run, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
        await asyncio.wait(running, timeout=20)
