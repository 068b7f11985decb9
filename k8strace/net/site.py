"""What connections of HTTP serve, and what those of one server share."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec

from k8strace._http1 import Request
from k8strace.addresses import host_of
from k8strace.budget import Upkeep
from k8strace.grpc import SLOW_AFTER, SLOW_RATE
from k8strace.grpc.endpoints import peer_of_socket
from k8strace.net.connections import Connections, Evictable
from k8strace.net.messages import Response

READ_SIZE = 16 * 1024  # bytes; one buffer serves all connections, one after the other
LOOKAHEAD = 1024  # bytes that are read while a request waits
STEP = 64 * 1024  # bytes that a body of unknown length has at first, and a step more
MAX_UNSENT = 4 * 1024 * 1024  # bytes of responses that clients do not take
CANCEL_TIMEOUT = 1.0  # seconds for handlers that clean up


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, where 0 is for ever, and bytes.

    A body has `slow_after` seconds, and a second more for each `slow_rate` bytes of it
    that have come. `write_timeout` is for a response that the client does not take.
    `connection` is what one costs, with a request that waits and its head.
    """

    max_head: int = 64 * 1024
    read_header_timeout: float = 20.0
    read_timeout: float = 0.0
    write_timeout: float = 60.0
    idle_timeout: float = 0.0
    connection: int = 8 * 1024
    slow_after: float = SLOW_AFTER
    slow_rate: int = SLOW_RATE
    keeps_alive: bool = True


class Client:
    """Who is at the other end of a connection; `extra` is the site's."""

    __slots__ = ("extra", "host", "peer", "transport")

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.peer = peer_of_socket(transport.get_extra_info("peername"))
        self.host = host_of(self.peer)
        self.extra: Any = None


class Site(Protocol):
    """What a server of HTTP serves."""

    @property
    def max_body(self) -> int:
        """Bytes of a body as it comes."""

    def on_reject(self, reason: str, peer: str, text: str, /) -> None:
        """Told of each request that the connection refuses, as `k8strace.grpc.Reject`."""

    def take(self, size: int) -> bool:
        """Take room for `size` bytes that connections hold besides bodies, or do not."""

    def give(self, size: int) -> None:
        """Give what was taken back."""

    def grow(self, request: Request, size: int) -> bool:
        """Room for `size` more bytes of a chunked body, or not."""

    def refusal(self, size: int, client: Client) -> Exception:
        """The error that says that there is no room."""

    async def admit(self, request: Request, client: Client) -> None:
        """Let a request's body in: with `request.lease` for it (for `STEP` bytes where it
        is chunked); without one it is thrown away. Raises what `failure` knows."""

    async def answer(self, request: Request, client: Client) -> Response:
        """Answer a request whose body is here. Raises what `failure` knows."""

    def failure(self, error: BaseException, request: Request | None) -> Response:
        """The response that says what `error` is; of a head that could not be read
        `request` has what was read before, or is None."""


class Connected(Evictable, Protocol):
    """A connection, as its server looks after it."""

    def drain(self) -> None: ...

    def abort(self) -> None: ...

    def look_after(self, now: float) -> None: ...


class Shared(Connections[Connected]):
    """What the connections of a server have in common."""

    def __init__(
        self,
        site: Site,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        upkeep: Upkeep | None = None,
    ) -> None:
        super().__init__(site.take, upkeep, loop.time)
        self.site = site
        self.limits = limits
        self.view = memoryview(bytearray(READ_SIZE))
        self.lookahead = self.view[:LOOKAHEAD]
        self.tasks: set[asyncio.Task[Any]] = set()
        self.is_draining = False
        self.changed = asyncio.Event()
        self._unsent: dict[Connected, int] = {}
        self._unsent_size = 0

    def forget(self, connection: Connected) -> None:
        """A connection has ended."""
        self.remove(connection)
        self.let_go(connection)
        self.changed.set()

    def hold(self, connection: Connected, size: int) -> None:
        """A client does not take `size` bytes; who has done so for longest is cut off
        where all together are too many."""
        self._unsent[connection] = size
        self._unsent_size += size
        while len(self._unsent) > 1 and self._unsent_size > MAX_UNSENT:
            first = next(iter(self._unsent))
            self.let_go(first)
            first.abort()

    def let_go(self, connection: Connected) -> None:
        """What a client did not take has gone."""
        self._unsent_size -= self._unsent.pop(connection, 0)

    def look_after(self, now: float) -> None:
        for connection in tuple(self.connections):
            connection.look_after(now)

    async def drain(self, grace: float) -> None:
        """Let connections end as soon as nothing runs on them; after `grace` s, cut off."""
        self.is_draining = True
        for connection in tuple(self.connections):
            connection.drain()
        try:
            async with asyncio.timeout(max(grace, 0.0)):
                while self.connections:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass
        for connection in tuple(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # transports that were aborted say so in the next step
        if self.tasks:
            await asyncio.wait(tuple(self.tasks), timeout=CANCEL_TIMEOUT)
