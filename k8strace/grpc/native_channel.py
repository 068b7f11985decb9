"""A connection of the native client: one of nghttp2's sessions on a transport.

- Calls that begin in one turn of the event loop are written together.
- One timer stands for the deadlines of all calls. A call whose deadline is over lets go of
  its message, whether the server takes anything or not.
- What is written and not taken is bounded: by the transport's limit and what the session
  gives out at a time. Who takes nothing for `STALL_TIMEOUT` loses the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import cast

from k8strace._http2 import ProtocolError
from k8strace._http2_client import Call, ClientSession
from k8strace.grpc import ClientKeepalive, Metadata
from k8strace.grpc.endpoints import speaks_http2
from k8strace.lines import printable
from k8strace.tls.peers import NO_TLS, speaks_tls, why_lost

WRITE_BUFFER = 4 * 1024 * 1024  # bytes; references, and written as one turn allows
TURN = 4  # writes to a socket until others have their turn
PING_TIMEOUT = 20.0
MAX_GOAWAY_TEXT = 200  # characters of a GOAWAY's debug data that are shown
NO_ERROR, ENHANCE_YOUR_CALM = 0, 11

ERROR_NAMES = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR"),
    *("SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM"),
    *("CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"),
    *("INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
"""Names of HTTP/2's error codes (RFC 9113, section 7)."""
STALL_TIMEOUT = 20.0  # seconds in which a server has to take something of what it gets


def error_name(code: int) -> str:
    """The name of an HTTP/2 error code."""
    return ERROR_NAMES[code] if code < len(ERROR_NAMES) else f"error {code}"


