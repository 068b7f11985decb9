"""What the native client connects to: a gRPC name, its addresses, TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from ipaddress import ip_address

import msgspec

from k8strace._http2_client import ClientSession
from k8strace.addresses import join_address, listen_address, resolved
from k8strace.grpc import ClientSettings
from k8strace.grpc.endpoints import show_unix, unix_path
from k8strace.grpc.native_channel import Changed, Channel
from k8strace.lines import Lines, printable
from k8strace.tls.contexts import Contexts
from k8strace.tls.peers import why_no_server
from k8strace.units import Duration

log = logging.getLogger(__name__)

MAX_ANSWER = 4 * 1024 * 1024  # bytes; no OTLP answer is larger
READ_SIZE = 64 * 1024
TOO_MANY_PINGS = "too_many_pings"  # a server's debug data, by gRFC A8
MAX_COMPLAINT = 200  # characters of it in the log
CONNECT_TIMEOUT = 20.0  # seconds, with TLS and the server's SETTINGS

Address = tuple[str, int]
"""Host and port; of a Unix socket path and 0."""


class Target:
    """A gRPC name, and how to connect to what it resolves to.

    `is_name` says that what it resolves to may change.
    """

    def __init__(self, settings: ClientSettings) -> None:
        name = settings.target
        self._settings = settings
        tls = settings.tls
        self._tls = None if tls is None else Contexts(tls, ("h2",))
        self._path = ""
        self._fixed: list[Address] = []
        self.is_name = False
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
            self.is_name = not _is_literal(self._host)
        override = "" if tls is None else tls.server_name_override
        self.authority = (settings.authority or override or place).encode()
        self._server_name = override or place.rpartition(":")[0].strip("[]") or place
        self._buffer = bytearray(READ_SIZE)
        self._keepalive = settings.keepalive
        self._lines = Lines(logging.LoggerAdapter(log, {}))

    async def load(self) -> None:
        """Read certificates. Raises OptionError for what is none."""
        if self._tls is not None:
            await self._tls.load()

    async def resolve(self) -> list[Address]:
        """The addresses in the resolver's order. Raises OSError."""
        if self._fixed:
            return self._fixed
        found = await resolved(self._host, self._port)
        return list(dict.fromkeys((str(one[4][0]), int(one[4][1])) for one in found))

    def heed(self, channel: Channel, address: Address | None) -> None:
        """Log a GOAWAY with ENHANCE_YOUR_CALM, and ping half as often if it is about pings.

        From then on that holds for all new connections (gRFC A8).
        """
        complaint = channel.complaint or ""
        where = self._settings.target if address is None else show(address)
        interval = channel.keepalive.time
        if complaint != TOO_MANY_PINGS or not interval:
            self._lines.write(
                "calm",
                logging.WARNING,
                "%s closed a connection with ENHANCE_YOUR_CALM: %s",
                *(where, printable(complaint, MAX_COMPLAINT) or "it did not say why"),
            )
            return
        slower = Duration(2 * interval)
        if slower > (self._keepalive.time or 0):
            self._keepalive = msgspec.structs.replace(self._keepalive, time=slower)
        self._lines.write(
            "pings",
            logging.WARNING,
            "%s closed a connection because of too many keepalive pings: from now on they "
            "are %s apart. Set keepalive::time to what the server permits (5m is the "
            "default of gRPC servers)",
            *(where, self._keepalive.time),
        )

    async def connect(
        self, address: Address, on_change: Changed, timeout: float = CONNECT_TIMEOUT
    ) -> Channel:
        """A connection on which the server has said its settings. Raises OSError."""
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(address, on_change)
        except TimeoutError:
            raise ConnectionError(f"not connected within {timeout:g} s") from None
        except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
            if self._tls is None:
                raise
            raise ConnectionError(why_no_server(error, self._server_name)) from None

    async def _connect(self, address: Address, on_change: Changed) -> Channel:
        loop = asyncio.get_running_loop()
        settings = self._settings
        tls = None if self._tls is None else self._tls.current()

        def make() -> Channel:
            session = ClientSession(
                self.authority,
                loop.time(),
                scheme=b"http" if tls is None else b"https",
                user_agent=settings.user_agent.encode(),
                max_answer=MAX_ANSWER,
            )
            return Channel(loop, session, self._buffer, self._keepalive, on_change)

        host, port = address
        name = None if tls is None else self._server_name
        if self._path.startswith("\0"):
            # uvloop takes no abstract name. Connecting a Unix socket waits for nothing.
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.setblocking(False)
                sock.connect(self._path)
            except OSError:
                sock.close()
                raise
            _, channel = await loop.create_unix_connection(
                make, sock=sock, ssl=tls, server_hostname=name
            )
        elif self._path:
            _, channel = await loop.create_unix_connection(
                make, self._path, ssl=tls, server_hostname=name
            )
        else:
            _, channel = await loop.create_connection(
                make, host, port, ssl=tls, server_hostname=name
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


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
