"""A component's tracing, against a real OTLP server."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision

from k8strace.kube import provider as module
from k8strace.kube.provider import Tracing, sampler, target, tracer_provider
from k8strace.kube.tracing_config import TracingConfiguration
from tests.support.backend import Backend

ALWAYS = 1_000_000


def spans(tracing: Tracing, number: int) -> None:
    tracer = tracing.provider.get_tracer("test")
    for index in range(number):
        tracer.start_span(f"span {index}").end()


async def test_spans_come_to_the_gateway_with_the_components_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=blue,service.name=no")
    async with Backend() as backend:
        config = TracingConfiguration(
            endpoint=backend.endpoint, sampling_rate_per_million=ALWAYS
        )
        tracing = tracer_provider(config, "webhook", {"service.instance.id": "w-1"})
        spans(tracing, 700)
        await asyncio.to_thread(tracing.shut_down)
        await backend.wait_for_spans(700)
        found = {
            attribute.key: attribute.value.string_value
            for request in backend.requests
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
        }
    assert found["service.name"] == "webhook"
    assert found["service.instance.id"] == "w-1"
    assert found["k8s.cluster.name"] == "blue"
    assert (tracing.ended, tracing.sent, tracing.failed, tracing.dropped) == (
        700,
        700,
        0,
        0,
    )


@pytest.mark.slow
async def test_a_gateway_that_is_down_costs_spans_and_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Backend() as backend:
        endpoint = backend.endpoint
    config = TracingConfiguration(endpoint=endpoint, sampling_rate_per_million=ALWAYS)
    tracing = tracer_provider(config, "webhook")
    spans(tracing, 3 * module.QUEUE)
    assert tracing.ended == 3 * module.QUEUE
    assert tracing.dropped >= module.QUEUE - module.BATCH
    assert tracing.sent == 0
    # Nothing of it may go on behind the test: what waits is given up at once.
    monkeypatch.setattr(OTLPSpanExporter, "export", lambda *_: SpanExportResult.FAILURE)
    await asyncio.to_thread(tracing.shut_down)
    assert tracing.sent == 0


def test_without_a_configuration_there_are_no_spans() -> None:
    tracing = tracer_provider(None, "webhook")
    span = tracing.provider.get_tracer("test").start_span("x")
    assert not span.is_recording()
    tracing.shut_down()
    assert (tracing.ended, tracing.sent, tracing.failed, tracing.dropped) == (0, 0, 0, 0)


@pytest.mark.parametrize("rate", [None, 0, 1, 100_000, ALWAYS])
def test_roots_are_sampled_at_the_rate(rate: int | None) -> None:
    """Small ids are kept, as Go's TraceIDRatioBased keeps them."""
    chosen = sampler(TracingConfiguration(sampling_rate_per_million=rate))
    random = Random(7)
    ids = [random.getrandbits(128) for _ in range(20_000)]
    kept = [
        one
        for one in ids
        if chosen.should_sample(None, one, "x").decision is Decision.RECORD_AND_SAMPLE
    ]
    # Go's: the lower 63 of the upper bits of the id's second half, below the rate's part.
    assert kept == [one for one in ids if (one % 2**64 >> 1) * 1e6 < (rate or 0) * 2**63]


@pytest.mark.parametrize("sampled", [True, False])
def test_callers_decide_for_their_traces(sampled: bool) -> None:
    parent = trace.NonRecordingSpan(
        trace.SpanContext(7, 7, is_remote=True, trace_flags=trace.TraceFlags(int(sampled)))
    )
    context = trace.set_span_in_context(parent)
    for rate in (None, ALWAYS):
        chosen = sampler(TracingConfiguration(sampling_rate_per_million=rate))
        decision = chosen.should_sample(context, 7, "x").decision
        assert (decision is Decision.RECORD_AND_SAMPLE) == sampled


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (None, "localhost:4317"),
        ("collector:4317", "collector:4317"),
        ("dns:///collector:4317", "dns:///collector:4317"),
        ("dns://8.8.8.8/collector:4317", "dns:///collector:4317"),
        ("dns://collector:4317", "dns:///collector:4317"),
        ("unix:///run/otel.sock", "unix:/run/otel.sock"),
        ("unix-abstract://otel", "unix-abstract:otel"),
    ],
)
def test_endpoints(endpoint: str | None, expected: str) -> None:
    assert target(endpoint) == expected
