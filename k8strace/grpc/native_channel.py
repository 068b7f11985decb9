"""What the native client connects to, and its connections: sessions on transports."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import cast

from k8strace._http2 import ProtocolError
from k8strace._http2_client import Call, ClientSession
from k8strace.addresses import join_address, listen_address
from k8strace.grpc import ClientKeepalive, ClientSettings, ClientTLS, Metadata
from k8strace.grpc.endpoints import show_unix, speaks_http2, unix_path

MAX_ANSWER = 4 * 1024 * 1024  # bytes; no OTLP answer is larger
READ_SIZE = 64 * 1024
WRITE_BUFFER = 4 * 1024 * 1024  # bytes; references, and written as one turn allows
CONNECT_TIMEOUT = 20.0  # seconds, with TLS and the server's SETTINGS
PING_TIMEOUT = 20.0

Address = tuple[str, int]
"""Host and port; of a Unix socket path and 0."""


class Target:
    """A gRPC name, and how to connect to what it resolves to."""

    def __init__(self, settings: ClientSettings) -> None:
        name = settings.target
        self._settings = settings
        self._ssl: ssl.SSLContext | None = None
        self._path = ""
        self._fixed: list[Address] = []
        scheme, _, rest = name.partition(":")
        place = name
        if scheme in ("unix", "unix-abstract"):
            self._path = unix_path(name)
            self._fixed = [(self._path, 0)]
            place = "localhost"
        elif scheme in ("ipv4", "ipv6"):
            self._fixed = [listen_address(one) for one in rest.split(",")]
            place = rest.partition(",")[0]
        elif scheme == "dns" and not rest.isdigit():
            place = rest.rpartition("/")[2]
        if not self._fixed:
            self._host, self._port = listen_address(place)
        override = settings.tls.server_name_override if settings.tls else ""
        self.authority = (settings.authority or override or place).encode()
        self._server_name = override or place.rpartition(":")[0].strip("[]") or place
        self._buffer = bytearray(READ_SIZE)

    @property
    def is_name(self) -> bool:
        """What it resolves to may change."""
        return not self._fixed

    def load(self) -> None:
        """Read certificates. Raises ssl.SSLError for what is none."""
        if self._settings.tls is not None:
            self._ssl = _context(self._settings.tls)

    async def resolve(self) -> list[Address]:
        """The addresses in the resolver's order. Raises OSError."""
        if self._fixed:
            return self._fixed
        found = await asyncio.get_running_loop().getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM
        )
        return list(dict.fromkeys((str(one[4][0]), int(one[4][1])) for one in found))

    async def connect(self, address: Address, on_change: Changed) -> Channel:
        """A connection on which the server has said its settings. Raises OSError."""
        loop = asyncio.get_running_loop()
        settings = self._settings

        def make() -> Channel:
            session = ClientSession(
                self.authority,
                loop.time(),
                scheme=b"http" if self._ssl is None else b"https",
                user_agent=settings.user_agent.encode(),
                max_answer=MAX_ANSWER,
            )
            return Channel(loop, session, self._buffer, settings.keepalive, on_change)

        host, port = address
        async with asyncio.timeout(CONNECT_TIMEOUT):
            name = None if self._ssl is None else self._server_name
            if self._path:
                _, channel = await loop.create_unix_connection(
                    make, self._path, ssl=self._ssl, server_hostname=name
                )
            else:
                _, channel = await loop.create_connection(
                    make, host, port, ssl=self._ssl, server_hostname=name
                )
            try:
                await channel.up
            except BaseException:
                channel.close("not connected")
                raise
        return channel


def show(address: Address) -> str:
    host, port = address
    return join_address(host, port) if port else show_unix(host)


def _context(tls: ClientTLS) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=tls.ca.decode() if tls.ca else None)
    context.set_alpn_protocols(["h2"])
    if tls.cert and tls.key:
        # OpenSSL reads a chain from files only: this one is in memory.
        file = os.memfd_create("certificate")
        try:
            os.write(file, tls.cert + b"\n" + tls.key)
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
    return context


