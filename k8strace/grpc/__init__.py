"""gRPC as the receivers and exporters see it; an engine is a `Server` and a `Client`.

An engine owns sockets, HTTP/2, limits, admission to the byte budget and decompression. It
knows nothing of OTLP: it maps a path to a handler, which gets the whole message as bytes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal, Protocol

import msgspec

from k8strace import auth
from k8strace.budget import Budget, Lease
from k8strace.errors import RefusedError
from k8strace.passes import Loan
from k8strace.payload import Origin
from k8strace.tls.options import ClientTLS, ServerTLS
from k8strace.units import Duration

# grpcio reads it once, when it is loaded, which is after this. Its core would write a line
# to stderr for every hostile call and lost connection; we count them, and log one a minute.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024 * 1024  # what OTLP 1.11 recommends
CLOCK = 0.002  # seconds by which a loop's clock may be late: uvloop's has milliseconds
MAX_HOLD = 2.0  # seconds for which an answer may be held while there is no room
# Bytes by which a message that does not compress becomes longer, besides a sixth of it:
# the worst case of snappy (MaxCompressedLength), which those of gzip and zstd are below.
WORST_PACKED = 1024
SLOW_AFTER = 20.0  # seconds; from then on a body has to come at SLOW_RATE
SLOW_RATE = 8 * 1024  # bytes a second

Metadata = auth.Metadata


class Call(msgspec.Struct, frozen=True, gc=False):
    """A request that is here whole: admitted, decompressed, within the limits.

    `lease` holds exactly `message` in the budget. `deadline` is the loop's time at which
    the caller gives up, None if it didn't say. `wait_until` is the loop's time up to which
    the answer may be held while there is no room. `origin` has no metadata where the
    server's settings don't ask for it.
    """

    message: bytes
    origin: Origin
    lease: Lease | None
    deadline: float | None = None
    wait_until: float = 0.0


def hold_until(now: float, deadline: float | None) -> float:
    """The loop's time up to which the answer to a call that came `now` may be held.

    A refusal costs the client its spans or a pause of seconds, so it is worth a third of
    the time that is left until its deadline, and `MAX_HOLD` at most.
    """
    if deadline is None:
        return now + MAX_HOLD
    return now + min((deadline - now) / 3, MAX_HOLD)


def is_over(deadline: float, now: float) -> bool:
    """Whether a server that gave a call up can have done so for its deadline.

    Its clock may come to it first, by a little; `deadline` and `now` are the loop's.
    """
    return now >= deadline - CLOCK


Handler = Callable[[Call], Coroutine[Any, Any, bytes]]
"""Answers a call; raises what `status.status_of` knows, or anything for INTERNAL."""

Reject = Callable[[str, str, str], None]
"""Told of each request that ended before its handler was asked: reason, peer, message.

Reasons are those of `REJECT_REASONS`.
"""

REJECT_REASONS = (
    "memory",  # there was no room for the message
    "msg_too_large",
    "decode_error",  # neither what it says it is (gzip, OTLP) nor anything we know
    "slow",
    "incomplete",  # it ended before its message was whole
    "unsupported",  # an encoding or a content type that we don't take
    "unknown_method",
    "tls",  # a connection that was none: its handshake failed, or it was of the wrong kind
    "unauthenticated",
    "auth_unavailable",  # nobody could say who its caller is
)


class ServerKeepalive(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; None leaves the engine's default (gRPC's: no limit, pings every 2 h)."""

    max_connection_idle: Duration | None = None
    max_connection_age: Duration | None = None
    max_connection_age_grace: Duration | None = None
    time: Duration | None = None
    timeout: Duration | None = None
    min_time: Duration | None = None
    permit_without_stream: bool = False


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a server listens. `max_message_size` bounds the decompressed message, bytes.

    With `reuse_port` several servers, each in its process, may share a TCP endpoint.
    `sockets`, where given, are listened on instead of `endpoint`: they are bound already,
    by somebody who keeps the path of a Unix socket. Starting takes them over, and stopping
    closes them. With `tls` a client has to choose h2 by ALPN, and its certificate's subject
    is that of its calls' origin. `authenticator` says whose requests are taken, before
    anything of a message is read; what its header has is not in the metadata, and who it
    names is the subject instead of the certificate's. A message has `slow_after` seconds,
    and a second more for each `slow_rate` bytes of it that have come; a rate of 0 is no
    limit.
    """

    endpoint: str
    transport: Literal["tcp", "unix"] = "tcp"
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    max_concurrent_streams: int | None = None
    keepalive: ServerKeepalive = ServerKeepalive()
    include_metadata: bool = False
    reuse_port: bool = False
    slow_after: float = SLOW_AFTER
    slow_rate: int = SLOW_RATE
    sockets: tuple[socket.socket, ...] = ()
    tls: ServerTLS | None = None
    authenticator: auth.ServerAuthenticator | None = None


class Admission(Protocol):
    """Who lets a message in before it is read: a `k8strace.budget.Budget`, or who is asked
    in front of it."""

    @property
    def budget(self) -> Budget:
        """The process's."""

    @property
    def limit(self) -> int:
        """The most bytes that there can be room for."""

    def fits(self, amount: int) -> bool: ...

    async def wait(self, amount: int, until: float) -> bool:
        """Wait until `amount` fits, at most until the loop's time `until`."""

    def lease(self, amount: int, peer: str) -> Lease | None:
        """Reserve `amount` bytes for `peer`, or None where there is no room now."""

    async def admit(self, amount: int, peer: str, until: float) -> Lease | None:
        """A lease as soon as there is room, None when there is none by `until`."""

    def refusal(self, amount: int, peer: str) -> RefusedError:
        """What to answer `peer`, for whose `amount` there is no room."""

    def pace(self) -> float:
        """Seconds to let pass after a request before its sender is read on from."""


