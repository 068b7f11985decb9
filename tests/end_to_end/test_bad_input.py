"""Hostile input: a clear status, a counted reason, and nobody else notices."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest

from tests.end_to_end.conftest import Start
from tests.support.backend import PATH, Backend
from tests.support.clients import Client, recorded
from tests.support.gateway import GatewayProcess, run_gateway
from tests.support.requests import request
from tests.support.wire import field, span
from tests.support.wire import request as written

GOOD = request(10).SerializeToString()


@pytest.fixture
async def running(start: Start) -> AsyncIterator[tuple[GatewayProcess, Backend]]:
    async with Backend() as backend:
        async with start(
            backend.endpoint,
            "--set",
            "receivers.otlp.protocols.http.endpoint=127.0.0.1:0",
            "--set",
            "receivers.otlp.protocols.grpc.max_recv_msg_size_mib=1",
        ) as gateway:
            yield gateway, backend


async def status_of(client: Client, body: bytes, **options: str) -> grpc.StatusCode:
    try:
        await client.send(body, **options)  # type: ignore[arg-type]
    except grpc.aio.AioRpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def nested(depth: int) -> bytes:
    """A request whose attribute is a list in a list, `depth` times."""

    def field(number: int, body: bytes) -> bytes:
        length, varint = len(body), b""
        while length > 0x7F:
            varint += bytes([length & 0x7F | 0x80])
            length >>= 7
        return bytes([number << 3 | 2]) + varint + bytes([length]) + body

    value = b""
    for _ in range(depth):
        value = field(5, field(1, value))
    attribute = field(1, b"k") + field(2, value)
    span = field(1, b"t" * 16) + field(2, b"s" * 8) + field(9, attribute)
    return field(1, field(2, field(2, span)))


async def test_each_bad_request_is_answered_and_the_next_one_goes_through(
    running: tuple[GatewayProcess, Backend],
) -> None:
    gateway, backend = running
    body = recorded()[0]
    flipped = bytearray(GOOD)
    flipped[0] ^= 0x07
    bad = [
        (body[:-1], grpc.StatusCode.INVALID_ARGUMENT),
        (bytes(flipped), grpc.StatusCode.INVALID_ARGUMENT),
        (
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (gzip.compress(GOOD)[:-4], grpc.StatusCode.INVALID_ARGUMENT),
        (gzip.compress(bytes(64 << 20)), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (bytes((1 << 20) + 1), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (b"", grpc.StatusCode.OK),
    ]
    async with Client(await gateway.address("grpc")) as client:
        for body, expected in bad:
            assert await status_of(client, body) is expected, body[:40]
            assert await status_of(client, GOOD) is grpc.StatusCode.OK
        unknown = f"{PATH}Nothing"
        assert await status_of(client, GOOD, path=unknown) is grpc.StatusCode.UNIMPLEMENTED
    await backend.wait_for_spans(10 * len(bad))
    samples = await gateway.at_rest()
    rejected = "k8strace_requests_rejected_total"
    assert samples.sum(rejected, reason="decode_error") == 4
    assert samples.sum(rejected, reason="msg_too_large") == 2
    await gateway.wait_for_metric("k8strace_budget_used_bytes", 0)


async def test_bad_ids_are_cut_out_and_reported(
    running: tuple[GatewayProcess, Backend],
) -> None:
    gateway, backend = running
    message = request(5)
    spans = message.resource_spans[0].scope_spans[0].spans
    spans[1].trace_id = b"short"
    spans[3].span_id = bytes(8)
    async with Client(await gateway.address("grpc")) as client:
        answer = await client.send(message)
    assert answer.partial_success.rejected_spans == 2
    assert "id" in answer.partial_success.error_message
    await backend.wait_for_spans(3)
    assert set(backend.ids) == {spans[0].span_id, spans[2].span_id, spans[4].span_id}
    samples = await gateway.at_rest()
    assert samples.sum("k8strace_spans_dropped_total", reason="invalid_id") == 2


async def test_deep_nesting_is_bounded_where_it_is_looked_at(start: Start) -> None:
    async with Backend() as backend:
        async with start(
            backend.endpoint, "--set", "receivers.otlp.validate=deep"
        ) as gateway:
            async with Client(await gateway.address("grpc")) as client:
                # The span is cut out, and costs those of nobody else.
                body = nested(20_000)
                assert await status_of(client, body) is grpc.StatusCode.OK
                assert await status_of(client, GOOD + body) is grpc.StatusCode.OK
                # So do a resource and a scope, with the spans below them.
                value = field(1, b"x")
                for _ in range(60):
                    value = field(5, field(1, value))
                for where, number in (("resource", 1), ("scope", 3)):
                    own = field(1, field(number, field(1, b"k") + field(2, value)))
                    body = written(span(), span(), **{where: own})
                    answer = await client.send(GOOD + body)
                    assert answer.partial_success.rejected_spans == 2
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total", reason="too_deep") == 6
        assert backend.spans == 30


async def test_a_client_that_goes_away_mid_request_leaves_nothing(
    running: tuple[GatewayProcess, Backend],
) -> None:
    gateway, backend = running
    host, _, port = (await gateway.address("grpc")).rpartition(":")
    reset = struct.pack("ii", 1, 0)
    for cut in (3, 24, 60):
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(preface[:cut])
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    async with Client(await gateway.address("grpc")) as client:
        calls = [asyncio.ensure_future(client.send(GOOD)) for _ in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await client.send(GOOD)
    await backend.wait_for_spans(110)
    await gateway.at_rest()
    await gateway.wait_for_metric("k8strace_budget_used_bytes", 0)


async def test_http(running: tuple[GatewayProcess, Backend]) -> None:
    gateway, backend = running
    url = f"http://{await gateway.address('http')}/v1/traces"
    protobuf = {"Content-Type": "application/x-protobuf"}
    packed = {**protobuf, "Content-Encoding": "gzip"}
    cases = [
        ("POST", protobuf, GOOD, 200),
        ("POST", packed, gzip.compress(GOOD), 200),
        ("POST", packed, gzip.compress(GOOD)[:-9], 400),
        ("POST", protobuf, GOOD[:-1], 400),
        ("POST", {"Content-Type": "application/json"}, b"{}", 415),
        ("POST", {**protobuf, "Content-Encoding": "br"}, b"x", 415),
        ("GET", {}, b"", 405),
    ]
    async with aiohttp.ClientSession() as session:
        for method, headers, body, expected in cases:
            async with session.request(method, url, data=body, headers=headers) as response:
                assert response.status == expected, (method, headers, await response.read())
    await backend.wait_for_spans(20)
    await gateway.at_rest()


async def test_a_port_in_use(start: Start) -> None:
    async with Backend() as backend, start(backend.endpoint) as gateway:
        address = await gateway.address("grpc")
        other = start(
            backend.endpoint, "--set", f"receivers.otlp.protocols.grpc.endpoint={address}"
        )
        await other.start()
        assert await other.wait() == 1
        text = "\n".join(other.log)
        assert "receivers::otlp" in text
        assert address in text
        assert "in use" in text


async def test_a_backend_name_that_does_not_resolve(start: Start) -> None:
    async with start(
        "no.such.name.invalid:4317",
        "--shutdown-timeout",
        "1",
        retry_on_failure={
            "initial_interval": "50ms",
            "max_interval": "100ms",
            "max_elapsed_time": "300ms",
        },
    ) as gateway:
        async with Client(await gateway.address("grpc")) as client:
            await client.send(GOOD)
        samples = await gateway.wait_for_metric(
            "k8strace_spans_dropped_total", 10, reason="retry_exhausted"
        )
        samples.assert_balanced()
        await gateway.wait_for_log("no.such.name.invalid")


async def test_a_configuration_with_every_kind_of_mistake(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "receivers:\n"
        "  otlp:\n"
        "    protocols:\n"
        "      grpc: {endpiont: localhost:0}\n"
        "processors:\n"
        "  batch: {timeout: 5 parsecs, send_batch_size: -1}\n"
        "exporters:\n"
        "  debgu: {}\n"
        "service:\n"
        "  pipelines:\n"
        "    traces: {receivers: [otlp], processors: [bacth], exporters: []}\n"
    )
    status, _, err = await run_gateway("--config", str(path))
    assert status == 1
    for line, part in (
        (4, "did you mean endpoint"),
        (6, "processors::batch::timeout"),
        (6, "processors::batch::send_batch_size"),
        (8, "debug"),
        (11, 'references processor "bacth"'),
        (11, "exporter"),
    ):
        assert any(f"bad.yaml:{line}" in row and part in row for row in err.splitlines()), (
            err
        )
    assert "Traceback" not in err
