"""TLS of a connection that comes in, on a plain transport, within bounds.

An event loop's own TLS reads whatever comes, before anybody knows what it is and while
nobody takes it: up to some 660 KB a connection. Here

- a ClientHello is gathered until it is whole, and is at most `MAX_HELLO` bytes; OpenSSL
  holds nothing for a connection before that;
- no more than one record is read at once, and nothing while the protocol above it has
  paused reading;
- what that takes is reserved by who accepts the connection: `OPENING_COST` at first,
  `HANDSHAKE_COST` before it goes on with a whole ClientHello, until the handshake is over.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, cast

READ_SIZE = 16 * 1024  # bytes; one buffer serves all connections, one after the other
SLICE = 4 * 1024  # bytes that OpenSSL gets at once of a handshake: its buffers stay small
MAX_HELLO = 16 * 1024  # bytes; with post-quantum keys and a ticket it has two or three KB
MAX_GATHERED = MAX_HELLO + 4 * 1024  # with the headers of its records
MAX_HANDSHAKE = 256 * 1024  # bytes that a client may send until it is over
HANDSHAKE_TIMEOUT = 20.0  # seconds
SHUTDOWN_TIMEOUT = 2.0  # seconds in which a client has to say that TLS ends, too
# Bytes of a connection: its transport, and half a ClientHello; and from then on at the
# worst a second one or the client's certificates (131,396 bytes, for which OpenSSL takes a
# third more), its records and OpenSSL's state.
OPENING_COST = 40 * 1024
HANDSHAKE_COST = 288 * 1024

NO_ROOM = "there is no memory for more TLS handshakes"
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_RECORD_HEADER = 5

OPENING, WAITING, SHAKING, UP, ENDING, LOST = range(6)


class HelloTooLargeError(ssl.SSLError):
    """A ClientHello that is larger than any client's."""


class Owner(Protocol):
    """Who accepted the connection."""

    def is_ready(self, one: Incoming) -> None:
        """Its ClientHello is whole: let it `shake` when there is room for that."""

    def opened(self, one: Incoming) -> None:
        """The handshake is over: its bytes are given back."""

    def failed(self, one: Incoming, error: Exception) -> None:
        """There will be no connection; its bytes are given back.

        MemoryError says that there was no room for it.
        """


