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
from k8strace.budget import UNSERVED, Upkeep, Victim
from k8strace.grpc import Reject
from k8strace.grpc.endpoints import peer_of_socket
from k8strace.tls.contexts import Contexts
from k8strace.tls.peers import why_no_client

log = logging.getLogger(__name__)

BACKLOG = 1024
BATCH = 64  # connections that are accepted before others have their turn
RESERVE = 128  # file descriptors that are left to the rest of the process, or a quarter
PAUSE = 1.0  # seconds until accepting is tried again where even that was of no use
LOG_EVERY = 60.0
HANDSHAKE_TIMEOUT = 20.0  # seconds, for TLS
HANDSHAKE_COST = 192 * 1024  # bytes: the loop's and OpenSSL's buffers, as far as they fill
SHUTDOWN_TIMEOUT = 2.0  # seconds in which a client has to say that TLS ends, too

Make = Callable[[], asyncio.BaseProtocol]


class Opening(asyncio.BaseProtocol):
    """The protocol of a connection until it is made, which TLS does after its handshake."""

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
        self._upkeep = upkeep if tls is not None else None
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        # Each with its socket, and since when; the oldest first.
        self._handshakes: dict[asyncio.Task[None], tuple[socket.socket, float]] = {}
        self._paused: asyncio.TimerHandle | None = None
        self._refused = 0
        self._logged_at = float("-inf")

    @property
    def connecting(self) -> int:
        return len(self._connecting)

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
            elif not self._affords_handshake():
                sock.close()
                self._refuse("there is no memory for more TLS handshakes")
            else:
                sock.setblocking(False)
                task = spawn(self._connect(sock), "taking a connection", log, self._tasks)
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
                if self._upkeep is not None:
                    if not self._handshakes:
                        self._upkeep.evictors.append(self._victim)
                    self._handshakes[task] = sock, self._loop.time()
                    task.add_done_callback(self._shaken)

    def _affords_handshake(self) -> bool:
        upkeep = self._upkeep
        if upkeep is None:
            return True
        while not upkeep.take(HANDSHAKE_COST):
            if not upkeep.evict():
                return False
        return True

    def _victim(self, by: object) -> Victim | None:  # noqa: ARG002
        """The oldest handshake."""
        for task, (_, since) in self._handshakes.items():
            return Victim(UNSERVED, since, partial(self._break_off, task))
        return None

    def _break_off(self, task: asyncio.Task[None]) -> None:
        peer = _peer_of(self._handshakes[task][0])
        self._on_reject("memory", peer, "the TLS handshake made room for others")
        task.cancel()
        self._shaken(task)

    def _shaken(self, task: asyncio.Task[None]) -> None:
        """A handshake has ended."""
        upkeep = self._upkeep
        if upkeep is None or self._handshakes.pop(task, None) is None:
            return
        upkeep.give(HANDSHAKE_COST)
        if not self._handshakes:
            upkeep.evictors.remove(self._victim)

    async def _connect(self, sock: socket.socket) -> None:
        tls = self._tls
        peer = "" if tls is None else _peer_of(sock)
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            await self._loop.connect_accepted_socket(
                partial(Opening, partial(self._open, task)),
                sock,
                ssl=None if tls is None else tls.current(),
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT,
                ssl_shutdown_timeout=None if tls is None else SHUTDOWN_TIMEOUT,
            )
        except OSError as error:
            why = None if tls is None else why_no_client(error)
            if why is None:
                log.debug("a connection could not be made: %s", error)
            else:
                self._on_reject("tls", peer, why)

    def _open(self, task: asyncio.Task[None], transport: asyncio.BaseTransport) -> None:
        # The task ends later: until then a connection would count here and in its server,
        # and might be closed to make room for itself.
        self._connecting.discard(task)
        self._shaken(task)
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _refuse(self, why: str) -> None:
        """Say how many were refused, and why the last one was; not too often."""
        self._refused += 1
        now = self._loop.time()
        if now - self._logged_at >= LOG_EVERY:
            self._logged_at = now
            log.warning("refused %d connections: %s", self._refused, why)
            self._refused = 0


def _peer_of(sock: socket.socket) -> str:
    try:
        return peer_of_socket(sock.getpeername())
    except OSError:  # it has gone already
        return "unknown"


def most_files(reserve: int = RESERVE) -> float:
    """How many files may be open when a connection is accepted."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    return limit - min(reserve, limit // 4)
