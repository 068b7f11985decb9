"""Servers' sessions of gRPC over HTTP/2: bytes in, unary requests out, and back."""

from collections.abc import Callable, Iterable
from typing import Any, final

from typing_extensions import disjoint_base

from k8strace._http2 import Session

STREAM_WINDOW: int
"""Bytes that a stream may send before its message is admitted."""

WHOLE: int
"""The message is here: `take` it, and `respond` or `fail`."""

WAITS: int
"""There is no room for the message; `admitted` or `fail` is waited for."""

REJECTED: int
"""It was answered with an error; `reason` and `text` say which."""

CANCELLED: int
"""The client took it back; `reason` is None where its message was whole."""

@final
class Request:
    """A call. `deadline` is in the time that `receive` is told, `size` the message's.

    `encoding` is the message's, as `_codec` numbers them: 0 where it isn't compressed. A
    whole message that begins as gzip does is that, whatever its flags say.
    `credential` and `caller` are None in sessions that ask nobody for a name.
    """

    stream: int
    path: bytes
    encoding: int
    deadline: float | None
    size: int
    reason: str | None
    text: str | None
    credential: bytes | None
    """What the caller says of itself, until it is judged."""
    caller: Any
    """Who it is, as the judge likes."""
    task: Any
    """The driver's, as it likes."""

    @property
    def kept(self) -> int:
        """The bytes that it was afforded, of metadata above all."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Headers that aren't the protocol's, and are no `-bin` ones."""

    def take(self) -> tuple[bytes | None, Any]:
        """Message and lease, which the request holds no longer; None when it is over."""

@disjoint_base
class ServerSession(Session):
    """One connection of a client.

    `admit` is called with a message's size, and how much of it is to come, when its prefix
    is here, and returns the lease for it, or None: then the body is not read, beyond
    STREAM_WINDOW, until `admitted`. `afford` is asked for the bytes that streams, metadata
    and what comes early cost, and `give` gets them back: without room streams are refused.
    None of them may call the session. `metadata` keeps it. Pings that come faster than
    `ping_interval` (seconds; 0: no limit), or without streams where `permits_pings` is
    false, end the session. Methods raise ProtocolError, or what
    `admit` raised; after that only `close` is of use.
    """

    def __init__(
        self,
        paths: Iterable[bytes],
        admit: Callable[[int, int], Any],
        now: float,
        *,
        max_message: int,
        max_streams: int,
        max_headers: int,
        metadata: bool = False,
        ping_interval: float = 0,
        permits_pings: bool = True,
        afford: Callable[[int], bool] | None = None,
        give: Callable[[int], object] | None = None,
    ) -> None: ...
    @property
    def upkeep(self) -> int:
        """The bytes that it was afforded."""

    @property
    def body_bytes(self) -> int:
        """Bytes of messages that went to their place as they came."""

    def tidy(self) -> None:
        """Give back what was paid for streams that are over."""

    def receive(
        self, data: bytes | bytearray, size: int, now: float
    ) -> list[tuple[int, Request]]:
        """What the first `size` bytes of `data`, which came `now`, led to."""

    def admitted(
        self, request: Request, lease: object, now: float
    ) -> list[tuple[int, Request]]:
        """There is room for a request that waited."""

    def output(self) -> bytes:
        """What is to be sent next; empty when there is nothing."""

    def respond(self, request: Request, message: bytes) -> None:
        """Answer with OK. Of a request that is over, nothing."""

    def fail(self, request: Request, code: int, message: str, details: bytes = b"") -> None:
        """Answer with a status, and take no more of the request.

        `details` go into `grpc-status-details-bin`. Where the request's headers aren't
        complete, the connection is ended. Of a request that is over, nothing.
        """

    def late(self, now: float, begin: float, after: float, rate: float) -> list[Request]:
        """Requests whose bodies are not here and come slower than `rate` bytes a second.

        A body has `begin` seconds to begin. From then on the first `after` seconds, and
        those spent waiting for room, don't count.
        """

    @property
    def requests(self) -> list[Request]:
        """All that are open."""

    def notice(self) -> None:
        """Announce a `goaway`, which follows when the client will know of this one."""

    def close(self) -> list[tuple[int, Request]]:
        """The connection is gone, and with it all requests."""