class Channel(asyncio.BufferedProtocol):
    """A connection to a server.

    `error` says why it is lost, and is None while it isn't; `on_change` is called when it
    takes no more requests, and when it is lost. `since` is the loop's time at which it
    came, `has_answered` says whether it was of any use.
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
        self.has_answered = False
        self.since = loop.time()
        self._loop = loop
        self._session = session
        self._buffer = buffer
        self._view = memoryview(buffer)  # asyncio's TLS takes slices to write into
        self.keepalive = keepalive
        self._on_change = on_change
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._fd = -1  # of the socket, where what is written goes there as it is
        self._is_paused = False
        self._is_flushing = False
        self._heard = 0.0
        self._due = inf
        self._alarm: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._pinging: asyncio.TimerHandle | None = None

    @property
    def is_dismissed(self) -> bool:
        """Whether the server said that it goes, or there are no more streams."""
        return self._session.is_going

    @property
    def complaint(self) -> str | None:
        """Why the server ended the connection for what this side does, if it did so.

        That is the debug data of a GOAWAY with ENHANCE_YOUR_CALM, which may be empty.
        """
        session = self._session
        if session.goaway_code != ENHANCE_YOUR_CALM:
            return None
        return session.goaway_text.decode("utf-8", "replace")

    def request(
        self,
        future: asyncio.Future[bool],
        path: bytes,
        chunks: tuple[bytes, ...],
        *,
        encoding: int,
        timeout: bytes | None,
        metadata: Metadata,
        deadline: float,
    ) -> Call:
        """Send a message.

        `future` gets True when the call is over, and False when its `deadline` (the loop's
        time) is over, and the call cancelled.
        """
        session = self._session
        call = session.request(
            path,
            chunks,
            encoding=encoding,
            timeout=timeout,
            metadata=metadata,
            deadline=deadline,
        )
        call.future = future
        if deadline < self._due:
            self._watch(deadline)
        if session.is_going:
            self._go()
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_all)
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
        if transport.get_extra_info("ssl_object") is None:
            self._fd = transport.get_extra_info("socket").fileno()
        # What is written to the socket itself has to wait for what the transport has.
        self._transport.set_write_buffer_limits(WRITE_BUFFER if self._fd < 0 else 0)
        self._heard = self._loop.time()
        if not speaks_http2(transport):
            self.close("the server speaks no HTTP/2: it has not selected h2 by ALPN")
            return
        if self.keepalive.time:
            self._pinging = self._loop.call_later(self.keepalive.time, self._ping)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        lost = why_lost(exc, self._transport, is_up=self.up.done())
        self._lose(self._with_goaway(lost))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        if self.error is not None:
            return
        session = self._session
        self._heard = self._loop.time()
        try:
            calls = session.receive(self._buffer, nbytes, self._heard)
        except ProtocolError as error:
            is_tls = not session.is_up and speaks_tls(self._buffer)
            self.close(NO_TLS if is_tls else f"{error}")
            return
        if calls:
            self.has_answered = True
            _end(calls)
        if session.is_up and not self.up.done():
            self.up.set_result(None)
        if session.is_going:
            self._go()
        self._flush()

    def pause_writing(self) -> None:
        self._is_paused = True
        self._stalled = self._loop.call_later(
            STALL_TIMEOUT, self.close, f"the server took nothing for {STALL_TIMEOUT:g} s"
        )

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._stalled is not None:
            self._stalled.cancel()
        self._flush()

    def _go(self) -> None:
        if not self.is_going:
            self.is_going = True
            self._on_change(self)

    def _flush_all(self) -> None:
        self._is_flushing = False
        self._flush()

    def _flush(self) -> None:
        session = self._session
        if self.error is not None:
            return
        try:
            if self._fd < 0:
                while not self._is_paused and (buffers := session.output()):
                    self._transport.writelines(buffers)
            else:
                self._write(session, self._transport)
            _end(session.finished())
        except ProtocolError as error:
            self.close(f"{error}")
            return
        if session.is_over:
            is_ours = session.goaway_code < 0 and not self.is_going
            broken = "the server sent what HTTP/2 does not allow"
            text = broken if is_ours else "the server let the connection go"
            self.close(self._with_goaway(text))

    def _with_goaway(self, text: str) -> str:
        """`text`, with what the server said when it ended the connection for a reason."""
        code, said = self._session.goaway_code, self._session.goaway_text
        if code <= NO_ERROR and not said:
            return text
        text += f": GOAWAY with {error_name(code)}"
        shown = printable(said.decode("utf-8", "replace"), MAX_GOAWAY_TEXT)
        return f"{text}: {shown}" if shown else text

    def _write(self, session: ClientSession, transport: asyncio.Transport) -> None:
        """Write to the socket, and leave to the transport only what that doesn't take."""
        for _ in range(TURN):
            if transport.get_write_buffer_size() or transport.is_closing():
                return
            rest = session.send(self._fd)
            if rest is None:
                return
            if rest:
                transport.writelines(rest)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_all)

    def _lose(self, why: str) -> None:
        if self.error is not None:
            return
        self.error = why
        for timer in (self._alarm, self._stalled, self._pinging):
            if timer is not None:
                timer.cancel()
        _end(self._session.close())
        if not self.up.done():
            self.up.set_exception(ConnectionError(why))
            self.up.exception()  # whoever waited may be gone
        self.is_going = True
        self._on_change(self)

    def _watch(self, deadline: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._due = deadline
        self._alarm = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        session = self._session
        # Timers count in milliseconds: one may come a little early.
        now = max(self._loop.time(), self._due)
        self._due, self._alarm = inf, None
        for call in session.late(now):
            session.cancel(call)
            _tell(call, False)
        if (deadline := session.next_deadline) < inf:
            self._watch(deadline)
        self._flush()

    def _ping(self) -> None:
        """Keepalive: ask who was not heard of for a while, and give up on the silent."""
        keepalive = self.keepalive
        wait = cast("float", keepalive.time)
        silent = self._loop.time() - self._heard
        is_wanted = keepalive.permit_without_stream or self._session.running > 0
        if silent < wait:
            wait -= silent
        elif is_wanted:
            # First the timer: where pinging fails, silence is still noticed.
            wait = keepalive.timeout or PING_TIMEOUT
            self._pinging = self._loop.call_later(wait, self._give_up, self._loop.time())
            self._session.ping()
            self._flush()
            return
        self._pinging = self._loop.call_later(wait, self._ping)

    def _give_up(self, pinged_at: float) -> None:
        if self._heard < pinged_at:
            self.close("the server does not answer pings")
        else:
            self._ping()


Changed = Callable[[Channel], None]


def _end(calls: list[Call]) -> None:
    for call in calls:
        _tell(call, True)


def _tell(call: Call, is_over: bool) -> None:
    future: asyncio.Future[bool] | None = call.future
    if future is not None and not future.done():
        future.set_result(is_over)