class Server(Protocol):
    """A listening gRPC server of unary methods."""

    async def start(self) -> str:
        """Listen; returns the address as bound.

        Raises OSError, with the endpoint, and OptionError for what is wrong with `tls`.
        """

    async def stop(self, grace: float) -> None:
        """Stop listening, let running calls end for `grace` seconds, cancel the rest."""


class ServerFactory(Protocol):
    """How an engine makes a server: handlers by full method path (`/package.Svc/Name`)."""

    def __call__(
        self,
        settings: ServerSettings,
        handlers: Mapping[str, Handler],
        admission: Admission,
        on_reject: Reject,
    ) -> Server: ...


class ClientKeepalive(msgspec.Struct, frozen=True, kw_only=True):
    time: Duration | None = None
    timeout: Duration | None = None
    permit_without_stream: bool = False


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a client connects. `target` is a gRPC name: host:port, dns:///…, unix:…

    Calls take turns on `connections` to each address (with pick_first: in all).
    """

    target: str
    tls: ClientTLS | None = None
    compression: Literal["gzip", "zstd", "snappy", "none"] = "gzip"
    wait_for_ready: bool = False
    balancer_name: str = "round_robin"
    authority: str = ""
    user_agent: str = ""
    connections: int = 1
    keepalive: ClientKeepalive = ClientKeepalive()


class Packed:
    """What a message becomes by compression: made once, kept for all attempts to send it.

    Its bytes are in the budget before they are made, as long as they are kept: `lend` has
    that many of them lent.
    """

    __slots__ = ("_lend", "_loan", "content")

    def __init__(self, lend: Callable[[int], Awaitable[Loan]] | None = None) -> None:
        self.content: bytes | None = None
        self._lend = lend
        self._loan: Loan | None = None

    async def reserve(self, size: int) -> None:
        """Have room for what `size` bytes become at the worst."""
        if self._lend is not None and self._loan is None:
            self._loan = await self._lend(size + size // 6 + WORST_PACKED)

    def keep(self, content: bytes) -> None:
        self.content = content
        if self._loan is not None and self._loan.lease is not None:
            self._loan.lease.shrink_to(len(content))

    def end(self) -> None:
        """Let go of it: nobody sends it again."""
        self.content = None
        loan, self._loan = self._loan, None
        if loan is not None:
            loan.end()


class Client(Protocol):
    """A channel to one target; connects when first used, reconnects by itself."""

    async def start(self) -> None:
        """Raises OptionError for what is wrong with `tls`."""

    async def stop(self) -> None: ...

    async def call(
        self,
        path: str,
        message: tuple[bytes, ...],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        packed: Packed | None = None,
    ) -> bytes:
        """Send `message` (buffers that are one message) and return the answer.

        `packed`, where the client compresses, gets what it made of the message, and has it
        for the next attempt.

        Raises `status.StatusError`; after `timeout` seconds with DEADLINE_EXCEEDED.
        """
