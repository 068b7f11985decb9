"""The server of the native engine: it listens, and looks after its connections."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from k8strace.addresses import listen_address
from k8strace.auth import Gate
from k8strace.background import Ticker
from k8strace.grpc import Admission, Call, Handler, Reject, ServerSettings
from k8strace.grpc.endpoints import (
    bound_address,
    cannot_listen,
    claim_unix,
    listen_tcp,
    listen_unix,
    unix_path,
)
from k8strace.grpc.native_connection import Connection, Shared
from k8strace.grpc.native_guard import GuardedConnection
from k8strace.grpc.native_listener import Listener
from k8strace.grpc.status import Code, StatusError
from k8strace.tls.contexts import Contexts

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 8192
TICK = 0.5  # seconds after which connections are looked after, at the most
CANCEL_TIMEOUT = 1.0  # seconds for handlers that clean up
HEALTH = "/grpc.health.v1.Health/Check"


class Server:
    """A gRPC server; `grpc.Server` says what its methods promise."""

    def __init__(
        self,
        settings: ServerSettings,
        handlers: Mapping[str, Handler],
        admission: Admission,
        on_reject: Reject,
    ) -> None:
        methods: dict[bytes, Handler] = {HEALTH.encode(): self._check_health}
        methods |= {path.encode(): handler for path, handler in handlers.items()}
        self.shared = Shared(settings, methods, admission, on_reject)
        self._services = {path.split("/")[1] for path in handlers} | {""}
        tls = settings.tls
        self._tls = None if tls is None else Contexts(tls, ("h2",))
        self._listeners: list[Listener] = []
        self._ticker: Ticker | None = None

    async def start(self) -> str:
        loop = asyncio.get_running_loop()
        if self._tls is not None:
            await self._tls.load()
        socks = list(self.shared.settings.sockets) or await self._bind()
        address = bound_address(self.shared.settings.endpoint, socks[0])
        make: Callable[[], Connection] = partial(Connection, self.shared, loop)
        if self.shared.settings.authenticator is not None:
            gate = Gate(self.shared.settings.authenticator, self.shared.admission)
            make = partial(GuardedConnection, self.shared, loop, gate, {HEALTH.encode()})
        reject = self.shared.on_reject
        for sock in socks:
            self._listeners.append(
                Listener(
                    *(sock, make, self._tls, self._has_room, reject),
                    upkeep=self.shared.upkeep,
                )
            )
        try:
            for listener in self._listeners:
                listener.start()
        except OSError as error:
            await self.stop(0)
            raise cannot_listen(address, error.errno) from error
        keepalive = self.shared.settings.keepalive
        waits = (
            keepalive.max_connection_idle,
            keepalive.max_connection_age,
            keepalive.max_connection_age_grace,
            keepalive.time,
            keepalive.timeout,
        )
        tick = min([TICK, *(max(wait / 4, 0.01) for wait in waits if wait)])
        self._ticker = Ticker(
            tick, partial(self._tick, loop), "looking after connections", log
        )
        self._ticker.start()
        return address

    async def _bind(self) -> list[socket.socket]:
        settings = self.shared.settings
        if settings.transport == "tcp":
            host, port = listen_address(settings.endpoint)
            return await listen_tcp(host, port, reuse_port=settings.reuse_port)
        path = unix_path(settings.endpoint)
        claim_unix(path)
        return [listen_unix(path)]

    async def stop(self, grace: float) -> None:
        listeners, self._listeners = self._listeners, []
        if not listeners:
            return
        self.shared.is_draining = True
        for listener in listeners:
            await listener.stop()
        for connection in tuple(self.shared.connections):
            connection.drain(grace)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(grace, 0.0)):
                while self.shared.connections:
                    self.shared.changed.clear()
                    await self.shared.changed.wait()
        if self._ticker is not None:
            self._ticker.stop()
        for connection in tuple(self.shared.connections):
            connection.end()
        if self.shared.tasks:
            await asyncio.wait(tuple(self.shared.tasks), timeout=CANCEL_TIMEOUT)
        for connection in tuple(self.shared.connections):
            connection.abort()

    def _has_room(self) -> bool:
        connecting = sum(listener.connecting for listener in self._listeners)
        has_room = len(self.shared.connections) + connecting < MAX_CONNECTIONS
        return has_room or self.shared.evict()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in tuple(self.shared.connections):
            connection.look_after(now)

    async def _check_health(self, call: Call) -> bytes:
        """grpc.health.v1, for the server and each service; a string is its field 1."""
        message = call.message
        service = message[2:].decode("utf-8", "replace") if message[:1] == b"\x0a" else ""
        if service not in self._services:
            raise StatusError(Code.NOT_FOUND, f"unknown service {service[:200]!r}")
        return b"\x08\x02" if self.shared.is_draining else b"\x08\x01"
