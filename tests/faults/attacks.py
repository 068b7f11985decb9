"""Attacks on a gateway's memory: each makes it hold what no request brings.

To add one, write a function that takes an `Attack` and give it a line in `ATTACKS`: those
of the table run one by one and mixed, at each limit (`test_memory.py`). They are bounded in
what they send (`count`), keep their connections until `attack.release`, and expect nothing
of the gateway: that it closes them is an answer, too.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from tests.support.engine import MIB
from tests.support.http2 import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    headers,
    message,
)
from tests.support.requests import request

HOSTS = ["127.0.0.2", "127.0.0.3"]  # not the one of those who mean well
STREAMS = 255  # of a connection
FRAME = 16_384  # bytes
BEGIN = headers(*GRPC)
INDEXED = b"\xbe"  # the header that was added to the table last


class Endpoints(NamedTuple):
    """Where the gateway listens; behind `auth` is somebody who never answers."""

    grpc: str
    http: str
    grpc_tls: str
    http_tls: str
    grpc_auth: str
    http_auth: str


class Attack:
    """What an attack has: where the gateway listens, and connections of its own."""

    def __init__(self, to: Endpoints, count: int) -> None:
        self.to = to
        self.count = count
        self._plugs: list[socket.socket] = []

    async def plug(self, number: int, endpoint: str = "") -> socket.socket:
        """A connection, from one of some hosts."""
        host, _, port = (endpoint or self.to.grpc).rpartition(":")
        plug = socket.socket()
        plug.bind((HOSTS[number % len(HOSTS)], 0))
        plug.setblocking(False)
        self._plugs.append(plug)
        await asyncio.get_running_loop().sock_connect(plug, (host, int(port)))
        return plug

    async def send(self, plug: socket.socket, data: bytes, timeout: float = 5.0) -> bool:
        """Whether all of it was taken; the gateway may close, or read no more."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_sendall(plug, data)
        except (OSError, TimeoutError):
            return False
        return True

    async def each(self, one: Callable[[int], Awaitable[None]], at_once: int = 16) -> None:
        """Do `one` for each number, some at once."""
        turns = asyncio.Semaphore(at_once)

        async def take(number: int) -> None:
            async with turns:
                with suppress(OSError, TimeoutError):
                    await one(number)

        await asyncio.gather(*map(take, range(self.count)))

    def release(self) -> None:
        for plug in self._plugs:
            plug.close()
        self._plugs.clear()


def opened(first: int, last: int, *frames: Callable[[int], bytes]) -> bytes:
    """Streams, each with its headers and `frames`."""
    return b"".join(
        frame(HEADERS, END_HEADERS, stream, BEGIN)
        + b"".join(make(stream) for make in frames)
        for stream in range(first, last, 2)
    )


async def idle_connections(attack: Attack) -> None:
    async def one(number: int) -> None:
        await attack.send(await attack.plug(number), PREFACE)

    await attack.each(one)


async def streams_without_messages(attack: Attack) -> None:
    data = PREFACE + opened(1, 2 * STREAMS)

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number), data)

    await attack.each(one)


async def streams_behind_a_request(attack: Attack) -> None:
    """As those who mean well begin, so that the connection has been of use."""
    body = request(1).SerializeToString()
    data = PREFACE + frame(HEADERS, END_HEADERS, 1, BEGIN)
    data += frame(DATA, END_STREAM, 1, message(body)) + opened(3, 2 * STREAMS)

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number), data)

    await attack.each(one)


async def small_announcements(attack: Attack) -> None:
    """Messages of 60 KiB of which a byte comes."""
    prefix = struct.pack(">BI", 0, 60 * 1024) + b"\n"
    data = PREFACE + opened(1, 2 * STREAMS, lambda stream: frame(DATA, 0, stream, prefix))

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number), data)

    await attack.each(one)


async def windows_of_waiting_streams(attack: Attack) -> None:
    """Messages for which there is no room, each with as much as a window lets through."""
    prefix = struct.pack(">BI", 0, 60 * MIB)
    filler = bytes(FRAME)
    begin = PREFACE + opened(1, 64, lambda stream: frame(DATA, 0, stream, prefix))
    rest = b"".join(frame(DATA, 0, stream, filler) for stream in range(1, 64, 2)) * 4

    async def one(number: int) -> None:
        plug = await attack.plug(number)
        await attack.send(plug, begin)
        await attack.send(plug, rest, 1)

    await attack.each(one)


