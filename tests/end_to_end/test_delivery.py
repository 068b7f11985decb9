"""Spans of real components arrive at a real backend, span for span."""

from __future__ import annotations

import re
from collections import Counter

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.end_to_end.conftest import Start
from tests.support.backend import Backend
from tests.support.clients import Client, recorded


def spans(message: ExportTraceServiceRequest) -> Counter[tuple[bytes, bytes, bytes]]:
    """Each span with its resource and scope, as bytes."""
    return Counter(
        (
            resource_spans.resource.SerializeToString(deterministic=True),
            scope_spans.scope.SerializeToString(deterministic=True),
            span.SerializeToString(deterministic=True),
        )
        for resource_spans in message.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    )


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_recorded_requests(start: Start, gzip: bool, compression: str) -> None:
    sent: Counter[tuple[bytes, bytes, bytes]] = Counter()
    async with Backend() as backend:
        async with start(backend.endpoint, compression=compression) as gateway:
            async with Client(await gateway.address("grpc"), gzip=gzip) as client:
                for body in recorded():
                    sent += spans(ExportTraceServiceRequest.FromString(body))
                    await client.send(body)
            await backend.wait_for_spans(sent.total())
            samples = await gateway.wait_for_metric(
                "otelcol_exporter_sent_spans_total", sent.total()
            )
            samples.assert_balanced()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            await gateway.wait_for_metric("k8strace_budget_used_bytes", 0)
            assert await gateway.stop() == 0
    arrived: Counter[tuple[bytes, bytes, bytes]] = Counter()
    for message in backend.requests:
        arrived += spans(message)
    assert arrived == sent


@pytest.mark.parametrize(
    "compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip]
)
async def test_the_opentelemetry_sdk(start: Start, compression: grpc.Compression) -> None:
    async with Backend() as backend, start(backend.endpoint) as gateway:
        exporter = OTLPSpanExporter(
            endpoint=f"http://{await gateway.address('grpc')}",
            insecure=True,
            compression=compression,
        )
        provider = TracerProvider(resource=Resource({"service.name": "operator"}))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        for number in range(1000):
            with tracer.start_as_current_span(f"reconcile {number}"):
                pass
        # The SDK's exporter is synchronous; the gateway is another process.
        provider.shutdown()  # type: ignore[no-untyped-call, unused-ignore]
        await backend.wait_for_spans(1000)
        names = {
            span.name
            for message in backend.requests
            for resource_spans in message.resource_spans
            for scope_spans in resource_spans.scope_spans
            for span in scope_spans.spans
        }
        assert names == {f"reconcile {number}" for number in range(1000)}
        await gateway.at_rest()


async def test_sampling(start: Start) -> None:
    total = sum(
        spans(ExportTraceServiceRequest.FromString(body)).total() for body in recorded()
    )
    processors = {
        "memory_limiter": {"check_interval": "1s", "limit_mib": 400},
        "probabilistic_sampler": {"sampling_percentage": 25},
        "batch": {"timeout": "20ms"},
    }
    async with Backend() as backend:
        async with start(backend.endpoint, processors=processors) as gateway:
            async with Client(await gateway.address("grpc")) as client:
                for body in recorded():
                    await client.send(body)
            samples = await gateway.at_rest()
            kept = samples.sum("k8strace_spans_total", outcome="in", component="batch")
            out = samples.sum("k8strace_spans_total", outcome="sampled_out")
            assert kept + out == total
            assert 0.15 * total < kept < 0.35 * total
            await backend.wait_for_spans(int(kept))
            samples = await gateway.wait_for_metric(
                "otelcol_exporter_sent_spans_total", kept
            )
    states = {
        span.trace_state
        for message in backend.requests
        for resource_spans in message.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    }
    # The hash is the randomness that the threshold is for, and written beside it; what
    # other vendors wrote stays behind.
    assert {re.sub("rv:[0-9a-f]{14}", "rv:…", state) for state in states} == {
        "ot=rv:…;th:c",
        "ot=rv:…;th:c,vendor=abc",
        "ot=rv:…;th:c,vendor=abc,other=1",
    }
    by_trace = Counter(
        span.trace_id
        for message in backend.requests
        for resource_spans in message.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    )
    whole = Counter(
        span.trace_id
        for body in recorded()
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    )
    assert all(whole[trace_id] == count for trace_id, count in by_trace.items())
