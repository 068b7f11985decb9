"""Accepts connections, as long as there is room for them: for gRPC, and OTLP over HTTP.

Event loops do it, too; but where file descriptors run out uvloop's stops listening, and
says nothing. Here who comes then is closed at once, for a client to look elsewhere, and
listening goes on.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

from k8strace.background import spawn
from k8strace.budget import Upkeep
from k8strace.grpc import Reject
from k8strace.grpc.endpoints import peer_of_socket
from k8strace.net.handshakes import Handshakes
from k8strace.tls.contexts import Contexts
from k8strace.tls.incoming import READ_SIZE, Incoming
from k8strace.tls.peers import why_no_client

log = logging.getLogger(__name__)

BACKLOG = 1024
BATCH = 64  # connections that are accepted before others have their turn
RESERVE = 128  # file descriptors that are left to the rest of the process, or a quarter
PAUSE = 1.0  # seconds until accepting is tried again where even that was of no use
LOG_EVERY = 60.0

Make = Callable[[], asyncio.BaseProtocol]


class Opening(asyncio.BaseProtocol):
    """The protocol of a connection until it is made."""

    def __init__(self, opened: Callable[[asyncio.BaseTransport], None]) -> None:
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._opened(transport)


class Listener:
    """Listens on a bound socket, which it owns; each connection gets what `make` makes.

    `has_room` is asked for each; `connecting` are those that `make` isn't asked for yet.
    `on_reject` is told of those whose TLS handshake failed. `reserve` are the file
    descriptors that are left to others. A TLS handshake takes its bytes from `upkeep`, and
    may have to make room for others as a connection that brought no request.
    """

    def __init__(
        self,
        sock: socket.socket,
        make: Make,
        tls: Contexts | None,
        has_room: Callable[[], bool],
        on_reject: Reject,
        reserve: int = RESERVE,
        *,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._sock = sock
        self._make = make
        self._tls = tls
        self._has_room = has_room
        self._on_reject = on_reject
        self._reserve = reserve
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._handshakes = Handshakes(upkeep, self._failed)
        self._view = memoryview(bytearray(READ_SIZE if tls is not None else 0))
        self._paused: asyncio.TimerHandle | None = None
        self._refused = 0
        self._logged_at = float("-inf")

    @property
    def connecting(self) -> int:
        return len(self._connecting) + len(self._handshakes)

    def start(self) -> None:
        """Raises OSError."""
        self._sock.setblocking(False)
        self._sock.listen(BACKLOG)
        self._resume()

    async def stop(self) -> None:
        """Accept no more; handshakes that run are broken off."""
        if self._paused is not None:
            self._paused.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
        self._sock.close()
        await asyncio.sleep(0)  # one that is cancelled before it begins closes nothing
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._handshakes.stop()
        await asyncio.sleep(0)  # transports that were aborted say so in the next step

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # The connection stays where it is: without a pause it is told of for ever.
                self._loop.remove_reader(self._sock)
                self._paused = self._loop.call_later(PAUSE, self._resume)
                self._refuse(f"accepting fails: {error.strerror}")
                return
            # The lowest number that is free is taken: so many files are open, at least.
            if sock.fileno() >= most_files(self._reserve):
                sock.close()
                self._refuse("too many files are open (see ulimit -n)")
            elif not self._has_room():
                sock.close()
                self._refuse("there are too many")
            else:
                self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        one: Incoming | None = None
        if self._tls is not None:
            handshakes = self._handshakes
            one = Incoming(
                self._loop, self._tls.current, self._make, handshakes, self._view
            )
            try:
                handshakes.add(one)
            except MemoryError as error:
                sock.close()
                self._refuse(str(error))
                return
        sock.setblocking(False)
        task = spawn(self._connect(sock, one), "taking a connection", log, self._tasks)
        if one is None:
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, sock: socket.socket, one: Incoming | None) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        opening = Opening(partial(self._open, task))
        try:
            await self._loop.connect_accepted_socket(lambda: one or opening, sock)
        except (OSError, asyncio.CancelledError) as error:
            if one is not None:
                self._handshakes.opened(one)
            if not isinstance(error, OSError):
                raise
            log.debug("a connection could not be made: %s", error)

    def _open(self, task: asyncio.Task[None], transport: asyncio.BaseTransport) -> None:
        # The task ends later: until then a connection would count here and in its server.
        self._connecting.discard(task)
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _failed(self, one: Incoming, error: Exception) -> None:
        name = one.get_extra_info("peername")
        peer = "unknown" if name is None else peer_of_socket(name)
        if isinstance(error, MemoryError):
            self._on_reject("memory", peer, str(error))
        elif (why := why_no_client(error)) is not None:
            self._on_reject("tls", peer, why)

    def _refuse(self, why: str) -> None:
        """Say how many were refused, and why the last one was; not too often."""
        self._refused += 1
        now = self._loop.time()
        if now - self._logged_at >= LOG_EVERY:
            self._logged_at = now
            log.warning("refused %d connections: %s", self._refused, why)
            self._refused = 0


def most_files(reserve: int = RESERVE) -> float:
    """How many files may be open when a connection is accepted."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    return limit - min(reserve, limit // 4)