async def metadata(attack: Attack) -> None:
    """Headers of 15 KiB on each stream, that are kept with the request or before it."""
    pairs = tuple((f"x-{number}", f"{number}" * 40) for number in range(100, 200))
    block = headers(*GRPC, *pairs)
    body = message(request(1).SerializeToString())
    data = PREFACE
    for stream in range(1, 64, 2):
        data += frame(HEADERS, END_HEADERS, stream, block)
        if stream % 4 == 1:
            data += frame(DATA, END_STREAM, stream, body)

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number), data)

    await attack.each(one)


async def small_requests(attack: Attack) -> None:
    """A hundred for each connection; the backend takes none for long."""
    body = message(request(1).SerializeToString())
    data = PREFACE + b"".join(
        frame(HEADERS, END_HEADERS, stream, BEGIN) + frame(DATA, END_STREAM, stream, body)
        for stream in range(1, 200, 2)
    )

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number), data)

    await attack.each(one)


async def unread_answers(attack: Attack) -> None:
    """Requests without an end, whose long answers are not read."""
    body = message(b"\xff" * 20)

    async def one(number: int) -> None:
        plug = await attack.plug(number)
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await attack.send(plug, PREFACE)
        for first in range(1, 20_000, 500):
            data = b"".join(
                frame(HEADERS, END_HEADERS, stream, BEGIN)
                + frame(DATA, END_STREAM, stream, body)
                for stream in range(first, first + 500, 2)
            )
            if not await attack.send(plug, data, 1):
                break

    await attack.each(one)


async def bombs(attack: Attack) -> None:
    """64 MiB in 64 KiB."""
    packed = message(gzip.compress(bytes(64 * MIB), 9), compressed=1)
    block = headers(*GRPC, ("grpc-encoding", "gzip"))
    data = PREFACE + frame(HEADERS, END_HEADERS, 1, block)
    for at in range(0, len(packed), FRAME):
        flags = END_STREAM if at + FRAME >= len(packed) else 0
        data += frame(DATA, flags, 1, packed[at : at + FRAME])

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number), data)

    await attack.each(one)


async def large_messages(attack: Attack) -> None:
    """Whole messages of 1 to 7 MiB that are no requests, and no size twice."""

    async def one(number: int) -> None:
        size = MIB + number * 6 * MIB // attack.count
        data = struct.pack(">BI", 0, size) + b"\xff" * size
        out = PREFACE + frame(HEADERS, END_HEADERS, 1, BEGIN)
        plug = await attack.plug(number)
        await attack.send(plug, out)
        for at in range(0, len(data), FRAME):
            flags = END_STREAM if at + FRAME >= len(data) else 0
            if not await attack.send(plug, frame(DATA, flags, 1, data[at : at + FRAME]), 3):
                break

    await attack.each(one, 32)


async def header_bombs(attack: Attack) -> None:
    """A byte stands for a header of 3.9 KB."""
    value = b"y" * 3900
    more = len(value) - 127
    added = b"\x40\x01x\x7f" + bytes([more & 127 | 128, more >> 7])
    first = frame(HEADERS, END_HEADERS | END_STREAM, 1, BEGIN + added + value)
    rest = BEGIN + INDEXED * (FRAME - len(BEGIN))

    async def one(number: int) -> None:
        plug = await attack.plug(number)
        data = PREFACE + first
        for stream in range(3, 30, 2):
            data += frame(HEADERS, END_HEADERS | END_STREAM, stream, rest)
        await attack.send(plug, data)

    await attack.each(one)


async def endless_headers(attack: Attack) -> None:
    """A block of headers that goes on and on."""
    piece = b"\0\x01x\x64" + b"y" * 100

    async def one(number: int) -> None:
        plug = await attack.plug(number)
        data = PREFACE + frame(HEADERS, 0, 1, BEGIN)
        data += frame(CONTINUATION, 0, 1, piece * 150) * 100
        await attack.send(plug, data)

    await attack.each(one)


async def tiny_frames(attack: Attack) -> None:
    """A message byte by byte, with all that frames can be between them."""
    size = 50_000
    parts = [PREFACE, frame(HEADERS, END_HEADERS, 1, BEGIN)]
    parts.append(frame(DATA, 0, 1, struct.pack(">BI", 0, size)))
    for at in range(size // 10):
        parts.append(frame(DATA, 8, 1, b"\x08x" + bytes(8)))  # padded
        if at % 50 == 0:
            parts.append(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"))
            parts.append(frame(PRIORITY, 0, 2 * at + 1001, b"\0\0\0\1\x10"))

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number), b"".join(parts))

    await attack.each(one)


