"""A connection of HTTP/1 without a socket: bytes in, bytes out, and what it holds."""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

from k8strace._http1 import Request
from k8strace.net.http1 import Connection
from k8strace.net.messages import HTTPError, Response, text_response
from k8strace.net.site import STEP, Client, Limits, Shared

_DATE = re.compile(rb"Date: [^\r]*\r\n")


class Lease:
    """Room for a body; `held` is what all of a site have."""

    def __init__(self, size: int, site: Echo) -> None:
        self.size, self._site = size, site
        site.bodies += size

    def __del__(self) -> None:
        self._site.bodies -= self.size


class Echo:
    """Answers each request with its body. With `waits` each step becomes a task."""

    def __init__(
        self, *, max_body: int = 1 << 20, room: int = 1 << 30, waits: bool = False
    ) -> None:
        self.max_body = max_body
        self.room = room
        self.waits = waits
        self.bodies = 0  # bytes that are leased,
        self.upkeep = 0  # and that connections have
        self.most = 0
        self.requests: list[tuple[bytes, bytes, bytes]] = []
        self.reasons: list[str] = []

    def on_reject(self, reason: str, peer: str, text: str) -> None:
        assert text
        self.reasons.append(reason)

    def take(self, size: int) -> bool:
        assert size > 0
        if self.upkeep + size > self.room:
            return False
        self.upkeep += size
        self.most = max(self.most, self.upkeep)
        return True

    def give(self, size: int) -> None:
        self.upkeep -= size
        assert self.upkeep >= 0

    def grow(self, request: Request, size: int) -> bool:
        if self.bodies + size > self.room:
            return False
        request.lease.size += size
        self.bodies += size
        return True

    def refusal(self, size: int, client: Client) -> Exception:
        return HTTPError(503, "memory", "no room", 1.0)  # type: ignore[arg-type]

    async def admit(self, request: Request, client: Client) -> None:
        if self.waits:
            await asyncio.sleep(0)
        if request.target == b"/refused":
            raise ValueError("refused")
        size = min(STEP, self.max_body) if request.length < 0 else request.length
        if size > self.max_body:
            raise ValueError("too large")
        if self.bodies + size > self.room:
            raise ValueError("no room")
        request.lease = Lease(size, self)

    async def answer(self, request: Request, client: Client) -> Response:
        if self.waits:
            await asyncio.sleep(0)
        self.requests.append((request.method, request.target, request.body))
        return Response(200, request.body)

    def failure(self, error: BaseException, request: Request | None) -> Response:
        status = error.status if isinstance(error, HTTPError) else 500
        return text_response(status, str(error))


class Wire:
    """The other end of a connection, which is its transport, too."""

    def __init__(self, site: Echo, loop: asyncio.AbstractEventLoop) -> None:
        self.site = site
        self.loop = loop
        self.sent = b""
        self.is_reading = True
        self.takes = True  # what is written
        self.is_closed = False
        self.has_ended = False  # what is written
        self.shared = Shared(cast("Any", site), Limits(), loop)
        self.connection = Connection(self.shared, loop)
        self.connection.connection_made(cast("asyncio.BaseTransport", self))

    def feed(self, data: bytes) -> bytes:
        """Let the connection read; returns what it doesn't."""
        while data and self.is_reading and not self.is_closed:
            buffer = self.connection.get_buffer(-1)
            size = min(len(buffer), len(data))
            assert size
            buffer[:size] = data[:size]
            del buffer
            self.connection.buffer_updated(size)
            data = data[size:]
        return data

    def step(self) -> None:
        """Let the loop run once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def exchange(self, *pieces: bytes) -> bytes:
        """What is sent for `pieces`, but for the date."""
        for piece in pieces:
            rest = self.feed(piece)
            for _ in range(10_000):
                if not rest and not self.shared.tasks:
                    break
                self.step()
                rest = self.feed(rest)
                if self.is_closed:
                    break
        return self.text

    @property
    def text(self) -> bytes:
        return _DATE.sub(b"", self.sent)

    def lose(self) -> None:
        """The client goes away."""
        self.is_closed = True
        self.connection.connection_lost(None)
        while self.shared.tasks:
            self.step()

    # As a transport

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert (high, low) == (1, 0)

    def get_write_buffer_size(self) -> int:
        return 1

    def write(self, data: bytes) -> None:
        assert not self.has_ended
        self.sent += data
        if not self.takes:
            self.connection.pause_writing()

    def take(self) -> None:
        """Take what was written."""
        self.takes = True
        self.connection.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True
