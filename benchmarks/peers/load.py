"""The load generator, a process of its own: `python -m benchmarks.peers.load CELL`.

It makes the cell's requests, says "ready", and then does what each line of stdin asks for
(`Order`), answering with a line (`Sent`). It is the native client's session without the
futures and timeouts of the client around it, so that it costs less than what it measures.
Over HTTP/1.1 a connection has one request under way, as OTLP's clients do it, and there are
as many more connections.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import cast

import msgspec
import uvloop

from benchmarks.peers.matrix import Cell
from benchmarks.peers.payloads import Request, ring, total
from k8strace._codec import GZIP, IDENTITY, Inflation
from k8strace._http2 import ProtocolError
from k8strace._http2_client import Call, ClientSession

PATH = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export"
READ_SIZE = 64 * 1024
MAX_ANSWER = 1024 * 1024
UNAVAILABLE = b"14"
EMPTY = (b"", b"\n\0")  # answers that reject nothing: without and with a partial_success
HEAD = (
    "POST /v1/traces HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: OTel-OTLP-Exporter\r\n"
    "Content-Type: application/x-protobuf\r\nContent-Length: {size}\r\n\r\n"
)
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
REFUSALS = (b"HTTP/1.1 429 ", b"HTTP/1.1 503 ")
PAUSE = 0.1  # seconds until a refused request is sent again
TIMEOUT = 120.0  # seconds for an order, beyond the time that it asks for


class Order(msgspec.Struct, frozen=True):
    """Send `requests` requests, or as many as go in `seconds`, beginning with the first."""

    address: str
    requests: int
    seconds: float
    connections: int
    in_flight: int


class Sent(msgspec.Struct, frozen=True, tag="sent"):
    """What was taken by the side under test; `size` in bytes before compression.

    `p50` and `p99` are seconds from the making of a request to its answer, of those that
    were taken at once.
    """

    requests: int
    spans: int
    sampled: int
    size: int
    refused: int
    seconds: float
    cpu_seconds: float
    p50: float
    p99: float


@lru_cache
def rejects_nothing(answer: bytes | None, encoding: int) -> bool:
    """Answers repeat, so that each is looked at once."""
    if answer is None or not encoding:
        return answer in EMPTY
    work = Inflation(encoding, answer, MAX_ANSWER)
    while not work.is_done:
        work.run()
    return work.take() in EMPTY


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The order could not be carried out."""

    why: str


class Load:
    """An order that is carried out."""

    def __init__(self, order: Order, requests: list[Request], packed: bool) -> None:
        loop = asyncio.get_running_loop()
        self.encoding = GZIP if packed else IDENTITY
        self.done: asyncio.Future[None] = loop.create_future()
        self.refused = 0
        self.taken = 0
        self.answered: list[float] = []
        self._messages = [(request.message,) for request in requests]
        self._count = order.requests
        self._end = loop.time() + order.seconds
        self._loop = loop
        self._next = 0
        self._running = 0

    def next(self) -> tuple[bytes, ...] | None:
        """The next request's message; None when there are no more."""
        if self._next >= self._count if self._count else self._loop.time() > self._end:
            return None
        self._next += 1
        self._running += 1
        return self._messages[(self._next - 1) % len(self._messages)]

    def over(self, call: Call) -> bool:
        """Count a call that is over; False when it has to be sent again."""
        if call.status == UNAVAILABLE:
            self.refused += 1
            return False
        if call.status != b"0" or not rejects_nothing(call.answer, call.encoding):
            answer = call.answer or call.text or call.problem or call.http_status
            self.fail(f"request {self.taken} was answered with {call.status!r}: {answer!r}")
        _, began = call.future
        self.took(began)
        return True

    def took(self, began: float) -> None:
        """Count a request that was taken; `began`: 0 where it was not sent once only."""
        self.taken += 1
        self._running -= 1
        if began:
            self.answered.append(self._loop.time() - began)

    def check_end(self) -> None:
        if not self._running and not self.done.done():
            self.done.set_result(None)

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