async def floods(attack: Attack) -> None:
    """Resets, pings and settings, more than anybody means well."""
    cancel = frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big"))
    resets = b"".join(
        frame(HEADERS, END_HEADERS, stream, BEGIN)
        + cancel[:5]
        + struct.pack(">I", stream)
        + cancel[9:]
        for stream in range(1, 4000, 2)
    )
    kinds = [
        resets,
        frame(PING, 0, 0, bytes(8)) * 20_000,
        frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff") * 20_000,
        frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 20_000,
        opened(1, 2 * STREAMS) + frame(HEADERS, END_HEADERS, 1, BEGIN) * 2000,
    ]

    async def one(number: int) -> None:
        plug = await attack.plug(number)
        await attack.send(plug, PREFACE + kinds[number % len(kinds)], 2)

    await attack.each(one)


def hello(size: int) -> bytes:
    """A TLS handshake that says it has `size` bytes, and ends before them."""
    body = b"\x01" + struct.pack(">I", size)[1:] + b"\x03\x03" + bytes(size - 100)
    return b"".join(
        b"\x16\x03\x01" + struct.pack(">H", len(part)) + part
        for part in (body[at : at + FRAME] for at in range(0, len(body), FRAME))
    )


async def tls_handshakes(attack: Attack) -> None:
    small, large = hello(16_000), hello(120_000)

    async def one(number: int) -> None:
        plug = await attack.plug(number, attack.to.grpc_tls)
        await attack.send(plug, large if number % 2 else small, 1)

    await attack.each(one)


