"""A connection of OTLP over HTTP, which ends when the head of a request doesn't come."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import StreamReader, web

from k8strace.grpc import Reject
from k8strace.grpc.endpoints import peer_of_socket


class Connection(web.RequestHandler):
    """One of `server`, with its `options`.

    A request's head has to be here `timeout` seconds after the connection has begun, or
    after the head's first byte; 0 is for ever. `begin` is to be called with each request,
    `end` once it is answered. A connection with a part of a head is told of to `on_reject`.
    """

    __slots__ = ("_body", "_check", "_on_reject", "_since", "_some", "_timeout")

    def __init__(
        self,
        server: web.Server,
        timeout: float,
        on_reject: Reject,
        options: dict[str, Any],
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._timeout = timeout
        self._on_reject = on_reject
        self._since: float | None = None  # that a head is waited for
        self._some = False  # of that head is here
        self._check: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None  # of the request before, once answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._since is not None:
            self._some = True
        elif self._body is not None and self._body.is_eof():
            self._some = True
            self._wait()
        super().data_received(data)

    def begin(self) -> None:
        """The head of a request is here."""
        self._since = None
        self._some = False
        self._body = None

    def end(self, request: web.BaseRequest) -> None:
        """What comes after the body of `request` is another's head."""
        self._body = request.content

    def _wait(self) -> None:
        if self._timeout:
            self._since = self._loop.time()
            if self._check is None:
                self._check = self._loop.call_later(self._timeout, self._look)

    def _look(self) -> None:
        self._check = None
        if self._since is None:
            return
        left = self._since + self._timeout - self._loop.time()
        if left > 0:
            self._check = self._loop.call_later(left, self._look)
            return
        transport = self.transport
        if self._some and transport is not None:
            peer = peer_of_socket(transport.get_extra_info("peername"))
            text = f"the head of a request was not here after {self._timeout:g} s"
            self._on_reject("slow", peer, text)
        self.force_close()