class Channel(asyncio.BufferedProtocol):
    """A connection to a server.

    `error` says why it is lost, and is None while it isn't; `on_change` is called when it
    takes no more requests, and when it is lost.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: ClientSession,
        buffer: bytearray,
        keepalive: ClientKeepalive,
        on_change: Changed,
    ) -> None:
        self.up: asyncio.Future[None] = loop.create_future()
        self.error: str | None = None
        self.is_going = False
        self._loop = loop
        self._session = session
        self._buffer = buffer
        self._view = memoryview(buffer)  # asyncio's TLS takes slices to write into
        self._keepalive = keepalive
        self._on_change = on_change
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._is_paused = False
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def request(
        self,
        future: asyncio.Future[bool],
        path: bytes,
        chunks: tuple[bytes, ...],
        *,
        encoding: int,
        timeout: bytes | None,
        metadata: Metadata,
    ) -> Call:
        """Send a message; `future` is done when the call is over."""
        call = self._session.request(
            path,
            chunks,
            encoding=encoding,
            timeout=timeout,
            metadata=metadata,
        )
        call.future = future
        self._flush()
        return call

    def cancel(self, call: Call) -> None:
        if self.error is None:
            self._session.cancel(call)
            self._flush()

    def close(self, why: str) -> None:
        """Let go of the connection and of the calls that run on it."""
        if self.error is None:
            self._lose(why)
            self._transport.abort()

    def leave(self) -> None:
        """Close when the last call is over."""
        if self.error is None and not self.is_going:
            self.is_going = True
            self._session.goaway()
            self._flush()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._heard = self._loop.time()
        if not speaks_http2(transport):
            self.close("the server speaks no HTTP/2: it has not selected h2 by ALPN")
            return
        if self._keepalive.time:
            self._timer = self._loop.call_later(self._keepalive.time, self._ping)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("the connection was lost" if exc is None else f"{exc}")

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        if self.error is not None:
            return
        session = self._session
        self._heard = self._loop.time()
        try:
            _end(session.receive(self._buffer, nbytes, self._heard))
        except ProtocolError as error:
            self.close(f"{error}")
            return
        if session.is_up and not self.up.done():
            self.up.set_result(None)
        if session.is_going and not self.is_going:
            self.is_going = True
            self._on_change(self)
        self._flush()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()

    def _flush(self) -> None:
        session = self._session
        if self.error is not None:
            return
        try:
            while not self._is_paused and (buffers := session.output()):
                self._transport.writelines(buffers)
            _end(session.finished())
        except ProtocolError as error:
            self.close(f"{error}")
            return
        if session.is_over:
            self.close("the server let the connection go")

    def _lose(self, why: str) -> None:
        if self.error is not None:
            return
        self.error = why
        if self._timer is not None:
            self._timer.cancel()
        _end(self._session.close())
        if not self.up.done():
            self.up.set_exception(ConnectionError(why))
            self.up.exception()  # whoever waited may be gone
        self.is_going = True
        self._on_change(self)

    def _ping(self) -> None:
        """Keepalive: ask who was not heard of for a while, and give up on the silent."""
        keepalive = self._keepalive
        wait = cast("float", keepalive.time)
        silent = self._loop.time() - self._heard
        is_wanted = keepalive.permit_without_stream or self._session.running > 0
        if silent < wait:
            wait -= silent
        elif is_wanted:
            self._session.ping()
            self._flush()
            wait = keepalive.timeout or PING_TIMEOUT
            self._timer = self._loop.call_later(wait, self._give_up, self._loop.time())
            return
        self._timer = self._loop.call_later(wait, self._ping)

    def _give_up(self, pinged_at: float) -> None:
        if self._heard < pinged_at:
            self.close("the server does not answer pings")
        else:
            self._ping()


Changed = Callable[[Channel], None]


def _end(calls: list[Call]) -> None:
    for call in calls:
        future: asyncio.Future[bool] | None = call.future
        if future is not None and not future.done():
            future.set_result(True)
