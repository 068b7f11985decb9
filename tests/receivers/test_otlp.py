"""The otlp receiver: what it takes, what it answers, and that it counts everything."""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from k8strace.errors import MalformedPayloadError, RefusedError, RejectedError
from k8strace.grpc import Call
from k8strace.grpc.status import retry_delay
from k8strace.losses import Loss
from k8strace.metrics import SPANS_REJECTED
from k8strace.payload import Origin
from k8strace.receivers import otlp
from k8strace.receivers.otlp import OTLP
from tests.support.backend import PATH
from tests.support.clients import Client
from tests.support.otlp import Receiving
from tests.support.pipeline import Sink, configured, context, edge_to
from tests.support.requests import parse, request, span_ids

CODE = grpc.StatusCode


@asynccontextmanager
async def grpc_only(**options: Any) -> Any:
    async with Receiving(grpc={}, **options) as receiving:
        async with Client(receiving.grpc) as client:
            yield receiving, client


async def failure(client: Client, body: Any, **options: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.send(body, **options)
    return caught.value


async def test_spans_arrive_byte_for_byte() -> None:
    async with grpc_only() as (receiving, client):
        message = request(20, resources=3)
        answer = await client.send(message)
        assert answer == ExportTraceServiceResponse()
        (payload,) = receiving.sink.payloads
        assert payload.chunks == (message.SerializeToString(),)
        assert (payload.spans, payload.size) == (20, len(payload.chunks[0]))
        assert payload.origin.peer.startswith("127.0.0.1:")
        assert payload.lease.size == payload.size == receiving.budget.used
        assert payload.wait_until > 0
        assert receiving.counted("grpc") == (20, 0, 0)
        assert (receiving.ledger.received, receiving.ledger.sent) == (20, 20)
        del payload


async def test_unknown_fields_survive() -> None:
    async with grpc_only() as (receiving, client):
        body = request(2).SerializeToString() + b"\xfa\x3e\x03new"
        await client.send(body)
        assert receiving.sink.payloads[0].chunks == (body,)


@pytest.mark.parametrize("gzipped", [True, False])
async def test_the_sdk_exporter(gzipped: bool) -> None:
    async with Receiving(grpc={}) as receiving:

        def run() -> list[int]:
            exporter = OTLPSpanExporter(
                endpoint=f"http://{receiving.grpc}",
                insecure=True,
                compression=grpc.Compression.Gzip if gzipped else None,
            )
            kept = InMemorySpanExporter()
            provider = TracerProvider()
            provider.add_span_processor(BatchSpanProcessor(exporter))
            provider.add_span_processor(BatchSpanProcessor(kept))
            tracer = provider.get_tracer("test")
            for number in range(100):
                with tracer.start_as_current_span(f"span {number}") as span:
                    span.set_attribute("number", number)
                    span.add_event("here", {"text": "é"})
            provider.shutdown()
            contexts = [span.context for span in kept.get_finished_spans()]
            return [one.span_id for one in contexts if one is not None]

        sent = await asyncio.to_thread(run)
        got = [int.from_bytes(span_id, "big") for span_id in receiving.sink.span_ids()]
        assert sorted(got) == sorted(sent)
        assert len(got) == 100


@pytest.mark.parametrize(
    "empty", [b"", b"\x0a\x00", b"\x0a\x02\x12\x00", b"\x0a\x02\x0a\x00", b"\x10\x05"]
)
async def test_an_empty_request_succeeds(empty: bytes) -> None:
    async with grpc_only() as (receiving, client):
        assert await client.send(empty) == ExportTraceServiceResponse()
        assert receiving.sink.calls == 0
        assert receiving.ledger.received == 0
        assert receiving.counted("grpc") == (0, 0, 0)


async def test_a_malformed_request_is_refused_with_the_place() -> None:
    body = request(3).SerializeToString()
    async with grpc_only() as (receiving, client):
        for bad in (body[:-1], b"\x0a" + b"\xff" * 10, b"\x1f", b"hello world"):
            caught = await failure(client, bad)
            assert caught.code() is CODE.INVALID_ARGUMENT
            assert "at byte" in caught.details()
        assert receiving.rejected("decode_error") == 4
        assert receiving.sink.calls == 0
        assert receiving.ledger.received == 0
        await client.send(body)
        assert receiving.counted("grpc") == (3, 0, 0)


async def test_without_memory_the_sender_is_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def short(*_: object) -> None:
        raise MemoryError

    body = request(3).SerializeToString()
    async with grpc_only() as (receiving, client):
        with monkeypatch.context() as patch:
            patch.setattr(otlp, "count", short)
            caught = await failure(client, body)
        assert caught.code() is CODE.UNAVAILABLE
        assert "out of memory" in caught.details()
        assert receiving.rejected("memory") == 1
        assert receiving.ledger.received == 0
        for fault in (MemoryError(), OSError(errno.ENOSPC, "No space left on device")):
            receiving.sink.failures = [fault]
            caught = await failure(client, body)
            assert caught.code() is CODE.UNAVAILABLE
            fault.__traceback__ = None
        assert receiving.counted("grpc") == (0, 6, 0)
        await client.send(body)
        assert receiving.counted("grpc") == (3, 6, 0)


async def test_the_limit_is_counted() -> None:
    async with Receiving(grpc={"max_recv_msg_size_mib": 1}) as receiving:
        async with Client(receiving.grpc) as client:
            for body in (bytes(2 << 20), gzip.compress(bytes(2 << 20))):
                caught = await failure(client, body)
                assert caught.code() is CODE.RESOURCE_EXHAUSTED
            assert receiving.rejected("msg_too_large") == 2


def break_id(message: ExportTraceServiceRequest, number: int) -> None:
    span = message.resource_spans[0].scope_spans[0].spans[number]
    span.trace_id = span.trace_id[: number % 16]


async def test_bad_spans_are_cut_out_and_reported() -> None:
    async with grpc_only() as (receiving, client):
        message = request(5)
        ids = span_ids(message)
        break_id(message, 1)
        message.resource_spans[0].scope_spans[0].spans[3].span_id = bytes(8)
        answer = await client.send(message)
        assert answer.partial_success.rejected_spans == 2
        assert "2 of 5" in answer.partial_success.error_message
        assert "id" in answer.partial_success.error_message
        assert receiving.sink.span_ids() == [ids[0], ids[2], ids[4]]
        (payload,) = receiving.sink.payloads
        assert payload.spans == 3
        assert payload.lease.size == payload.size == receiving.budget.used
        assert receiving.ledger.dropped == {"invalid_id": 2}
        assert (receiving.ledger.received, receiving.ledger.sent) == (5, 3)
        assert receiving.counted("grpc") == (3, 2, 0)
        del payload


async def test_nothing_but_bad_spans_goes_no_further() -> None:
    async with grpc_only() as (receiving, client):
        message = request(2)
        break_id(message, 0)
        break_id(message, 1)
        answer = await client.send(message)
        assert answer.partial_success.rejected_spans == 2
        assert receiving.sink.calls == 0
        assert receiving.ledger.dropped == {"invalid_id": 2}


async def test_text_is_checked_when_asked() -> None:
    message = request(3)
    message.resource_spans[0].scope_spans[0].spans[1].name = "Gxt"
    body = message.SerializeToString().replace(b"Gxt", b"G\xfft")
    async with grpc_only() as (receiving, client):
        assert await client.send(body) == ExportTraceServiceResponse()
        assert receiving.counted("grpc") == (3, 0, 0)
    async with grpc_only(validate="deep") as (receiving, client):
        answer = await client.send(body)
        assert answer.partial_success.rejected_spans == 1
        assert "UTF-8" in answer.partial_success.error_message
        assert receiving.ledger.dropped == {"invalid_text": 1}
        assert receiving.sink.spans == 2


@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize(
    ("error", "code", "delay", "outcome", "counted"),
    [
        (RefusedError("full", 0.3), CODE.UNAVAILABLE, 0.3, "refused", (0, 5, 0)),
        (RefusedError("full"), CODE.UNAVAILABLE, 1.0, "refused", (0, 5, 0)),
        (RejectedError("bad"), CODE.INVALID_ARGUMENT, None, "rejected", (0, 5, 0)),
        (ZeroDivisionError("bug"), CODE.INTERNAL, None, "rejected", (0, 0, 5)),
    ],
)
async def test_what_is_behind_refuses(
    error: Exception, code: Any, delay: float, outcome: str, counted: Any, bad: int
) -> None:
    async with grpc_only() as (receiving, client):
        receiving.sink.failures = [error]
        receiving.frames_are_logged = isinstance(error, ZeroDivisionError)
        message = request(5)
        for number in range(bad):
            break_id(message, number)
        caught = await failure(client, message)
        assert caught.code() is code
        details = dict(caught.trailing_metadata()).get("grpc-status-details-bin")
        assert (retry_delay(details) if details else None) == delay
        assert getattr(receiving.ledger, outcome) == receiving.ledger.received == 5
        assert receiving.ledger.dropped == {}
        assert receiving.counted("grpc") == counted
        answer = await client.send(message)
        assert answer.partial_success.rejected_spans == bad
        assert receiving.sink.spans == 5 - bad


async def test_a_defect_of_its_own_is_internal(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(payload: Any) -> None:
        raise ZeroDivisionError("secret")

    async with grpc_only() as (receiving, client):
        receiving.receiver.downstream = broken
        receiving.frames_are_logged = True
        with caplog.at_level(logging.ERROR):
            caught = await failure(client, request(5))
        assert caught.code() is CODE.INTERNAL
        assert "secret" not in caught.details()
        assert "secret" in caplog.text
        assert receiving.ledger.rejected == 5
        assert receiving.counted("grpc") == (0, 0, 5)


async def test_refused_spans_are_told_of_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with grpc_only() as (receiving, client):
        receiving.sink.failures = [RefusedError("the queue of otlp is full")] * 3
        for _ in range(3):
            await failure(client, request(5))
        receiving.receiver.drops.lines.flush()
        losses = receiving.context.metrics.losses
        sample = losses.samples[Loss("receivers", "otlp", "refused", "")]
    lines = [one.__dict__ for one in caplog.records if one.levelno == logging.WARNING]
    assert [one["spans"] for one in lines] == [5, 10]
    for line in lines:
        assert line["message"] == "refused spans: the queue of otlp is full"
        assert line["service"] == sample.service == "apiserver"
        assert line["peer"] == sample.peer
        assert "reason" not in line


async def test_a_client_that_goes_away_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with grpc_only() as (receiving, client):
        await client.send(request(1))  # the connection is there before the time begins
        receiving.sink.gate = asyncio.Event()
        caught = await failure(client, request(5), timeout=1)
        assert caught.code() is CODE.DEADLINE_EXCEEDED
        async with asyncio.timeout(20):
            while not receiving.ledger.refused:  # noqa: ASYNC110  (it has no event)
                await asyncio.sleep(0.001)
        receiving.sink.gate.set()
        await client.send(request(1))
        assert receiving.ledger.refused == 5
        assert receiving.counted("grpc") == (2, 5, 0)
    assert "refused spans: their sender went away, or its deadline was over" in caplog.text


async def test_metadata_comes_along_when_asked() -> None:
    async with Receiving(grpc={"include_metadata": True}) as receiving:
        async with Client(receiving.grpc) as client:
            await client.send(request(1), metadata=(("x-tenant", "blue"),))
        (payload,) = receiving.sink.payloads
        assert payload.origin is not None
        assert dict(payload.origin.metadata)["x-tenant"] == "blue"
        del payload


async def test_unknown_methods_are_counted() -> None:
    async with grpc_only() as (receiving, client):
        caught = await failure(client, b"", path=f"{PATH}s")
        assert caught.code() is CODE.UNIMPLEMENTED
        assert receiving.rejected("unknown_method") == 1


async def test_what_is_cut_out_and_rejected_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = request(4, resources=2)
    bad.resource_spans[1].resource.attributes[0].value.string_value = "etcd"
    bad.resource_spans[1].scope_spans[0].spans[0].span_id = b""
    async with grpc_only() as (receiving, client):
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await failure(client, b"\x1f")
                await client.send(bad)
            assert len(caplog.records) == 2
            receiving.receiver.drops.lines.flush()
        assert receiving.ledger.dropped == {"invalid_id": 3}
        assert receiving.rejected("decode_error") == 3
    lines = [r.__dict__ for r in caplog.records if r.levelno == logging.WARNING]
    requests, spans, more_requests, more_spans = lines
    assert requests["message"].startswith("rejected requests: ")
    assert requests["peer"].startswith("127.0.0.1:")
    assert (requests["reason"], requests["requests"]) == ("decode_error", 1)
    assert spans["message"] == (
        "dropped spans: of 4 in a request, 1 with an invalid trace or span id"
    )
    assert (spans["reason"], spans["spans"], spans["service"]) == ("invalid_id", 1, "etcd")
    assert (more_requests["requests"], more_spans["spans"]) == (2, 2)


async def test_spans_that_are_rejected_behind_are_counted_by_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with grpc_only() as (receiving, client):
        receiving.sink.failures = [RejectedError("never", "queue_full")]
        caught = await failure(client, request(5))
        assert caught.code() is CODE.INVALID_ARGUMENT
        assert receiving.ledger.rejected == 5
        metrics = receiving.context.metrics
        assert metrics.counter(SPANS_REJECTED, "otlp", "queue_full").value == 5
        ((loss, sample),) = metrics.losses.samples.items()
    assert loss == ("receivers", "otlp", "rejected", "queue_full")
    assert (sample.service, sample.text) == ("apiserver", "never")
    (line,) = [r.__dict__ for r in caplog.records if r.levelno == logging.WARNING]
    assert line["message"] == "rejected spans: never"
    assert (line["reason"], line["spans"]) == ("queue_full", 5)


# Any bytes


def mutations() -> st.SearchStrategy[bytes]:
    body = request(4, resources=2).SerializeToString()

    def flip(positions: list[int]) -> bytes:
        data = bytearray(body)
        for position in positions:
            data[position // 8 % len(data)] ^= 1 << position % 8
        return bytes(data)

    cut = st.integers(0, len(body)).map(lambda end: body[:end])
    flipped = st.lists(st.integers(0, 8 * len(body)), min_size=1, max_size=8).map(flip)
    return st.one_of(st.binary(max_size=200), cut, flipped)


@settings(
    suppress_health_check=[
        *settings().suppress_health_check,
        HealthCheck.function_scoped_fixture,
    ]
)
@pytest.mark.parametrize("validate", ["span", "deep"])
@given(body=mutations())
def test_any_bytes_are_answered_and_accounted(validate: str, body: bytes) -> None:
    receiving = Receiving(grpc={}, validate=validate)
    export: Callable[..., Any] = receiving.receiver._export
    counts = receiving.receiver._counts["grpc"]
    call = Call(body, Origin("peer:1"), receiving.budget.lease(len(body), "peer"))
    answer = b""
    try:
        export(counts, call).send(None)
    except StopIteration as done:
        answer = done.value
    except MalformedPayloadError:
        assert receiving.rejected("decode_error") == 1
        assert receiving.ledger.received == 0
    ledger = receiving.ledger
    dropped = sum(ledger.dropped.values())
    assert ledger.in_flight == 0
    assert ledger.received == ledger.sent + dropped
    response = ExportTraceServiceResponse.FromString(answer)
    assert response.partial_success.rejected_spans == dropped
    assert receiving.sink.spans == ledger.sent
    for payload in receiving.sink.payloads:
        assert all(payload.chunks)
        if validate == "deep":
            assert len(span_ids(parse(payload.chunks))) == payload.spans
    del call, export


# Life


async def test_both_protocols(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with Receiving(grpc={}, http={}) as receiving:
            assert set(receiving.receiver.addresses) == {"grpc", "http"}
            assert f"grpc on {receiving.grpc}" in caplog.text
            assert f"http on {receiving.receiver.addresses['http']}" in caplog.text


async def test_when_one_protocol_cannot_start_none_does() -> None:
    async with Receiving(http={}) as other:
        taken = other.receiver.addresses["http"]
        receiving = Receiving(grpc={}, http={"endpoint": taken})
        with pytest.raises(OSError, match="in use") as caught:
            await receiving.receiver.start()
        assert taken in str(caught.value)
        assert receiving.receiver.addresses == {}
        receiving = Receiving(grpc={"endpoint": taken}, http={})
        with pytest.raises(OSError, match="in use") as caught:
            await receiving.receiver.start()
        assert taken in str(caught.value)


async def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "otlp.sock"
    async with Receiving(grpc={"transport": "unix", "endpoint": str(path)}) as receiving:
        async with Client(receiving.grpc) as client:
            await client.send(request(2))
        (payload,) = receiving.sink.payloads
        assert payload.origin is not None
        assert payload.origin.peer == "unix:"
        del payload
    assert not path.exists()


async def test_stop_lets_running_requests_end_and_is_safe_twice() -> None:
    async with Receiving(grpc={}) as receiving, Client(receiving.grpc) as client:
        receiving.sink.gate = gate = asyncio.Event()
        sending = asyncio.ensure_future(client.send(request(3)))
        async with asyncio.timeout(20):
            while not receiving.sink.calls:  # noqa: ASYNC110  (it has no event)
                await asyncio.sleep(0.001)
        deadline = asyncio.get_running_loop().time() + 20
        stopping = asyncio.ensure_future(receiving.receiver.stop(deadline))
        await asyncio.sleep(0)
        gate.set()
        await sending
        await stopping
        await receiving.receiver.stop(deadline)
        assert receiving.sink.spans == 3


async def test_stop_cancels_at_its_deadline() -> None:
    async with Receiving(grpc={}) as receiving, Client(receiving.grpc) as client:
        receiving.sink.gate = asyncio.Event()
        sending = asyncio.ensure_future(failure(client, request(3)))
        async with asyncio.timeout(20):
            while not receiving.sink.calls:  # noqa: ASYNC110  (it has no event)
                await asyncio.sleep(0.001)
        await receiving.receiver.stop(0)
        assert (await sending).code() in (CODE.UNAVAILABLE, CODE.CANCELLED)
        assert receiving.ledger.refused == 3


async def test_stop_without_start() -> None:
    receiver = OTLP(
        configured(OTLP, {"protocols": {"grpc": None, "http": None}}),
        context("receivers", "otlp"),
        edge_to(Sink())[0],
    )
    await receiver.stop(0)
    assert receiver.addresses == {}
