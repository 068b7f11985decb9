"""The generator against a real server: what is refused comes again, what fails ends it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from benchmarks.peers.load import Order, Sent, carry_out, percentile
from benchmarks.peers.payloads import Request
from k8strace.errors import RefusedError
from k8strace.grpc import Call, native
from k8strace.grpc.status import Code, StatusError
from tests.support.engine import Rig

REQUESTS = [Request(bytes([1, number]), 2, 1, number % 2) for number in range(3)]


async def take(_: Call) -> bytes:
    return b""


def order(rig: Rig, requests: int = 20, seconds: float = 0.0) -> Order:
    return Order(rig.address, requests, seconds, connections=2, in_flight=3)


async def test_the_ring_goes_round() -> None:
    async with Rig(native) as rig:
        rig.answer = take
        sent = await carry_out(order(rig), REQUESTS, packed=False)
        assert (sent.requests, sent.spans, sent.size, sent.sampled) == (20, 20, 40, 7)
        assert sent.refused == 0
        assert 0 < sent.p50 <= sent.p99 < sent.seconds
        messages = sorted(call.message for call in rig.calls)
        assert messages == sorted((REQUESTS * 7)[number].message for number in range(20))


def test_percentiles() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99)) == (50, 99)
    assert (percentile([3.0], 99), percentile([], 99)) == (3, 0)


async def test_for_a_time() -> None:
    async with Rig(native) as rig:
        rig.answer = take
        sent = await carry_out(order(rig, 0, 0.2), REQUESTS, packed=False)
        assert sent.requests == len(rig.calls) > 0


async def test_packed_requests() -> None:
    packed = [Request(gzip.compress(b"plain"), 5, 1, 0)]
    async with Rig(native) as rig:
        rig.answer = take
        await carry_out(order(rig), packed, packed=True)
        assert {call.message for call in rig.calls} == {b"plain"}


async def test_what_is_refused_is_sent_again() -> None:
    refused: set[bytes] = set()

    async def answer(call: Call) -> bytes:
        if call.message not in refused:
            refused.add(call.message)
            raise RefusedError("full", 0.1)
        return b""

    async with Rig(native) as rig:
        rig.answer = answer
        sent = await carry_out(order(rig), REQUESTS, packed=False)
        assert (sent.requests, sent.refused) == (20, 3)
        assert len(rig.calls) == 23


async def test_an_error_ends_it() -> None:
    async def answer(call: Call) -> bytes:
        raise StatusError(Code.INVALID_ARGUMENT, "no request")

    async with Rig(native) as rig:
        rig.answer = answer
        with pytest.raises(RuntimeError, match="no request"):
            await carry_out(order(rig), REQUESTS, packed=False)


async def test_rejected_spans_end_it() -> None:
    async def answer(call: Call) -> bytes:
        return b"\x0a\x02\x08\x01"  # partial_success.rejected_spans = 1

    async with Rig(native) as rig:
        rig.answer = answer
        with pytest.raises(RuntimeError, match="request 0 was answered"):
            await carry_out(order(rig), REQUESTS, packed=False)


# Over HTTP


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives these answers, the last one again and again; and what it got."""
    left = list(answers)
    bodies: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /v1/traces HTTP/1.1\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                bodies.append(await reader.readexactly(length))
                answer = left.pop(0) if len(left) > 1 else left[0]
                writer.write(answer[:20])
                await writer.drain()
                writer.write(answer[20:])

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", bodies
    finally:
        server.close()
        for writer in writers:
            writer.close()


TAKEN = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
)
FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 10\r\n\r\nno request"


async def over_http(address: str) -> Sent:
    order = Order(address, 20, 0.0, connections=2, in_flight=3)
    return await carry_out(order, REQUESTS, packed=False, protocol="http")


async def test_over_http_the_ring_goes_round_and_what_is_refused_is_sent_again() -> None:
    async with answering(FULL, TAKEN) as (address, bodies):
        sent = await over_http(address)
    assert (sent.requests, sent.spans, sent.size, sent.refused) == (20, 20, 40, 1)
    assert len(bodies) == 21
    assert set(bodies) == {request.message for request in REQUESTS}


async def test_over_http_an_error_ends_it() -> None:
    async with answering(BAD) as (address, _):
        with pytest.raises(RuntimeError, match="no request"):
            await over_http(address)