class Connection(asyncio.BufferedProtocol):
    """A connection with so many requests under way."""

    def __init__(self, load: Load, authority: str, in_flight: int) -> None:
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._session = ClientSession(
            authority.encode(), self._loop.time(), max_answer=MAX_ANSWER
        )
        self._in_flight = in_flight
        self._buffer = bytearray(READ_SIZE)
        self._is_paused = False
        self._has_begun = False
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.fail(f"the connection was lost: {exc}")

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._end(self._session.receive(self._buffer, nbytes, self._loop.time()))
        if self._session.is_up and not self._has_begun:
            self._has_begun = True
            for _ in range(self._in_flight):
                self._send_next()
        self._flush()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()

    def _send_next(self) -> None:
        if (message := self._load.next()) is not None:
            self._send(message, self._loop.time())

    def _send_again(self, message: tuple[bytes, ...]) -> None:
        self._send(message, 0.0)
        self._flush()

    def _send(self, message: tuple[bytes, ...], now: float) -> None:
        call = self._session.request(PATH, message, encoding=self._load.encoding)
        call.future = message, now

    def _end(self, over: list[Call]) -> None:
        for call in over:
            if self._load.over(call):
                self._send_next()
            else:
                self._loop.call_later(PAUSE, self._send_again, call.future[0])

    def _flush(self) -> None:
        while not self._is_paused and (buffers := self._session.output()):
            self._transport.writelines(buffers)
            self._end(self._session.finished())
        if self._has_begun:
            self._load.check_end()


class HTTPConnection(asyncio.Protocol):
    """A connection with one request under way, over HTTP/1.1."""

    def __init__(self, load: Load, authority: str) -> None:
        self._load = load
        self._authority = authority
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", None)
        self._message: tuple[bytes, ...] = ()
        self._began = 0.0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.fail(f"the connection was lost: {exc}")

    def data_received(self, data: bytes) -> None:
        answer = self._answer = self._answer + data
        head, is_whole, body = answer.partition(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head)
        if not is_whole or (length is not None and len(body) < int(length[1])):
            return
        self._answer = b""
        if answer.startswith(REFUSALS):
            self._load.refused += 1
            self._loop.call_later(PAUSE, self._send, self._message, 0.0)
        elif not answer.startswith(b"HTTP/1.1 200 ") or body not in EMPTY:
            self._load.fail(f"request {self._load.taken} was answered with {answer!r}")
        else:
            self._load.took(self._began)
            self._send_next()

    def _send_next(self) -> None:
        message = self._load.next()
        if message is None:
            self._load.check_end()
        else:
            self._send(message, self._loop.time())

    def _send(self, message: tuple[bytes, ...], now: float) -> None:
        self._message, self._began = message, now
        size = sum(map(len, message))
        head = HEAD.format(authority=self._authority, size=size).encode()
        self._transport.writelines((head, *message))


async def carry_out(
    order: Order, requests: list[Request], *, packed: bool, protocol: str = "grpc"
) -> Sent:
    """Send what `order` asks for.

    Raises RuntimeError when an answer isn't OK, OSError for lost and silent connections.
    """
    loop = asyncio.get_running_loop()
    load = Load(order, requests, packed)
    host, _, port = order.address.rpartition(":")
    make: Callable[[], asyncio.BaseProtocol]
    if protocol == "http":
        make = partial(HTTPConnection, load, order.address)
        connections = order.connections * order.in_flight
    else:
        make = partial(Connection, load, order.address, order.in_flight)
        connections = order.connections
    before, cpu_before = time.monotonic(), time.process_time()
    transports = []
    try:
        async with asyncio.timeout(order.seconds + TIMEOUT):
            for _ in range(connections):
                transport, _protocol = await loop.create_connection(make, host, int(port))
                transports.append(transport)
            await load.done
    finally:
        for transport in transports:
            transport.abort()
    return Sent(
        requests=load.taken,
        spans=total(requests, load.taken, "spans"),
        sampled=total(requests, load.taken, "sampled"),
        size=total(requests, load.taken, "size"),
        refused=load.refused,
        seconds=time.monotonic() - before,
        cpu_seconds=time.process_time() - cpu_before,
        p50=percentile(load.answered, 50),
        p99=percentile(load.answered, 99),
    )


def percentile(values: Sequence[float], part: int) -> float:
    """The least value that so many percent of all are not above; 0 of none."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * part // 100) - 1] if ordered else 0.0


def main() -> None:
    cell = msgspec.json.decode(sys.argv[1], type=Cell)
    requests = ring(cell)
    packed = cell.compression == "gzip"
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        answer: Sent | Failed
        try:
            answer = uvloop.run(
                carry_out(order, requests, packed=packed, protocol=cell.protocol)
            )
        except (RuntimeError, OSError, ProtocolError) as error:
            answer = Failed(f"{type(error).__name__}: {error}")
        print(msgspec.json.encode(answer).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