async def tls_connections(attack: Attack) -> None:
    """Handshakes that end, and as much of a message behind them as a read takes."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    prefix = struct.pack(">BI", 0, 2 * MIB)
    data = PREFACE + frame(HEADERS, END_HEADERS, 1, BEGIN) + frame(DATA, 0, 1, prefix)
    data += frame(DATA, 0, 1, os.urandom(FRAME)) * 15

    async def one(number: int) -> None:
        plug = await attack.plug(number, attack.to.grpc_tls)
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(
                sock=plug, ssl=context, server_hostname="localhost"
            )
            writers.append(writer)
            writer.write(data)
            await writer.drain()

    writers: list[asyncio.StreamWriter] = []
    await attack.each(one)
    for writer in writers:
        writer.transport.abort()


def post(length: int | str, *headers: str) -> bytes:
    """A head of OTLP over HTTP; its body has a length, or is chunked."""
    coding = "Transfer-Encoding: chunked" if length == "chunked" else ""
    lines = [
        *("POST /v1/traces HTTP/1.1", "Host: gateway"),
        *("Content-Type: application/x-protobuf", coding or f"Content-Length: {length}"),
        *headers,
    ]
    return "\r\n".join((*lines, "", "")).encode()


async def silent_http(attack: Attack) -> None:
    async def one(number: int) -> None:
        await attack.plug(number, attack.to.http)

    await attack.each(one)


async def half_heads(attack: Attack) -> None:
    """Heads of HTTP that do not end, small ones and some of 60 KiB."""

    async def one(number: int) -> None:
        data = post(10) + b"X: "
        if number % 8 == 0:
            data = data[:-5] + b"X: " + b"y" * 60_000
        await attack.send(await attack.plug(number, attack.to.http), data[:-3], 1)

    await attack.each(one)


async def half_heads_behind_a_request(attack: Attack) -> None:
    """As those who mean well begin."""
    body = request(1).SerializeToString()
    data = post(len(body)) + body + post(10)[:-10]

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number, attack.to.http), data)

    await attack.each(one)


async def heads(attack: Attack) -> None:
    """Heads of 60 KiB and 200 fields, of a body that never comes."""
    data = post(1000, *(f"x-{number}: " + "y" * 290 for number in range(200)))

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number, attack.to.http), data, 1)

    await attack.each(one)


async def bodies(attack: Attack) -> None:
    """Bodies of 60 MB by their heads, of which as much comes as is taken."""
    data = post(60_000_000) + os.urandom(200_000)

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number, attack.to.http), data, 1)

    await attack.each(one)


async def chunked_bodies(attack: Attack) -> None:
    """Chunked bodies that go on until no more is taken, and do not end."""
    data = post("chunked") + (b"4000\r\n" + os.urandom(0x4000) + b"\r\n") * 40

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number, attack.to.http), data, 1)

    await attack.each(one)


async def bodies_before_authentication(attack: Attack) -> None:
    """Over HTTP and gRPC: nobody says whether the caller is who it says."""

    async def one(number: int) -> None:
        token = f"Bearer token-{number}"
        if number % 2:
            data = post(2_000_000, f"Authorization: {token}") + os.urandom(200_000)
        else:
            block = headers(*GRPC, ("authorization", token))
            data = PREFACE + b"".join(
                frame(HEADERS, END_HEADERS, stream, block)
                + frame(DATA, 0, stream, struct.pack(">BI", 0, 2 * MIB) + bytes(8000))
                for stream in range(1, 40, 2)
            )
        endpoint = attack.to.http_auth if number % 2 else attack.to.grpc_auth
        await attack.send(await attack.plug(number, endpoint), data, 1)

    await attack.each(one)


async def pipelined_requests(attack: Attack) -> None:
    """Requests that are refused, behind each other, whose responses are not read."""
    data = post(3) + b"\xff\xff\xff"

    async def one(number: int) -> None:
        plug = await attack.plug(number, attack.to.http)
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await attack.send(plug, data * 5000, 1)

    await attack.each(one)


async def http_tls_handshakes(attack: Attack) -> None:
    small, large = hello(16_000), hello(120_000)

    async def one(number: int) -> None:
        plug = await attack.plug(number, attack.to.http_tls)
        await attack.send(plug, large if number % 2 else small, 1)

    await attack.each(one)


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf that has a length."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def repeated(resource: int, spans: int) -> bytes:
    """A request packed by gzip: an attribute of so many bytes, and so many small spans."""
    value = field(1, b"k") + field(2, field(1, b"v" * resource))
    span = field(2, field(1, b"\1" * 16) + field(2, b"\2" * 8))
    body = field(1, field(1, field(1, value)) + field(2, span * spans))
    return gzip.compress(body, 6)


async def _packed(attack: Attack, resource: int, spans: int) -> None:
    packed = repeated(resource, spans)
    data = post(len(packed), "Content-Encoding: gzip") + packed

    async def one(number: int) -> None:
        await attack.send(await attack.plug(number, attack.to.http), data)

    await attack.each(one)


async def repeated_resources(attack: Attack) -> None:
    """Small requests of a large resource and many spans: each piece repeats it."""
    await _packed(attack, 500_000, 100_000)


async def larger_repeated_resources(attack: Attack) -> None:
    """As many as a message may have: 58 MiB."""
    await _packed(attack, 3_600_000, 1_900_000)


async def many_spans(attack: Attack) -> None:
    """Packed to nothing; each is a line of text, or a place in an index."""
    await _packed(attack, 10, 300_000)


class Row(NamedTuple):
    """An attack of the table, and how many connections it takes, in short and for long.

    `pipeline` is one of `PIPELINES` of `test_memory.py`. Where it `hangs` the backend takes
    nothing until the attack is over.
    """

    run: Callable[[Attack], Awaitable[None]]
    short: int
    long: int
    pipeline: str = "batch"
    hangs: bool = False


ATTACKS = {
    run.__name__.replace("_", " "): Row(run, short, long)
    for run, short, long in (
        (idle_connections, 600, 9000),
        (streams_without_messages, 150, 1700),
        (streams_behind_a_request, 150, 1700),
        (small_announcements, 40, 400),
        (windows_of_waiting_streams, 30, 300),
        (unread_answers, 20, 200),
        (bombs, 10, 200),
        (large_messages, 20, 400),
        (header_bombs, 20, 500),
        (endless_headers, 20, 500),
        (tiny_frames, 20, 300),
        (floods, 20, 300),
        (tls_handshakes, 60, 1000),
        (tls_connections, 40, 500),
        (silent_http, 1500, 9000),
        (half_heads, 1500, 9000),
        (half_heads_behind_a_request, 1500, 9000),
        (heads, 100, 1500),
        (bodies, 100, 1500),
        (chunked_bodies, 60, 1000),
        (bodies_before_authentication, 100, 1000),
        (pipelined_requests, 20, 200),
        (http_tls_handshakes, 60, 1000),
    )
} | {
    "metadata": Row(metadata, 100, 1000, hangs=True),
    "small requests": Row(small_requests, 100, 2000, hangs=True),
    "splitting by spans": Row(repeated_resources, 4, 30, "split"),
    "splitting by bytes": Row(larger_repeated_resources, 2, 4),
    "text of file": Row(many_spans, 3, 30, "file"),
    "text of debug": Row(many_spans, 2, 10, "debug"),
    "index of the sampler": Row(many_spans, 4, 30, "sampler"),
}
