"""Clients' sessions of gRPC over HTTP/2: unary requests in, bytes out, and back."""

from typing import Any, final

from k8strace._http2 import Session

@final
class Call:
    """A request and, when it is over, what came of it.

    `status`, `text`, `details` and `retry_after` are grpc-status, grpc-message,
    grpc-status-details-bin and retry-after as they stood in the headers. `content_type` is
    that of an answer which is not gRPC, and whose body is ignored. `answer` is the message
    if it came whole, in `encoding` (as `_codec` numbers them). `problem` says what is wrong
    with the answer, `error` is HTTP/2's code with which the stream was closed. `is_refused`
    says that the server did not process it, `is_unsent` that nothing of its message was
    sent.
    """

    stream: int
    http_status: int
    status: bytes | None
    text: bytes | None
    details: bytes | None
    content_type: bytes | None
    retry_after: bytes | None
    answer: bytes | None
    problem: str | None
    error: int
    is_refused: bool
    is_unsent: bool
    deadline: float
    encoding: int
    future: Any
    """The driver's, as it likes."""

@final
class ClientSession(Session):
    """One connection to a server. Methods raise ProtocolError; then only `close` is of use.

    `is_going` says that no more requests are taken: the server has said so, or there are
    no more streams. `goaway_code` is HTTP/2's code in the server's last GOAWAY, -1 where
    there was none, and `goaway_text` the first bytes of its debug data. Requests beyond the
    server's limit of streams wait inside.
    """

    is_going: bool
    goaway_code: int
    goaway_text: bytes

    def __init__(
        self,
        authority: bytes,
        now: float,
        *,
        scheme: bytes = b"http",
        user_agent: bytes = b"",
        max_answer: int,
        first_stream: int = 1,
    ) -> None: ...
    @property
    def running(self) -> int: ...
    def request(
        self,
        path: bytes,
        chunks: tuple[bytes, ...],
        *,
        encoding: int = 0,
        timeout: bytes | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
        deadline: float = ...,
    ) -> Call:
        """Send one message, whose bytes are `chunks`; they aren't joined.

        `encoding` is that of `chunks`, as `_codec` numbers them. `timeout` is a
        grpc-timeout, `deadline` what `late` looks at. Raises ValueError for a message over
        2 GiB.
        """

    def cancel(self, call: Call) -> None:
        """Nobody wants its answer. It is not told of any more."""

    def late(self, now: float) -> list[Call]:
        """The calls whose deadline is over."""

    @property
    def next_deadline(self) -> float:
        """Of the calls that run; infinite where there is none."""

    def receive(self, data: bytes | bytearray, size: int, now: float) -> list[Call]:
        """The calls that are over with the first `size` bytes of `data`, from `now`."""

    def output(self) -> list[bytes | memoryview]:
        """What is to be sent next; empty when there is nothing.

        Calls may be over with it: see `finished`.
        """

    def send(self, fd: int) -> list[bytes | memoryview] | None:
        """Write what is to be sent next to the socket `fd`, as much as that takes now.

        Returns what it did not take, which has to be written before anything else, and
        None when there was nothing to be sent. What is wrong with the socket is not told:
        who writes the rest will notice.
        """

    def finished(self) -> list[Call]:
        """The calls that are over since one was last told of."""

    def close(self) -> list[Call]:
        """The connection is gone, and with it all calls."""
