"""A backend that refuses, throttles, hangs, dies and comes back costs no span."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from k8strace.grpc.status import Code, StatusError
from tests.end_to_end.conftest import Start
from tests.support.backend import Answer, Backend
from tests.support.clients import Client
from tests.support.gateway import GatewayProcess
from tests.support.requests import request, span_ids


async def send(gateway: GatewayProcess, requests: int, spans: int = 50) -> set[bytes]:
    """Send some, one after the other; the span ids that were acknowledged."""
    ids: set[bytes] = set()
    async with Client(await gateway.address("grpc")) as client:
        for _ in range(requests):
            message = request(spans)
            answer = await client.send(message)
            assert not answer.HasField("partial_success")
            ids.update(span_ids(message))
    return ids


async def assert_all_arrived(
    gateway: GatewayProcess, backend: Backend, ids: set[bytes]
) -> None:
    await backend.wait_for_spans(len(ids))
    samples = await gateway.wait_for_metric("otelcol_exporter_sent_spans_total", len(ids))
    samples.assert_balanced()
    assert set(backend.ids) == ids
    assert max(backend.ids.values()) == 1
    assert samples.sum("k8strace_spans_dropped_total") == 0
    assert await gateway.stop() == 0


async def test_refuses_then_takes(start: Start) -> None:
    failures = [
        StatusError(Code.UNAVAILABLE, "not now"),
        StatusError(Code.ABORTED, "not now"),
        StatusError(Code.RESOURCE_EXHAUSTED, "slowly", 0.05),
        StatusError(Code.UNAVAILABLE, "slowly", 0.05),
    ]

    async def answer(message: ExportTraceServiceRequest) -> None:
        if failures:
            raise failures.pop(0)

    async with Backend() as backend:
        backend.answer = answer
        async with start(backend.endpoint) as gateway:
            ids = await send(gateway, 20)
            await assert_all_arrived(gateway, backend, ids)
    assert not failures


async def test_hangs(start: Start) -> None:
    hanging = asyncio.Event()
    calls = 0

    async def answer(message: ExportTraceServiceRequest) -> None:
        nonlocal calls
        calls += 1
        if calls <= 2:
            await hanging.wait()

    async with Backend() as backend:
        backend.answer = answer
        async with start(backend.endpoint, timeout="1s") as gateway:
            ids = await send(gateway, 10)
            await assert_all_arrived(gateway, backend, ids)
        hanging.set()
    assert calls > 2


async def test_dies_and_comes_back(start: Start) -> None:
    async with Backend() as backend, start(backend.endpoint) as gateway:
        ids = await send(gateway, 5)
        # The answers are back, too: what was taken is not sent again.
        await gateway.wait_for_metric("otelcol_exporter_sent_spans_total", len(ids))
        await backend.stop()
        ids |= await send(gateway, 20)
        await backend.start()
        await assert_all_arrived(gateway, backend, ids)


async def test_rejects_for_good(start: Start) -> None:
    async def answer(message: ExportTraceServiceRequest) -> None:
        raise StatusError(Code.INVALID_ARGUMENT, "no such tenant")

    async with Backend() as backend:
        backend.answer = answer
        async with start(backend.endpoint) as gateway:
            ids = await send(gateway, 3)
            samples = await gateway.wait_for_metric(
                "k8strace_spans_dropped_total", len(ids), reason="permanent_error"
            )
            samples.assert_balanced()
            assert samples.sum("otelcol_exporter_send_failed_spans_total") == len(ids)
            await gateway.wait_for_log("no such tenant")


async def test_partial_success_is_not_counted_as_sent(start: Start) -> None:
    async def answer(message: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
        response = ExportTraceServiceResponse()
        response.partial_success.rejected_spans = 7
        response.partial_success.error_message = "seven are too old"
        return response

    async with Backend() as backend:
        backend.answer = answer
        async with start(backend.endpoint) as gateway:
            await send(gateway, 1)
            samples = await gateway.wait_for_metric(
                "k8strace_spans_dropped_total", 7, reason="partial_success"
            )
            assert samples.sum("otelcol_exporter_sent_spans_total") == 43
            samples.assert_balanced()
            await gateway.wait_for_log("seven are too old")


def rejecting(poison: ExportTraceServiceRequest) -> Answer:
    """Refuses for good whatever holds a span of `poison`."""
    poisoned = set(span_ids(poison))

    async def answer(message: ExportTraceServiceRequest) -> None:
        if poisoned & set(span_ids(message)):
            raise StatusError(Code.INVALID_ARGUMENT, "poison")

    return answer


async def test_only_the_sender_of_a_poisoned_request_is_told_of_it(start: Start) -> None:
    """Where answers wait for the backend's."""
    poison = request(5)
    async with Backend() as backend:
        backend.answer = rejecting(poison)
        processors = {"batch": {"timeout": "10s", "send_batch_size": 50}}
        queue = {"wait_for_result": True}
        async with start(
            backend.endpoint, processors=processors, sending_queue=queue
        ) as gateway:
            messages = [poison if number == 3 else request(5) for number in range(10)]
            async with Client(await gateway.address("grpc")) as client:
                answers = await asyncio.gather(
                    *(client.send(message) for message in messages), return_exceptions=True
                )
            samples = await gateway.at_rest()
            samples.assert_balanced()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert samples.sum("otelcol_exporter_sent_spans_total") == 45
    (error,) = (one for one in answers if isinstance(one, BaseException))
    assert error is answers[3]
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert backend.spans == 45


async def test_one_poisoned_request_among_fifty_costs_only_itself(start: Start) -> None:
    poison = request(5)
    async with Backend() as backend:
        backend.answer = rejecting(poison)
        processors = {"batch": {"timeout": "10s", "send_batch_size": 250}}
        async with start(backend.endpoint, processors=processors) as gateway:
            ids: set[bytes] = set()
            async with Client(await gateway.address("grpc")) as client:
                for number in range(50):
                    message = poison if number == 17 else request(5)
                    await client.send(message)
                    ids.update(span_ids(message))
            await backend.wait_for_spans(245)
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 5
            await gateway.wait_for_log("poison")
    assert set(backend.ids) == ids - set(span_ids(poison))
    assert max(backend.ids.values()) == 1
