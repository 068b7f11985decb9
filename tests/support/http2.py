"""As much HTTP/2 as it takes to be a hostile gRPC client, byte by byte."""

from __future__ import annotations

import asyncio
import struct
from typing import NamedTuple

from tests.support.backend import PATH

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
CANCEL = 8


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


class Raw:
    """A connection on which a test writes what it likes."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)

    async def __aenter__(self) -> Raw:
        self.reader, self.writer = await asyncio.open_connection(self._host, self._port)
        self.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
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

    async def trailers(self) -> bytes:
        """The header block that ends the stream: grpc-status is readable in it."""
        while True:
            found = await self.frame(HEADERS)
            if found.flags & END_STREAM:
                return found.body
