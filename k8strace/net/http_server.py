"""Servers of HTTP: the sockets and the time of one, and a small one of pages.

The small one is for what the gateway says of itself: health, metrics, zpages. It answers
while the budget is full, so that what its clients can make it hold is bounded by numbers:
`MAX_CONNECTIONS` with a head of `MAX_HEAD` each, and what they do not take of responses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from itertools import islice
from socket import socket

from k8strace._http1 import Request
from k8strace.addresses import join_address, listening_sockets
from k8strace.background import Ticker
from k8strace.budget import Upkeep
from k8strace.grpc.native_listener import RESERVE, Listener
from k8strace.net.http1 import Connection
from k8strace.net.messages import HTTPError, Response, text_response
from k8strace.net.site import Client, Limits, Shared, Site
from k8strace.tls.contexts import Contexts

MAX_CONNECTIONS = 64  # out of the descriptors that other listeners leave
MAX_HEAD = 16 * 1024  # bytes
LAST_WORDS = 1.0  # seconds for requests that run when it stops
TICK = 0.5  # seconds after which connections are looked after, at the most

Handler = Callable[[Request], Awaitable[Response]]

log = logging.getLogger(__name__)


class Serving:
    """A site on bound sockets, until it is stopped."""

    def __init__(
        self,
        site: Site,
        limits: Limits,
        sockets: Iterable[socket],
        *,
        has_room: Callable[[int], bool],
        tls: Contexts | None = None,
        reserve: int = RESERVE,
        upkeep: Upkeep | None = None,
    ) -> None:
        """`has_room` is asked with the number of connections before one is accepted.

        TLS handshakes take their bytes from `upkeep`. `reserve` are the file descriptors
        that are left to others.
        """
        self._loop = loop = asyncio.get_running_loop()
        self.shared = Shared(site, limits, loop, upkeep)
        make = partial(Connection, self.shared, loop)
        self._has_room = has_room
        self._listeners = [
            Listener(
                *(one, make, tls, self._accepts, site.on_reject, reserve),
                upkeep=upkeep,
            )
            for one in sockets
        ]
        waits = (
            *(limits.read_header_timeout, limits.read_timeout, limits.write_timeout),
            *(limits.idle_timeout, limits.slow_after),
        )
        tick = min([TICK, *(max(wait / 4, 0.01) for wait in waits if wait)])
        self._ticker = Ticker(tick, self._look_after, "looking after connections", log)

    def start(self) -> None:
        """Raises OSError."""
        for listener in self._listeners:
            listener.start()
        self._ticker.start()

    async def stop(self, grace: float) -> None:
        """Stop listening, let running requests end for `grace` seconds, cancel the rest."""
        for listener in self._listeners:
            await listener.stop()
        await self.shared.drain(grace)
        self._ticker.stop()

    def _accepts(self) -> bool:
        connecting = sum(listener.connecting for listener in self._listeners)
        return self._has_room(len(self.shared.connections) + connecting)

    def _look_after(self) -> None:
        self.shared.look_after(self._loop.time())


class HTTPServer:
    """Answers GET on given paths; one that ends in / stands for all that is below it."""

    max_body = 0

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._serving: Serving | None = None
        self.address = ""

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError that names the address."""
        sockets = await listening_sockets(host, port)
        bound_host, bound_port = sockets[0].getsockname()[:2]
        limits = Limits(max_head=MAX_HEAD)
        self._serving = Serving(self, limits, sockets, has_room=self._make_room, reserve=0)
        self._serving.start()
        self.address = join_address(bound_host, bound_port)

    async def stop(self) -> None:
        """Stop listening; does nothing when it isn't."""
        serving, self._serving = self._serving, None
        if serving is not None:
            await serving.stop(LAST_WORDS)

    def _make_room(self, connections: int) -> bool:
        """Probes must get in whatever hangs on to its connection: the oldest ones go.

        They count no more from then on: many are accepted before one is seen to end.
        """
        if self._serving is None:
            return False
        there = self._serving.shared.connections
        for oldest in tuple(islice(there, max(connections - MAX_CONNECTIONS + 1, 0))):
            oldest.evict()
            connections -= 1
        return connections < MAX_CONNECTIONS

    # As a site

    def on_reject(self, reason: str, peer: str, text: str) -> None:
        log.debug("%s: %s (%s)", peer, text, reason)

    def take(self, size: int) -> bool:  # noqa: ARG002
        return True  # it is bounded by numbers

    def give(self, size: int) -> None:
        """What connections hold."""

    def grow(self, request: Request, size: int) -> bool:  # noqa: ARG002
        return False

    def refusal(self, size: int, client: Client) -> Exception:
        raise AssertionError((size, client.peer))

    async def admit(self, request: Request, client: Client) -> None:
        """What comes with a GET is thrown away."""

    async def answer(self, request: Request, client: Client) -> Response:  # noqa: ARG002
        handler = self._handler(request.path)
        if handler is None:
            return text_response(404, "404: Not Found")
        if request.method not in (b"GET", b"HEAD"):
            headers = (("Allow", "GET, HEAD"),)
            return text_response(405, "405: Method Not Allowed", headers)
        return await handler(request)

    def failure(self, error: BaseException, request: Request | None) -> Response:  # noqa: ARG002
        if isinstance(error, HTTPError):
            return text_response(error.status, f"{error.status.value}: {error}")
        log.error("the handler of a request failed", exc_info=error)
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return text_response(status, f"{status.value}: {status.phrase}")

    def _handler(self, path: str) -> Handler | None:
        for known, handler in self._handlers.items():
            if path == known or (known.endswith("/") and path.startswith(known)):
                return handler
        return None
