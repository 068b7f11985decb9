"""Requests of 64 MiB that are never whole in their sender's memory."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from itertools import count

from k8strace.grpc.status import Code
from tests.support.engine import MIB
from tests.support.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GRPC,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    Raw,
    frame,
    grpc_status,
    headers,
)
from tests.support.wire import field, request, span

FRAME = 16_384
INITIAL_WINDOW, INITIAL_WINDOW_SIZE = 4, 65_535
SPANS = 64  # in a request
FILLER = bytes(MIB - 200)
_numbers = count(1)


def ids() -> list[bytes]:
    """Those of a request's spans, which nobody else in this process has."""
    return [(1 << 62 | next(_numbers)).to_bytes(8, "big") for _ in range(SPANS)]


def piece(span_id: bytes) -> bytes:
    """A span of nearly 1 MiB, as a request of its own: several are a request, too."""
    padding = field(9, field(1, b"padding") + field(2, field(7, FILLER)))
    return request(span(span_id * 2, span_id, padding))


class Upload:
    """A call on a connection of its own, which sends as its peer lets it."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._stream = self._connection = INITIAL_WINDOW_SIZE
        self._initial = INITIAL_WINDOW_SIZE
        self._status: int | None = None
        self._changed = asyncio.Event()

    async def run(self, span_ids: Iterable[bytes]) -> int:
        """The status that the call ends with; UNAVAILABLE where it is broken off."""
        reading = asyncio.ensure_future(self._read())
        try:
            await self._raw.send(frame(HEADERS, END_HEADERS, 1, headers(*GRPC)))
            head = b"\0" + (SPANS * len(piece(bytes(8)))).to_bytes(4, "big")
            await self._write(head)
            for span_id in span_ids:
                await self._write(piece(span_id))
            if self._status is None:
                await self._raw.send(frame(DATA, END_STREAM, 1))
            await reading
        except (ConnectionError, EOFError):
            self._end(Code.UNAVAILABLE)
        finally:
            reading.cancel()
        assert self._status is not None
        return self._status

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._status is None:
            room = min(self._stream, self._connection, FRAME)
            if room <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            await self._raw.send(frame(DATA, 0, 1, bytes(view[:room])))
            sent = len(view[:room])
            self._stream -= sent
            self._connection -= sent
            view = view[room:]

    async def _read(self) -> None:
        kinds = (HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE)
        try:
            while self._status is None:
                self._take(await self._raw.frame(*kinds, timeout=600))
        except (ConnectionError, EOFError):
            self._end(Code.UNAVAILABLE)

    def _take(self, one: Frame) -> None:
        if one.type == WINDOW_UPDATE:
            (more,) = struct.unpack(">I", one.body)
            if one.stream:
                self._stream += more
            else:
                self._connection += more
        elif one.type == SETTINGS and not one.flags & ACK:
            for name, value in struct.iter_unpack(">HI", one.body):
                if name == INITIAL_WINDOW:
                    self._stream += value - self._initial
                    self._initial = value
            self._raw.writer.write(frame(SETTINGS, ACK, 0))
        elif one.type == HEADERS and one.flags & END_STREAM:
            self._end(grpc_status(one.body))
        elif one.type in (RST_STREAM, GOAWAY):
            self._end(Code.UNAVAILABLE)
        self._changed.set()

    def _end(self, status: int) -> None:
        if self._status is None:
            self._status = status
        self._changed.set()