class Incoming(asyncio.BufferedProtocol, asyncio.Transport):
    """The protocol of a plain transport, and the transport of what `make` makes.

    Writing an end says that TLS ends, and then that TCP does: the client can close first.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Callable[[], ssl.SSLContext],
        make: Callable[[], asyncio.BaseProtocol],
        owner: Owner,
        view: memoryview,
    ) -> None:
        """`view` is read into; it is nobody's between two callbacks."""
        asyncio.Transport.__init__(self)
        self._loop = loop
        self._context = context
        self._make = make
        self._owner = owner
        self._view = view
        self._raw = cast("asyncio.Transport", None)
        self._is_made = False
        self._inner = cast("asyncio.BufferedProtocol", None)
        self._phase = OPENING
        self._hello: _Hello | None = _Hello()
        self._tls = cast("ssl.SSLObject", None)
        self._received = cast("ssl.MemoryBIO", None)
        self._to_send = cast("ssl.MemoryBIO", None)
        self._handshake_bytes = 0
        self._reads = True
        self._has_ended = False  # the client sends no more
        self._timer: asyncio.TimerHandle | None = None

    # The protocol of the plain transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._is_made = True
        if self._phase == OPENING:
            self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT, self._expire)
        else:
            transport.close()  # it had to make room already

    def connection_lost(self, exc: Exception | None) -> None:
        phase, self._phase = self._phase, LOST
        self._stop_timer()
        if phase <= SHAKING:
            self._owner.failed(self, exc or ConnectionResetError("it has gone"))
        elif self._inner is not None:
            self._inner.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        data = self._view[:nbytes]
        if self._phase == UP:
            self._received.write(data)
            self._read()
        elif self._phase == SHAKING:
            self._shake(data)
        elif self._phase == OPENING:
            self._gather(data)

    def eof_received(self) -> bool:
        if self._phase <= SHAKING:
            self._fail(ConnectionResetError("it has gone"))
        elif self._phase == UP:
            self._end()
        return self._phase == UP

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    # The handshake

    def _gather(self, data: memoryview) -> None:
        """Wait until the ClientHello is whole, or is none: OpenSSL says what it is then."""
        hello = cast("_Hello", self._hello)
        try:
            if not hello.add(data):
                return
        except HelloTooLargeError as error:
            self._fail(error)
            return
        self._phase = WAITING
        self._raw.pause_reading()
        self._owner.is_ready(self)

    def shake(self) -> None:
        """Begin the handshake with what has come."""
        hello, self._hello = cast("_Hello", self._hello), None
        self._phase = SHAKING
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context().wrap_bio(
            self._received, self._to_send, server_side=True
        )
        self._raw.resume_reading()
        self._shake(memoryview(hello.data))

    def _shake(self, data: memoryview) -> None:
        self._handshake_bytes += len(data)
        if self._handshake_bytes > MAX_HANDSHAKE:
            self._fail(HelloTooLargeError("the handshake is too long"))
            return
        for at in range(0, len(data), SLICE):
            self._received.write(data[at : at + SLICE])
            if self._phase == UP:
                continue  # what comes behind the handshake
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError as error:
                self._flush()
                self._fail(error)
                return
            else:
                self._flush()
                self._phase = UP
        if self._phase == UP:
            self._open()

    def _open(self) -> None:
        self._stop_timer()
        self._owner.opened(self)
        self._inner = inner = cast("asyncio.BufferedProtocol", self._make())
        inner.connection_made(self)
        self._read()

    def _expire(self) -> None:
        self._fail(TimeoutError("the TLS handshake is taking too long"))

    def evict(self) -> None:
        """Break the handshake off, to make room."""
        if self._phase <= SHAKING:
            self._fail(MemoryError("the TLS handshake made room for others"))

    def _fail(self, error: Exception) -> None:
        self._phase = ENDING
        self._stop_timer()
        self._owner.failed(self, error)
        if not self._is_made:
            return
        if isinstance(error, ssl.SSLError):
            self._raw.close()  # an alert may have to go out
        else:
            self._raw.abort()

    # Bytes

    def _read(self) -> None:
        """Hand on what has been read, as far as it is wanted."""
        tls, inner = self._tls, self._inner
        received = self._received
        while self._phase == UP and self._reads and (received.pending or tls.pending()):
            buffer = memoryview(inner.get_buffer(-1))
            try:
                count = cast("int", tls.read(len(buffer), cast("bytearray", buffer)))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                count = 0
            except ssl.SSLError:
                self._flush()
                self.abort()
                return
            if not count:
                self._end()
                break
            inner.buffer_updated(count)
        if self._phase == UP:
            self._flush()  # such as an answer to a change of keys

    def _read_on(self) -> None:
        if self._phase == UP:
            self._read()

    def _end(self) -> None:
        """The client sends nothing more."""
        if self._has_ended:
            return
        self._has_ended = True
        if not self._inner.eof_received():
            self.close()

    def _flush(self) -> None:
        if self._to_send.pending:
            self._raw.write(self._to_send.read())

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # The transport of what is above

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        if not self._is_made:
            return default
        return self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = cast("asyncio.BufferedProtocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner

    def is_reading(self) -> bool:
        return self._reads

    def pause_reading(self) -> None:
        if self._reads:
            self._reads = False
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if not self._reads:
            self._reads = True
            self._raw.resume_reading()
            if self._phase == UP and (self._received.pending or self._tls.pending()):
                self._loop.call_soon(self._read_on)

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view and self._phase == UP:
            try:
                size = self._tls.write(view[:READ_SIZE])
            except ssl.SSLError:
                self.abort()
                return
            view = view[size:]
            self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say that nothing more comes; what the client sends is thrown away from then on.

        Raises OSError where it has gone.
        """
        if self._phase != UP:
            return
        self._phase = ENDING
        with suppress(ssl.SSLError):  # it has not said so itself
            self._tls.unwrap()
        self._flush()
        self._raw.write_eof()
        self.resume_reading()

    def is_closing(self) -> bool:
        return self._phase >= ENDING or self._raw.is_closing()

    def close(self) -> None:
        if self._phase < UP:
            self.abort()
        elif self._phase == UP:
            try:
                self.write_eof()
            except OSError:
                self.abort()
            else:
                self._timer = self._loop.call_later(SHUTDOWN_TIMEOUT, self._raw.abort)

    def abort(self) -> None:
        if self._phase == UP:
            self._phase = ENDING
        if self._is_made:
            self._raw.abort()


class _Hello:
    """What has come of a client's first message, in whole records (RFC 8446, 5.1)."""

    __slots__ = ("_at", "_head", "_received", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._at = 0  # where the next record begins
        self._head = b""  # type and length of the message
        self._received = 0  # bytes of it

    def add(self, more: memoryview) -> bool:
        """Whether it is whole, or is not a ClientHello; raises HelloTooLargeError."""
        data = self.data
        data += more
        while len(data) > self._at:
            at = self._at
            if data[at] != _HANDSHAKE:
                return True
            begin = at + _RECORD_HEADER
            size = int.from_bytes(data[at + 3 : begin])
            if len(self._head) < 4 and len(data) > begin:
                head = self._head + data[begin : begin + min(4 - len(self._head), size)]
                if head[:1] != bytes((_CLIENT_HELLO,)):
                    return True
                if len(head) == 4 and (length := int.from_bytes(head[1:])) > MAX_HELLO:
                    raise HelloTooLargeError(
                        f"its ClientHello has {length} bytes, at most {MAX_HELLO} are taken"
                    )
            if len(data) < begin + size:
                break
            if not size:
                return True
            self._head += data[begin : begin + min(4 - len(self._head), size)]
            self._received += size
            self._at = begin + size
            if len(self._head) == 4 and (
                self._received >= 4 + int.from_bytes(self._head[1:])
            ):
                return True
        if len(data) > MAX_GATHERED:
            text = f"its ClientHello is in {len(data)} bytes and more of small records"
            raise HelloTooLargeError(text)
        return False
