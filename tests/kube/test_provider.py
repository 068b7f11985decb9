"""A component's tracing, against a real OTLP server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import Decision
from prometheus_client import CollectorRegistry

from k8strace.kube import provider as module
from k8strace.kube.provider import Tracing, sampler, target, tracer_provider
from k8strace.kube.tracing_config import TracingConfiguration, TracingConfigurationError
from tests.support.backend import Backend
from tests.support.certificates import Authority
from tests.support.gateway import METRICS_PORT, GatewayProcess

ALWAYS = 1_000_000
NOBODY = "127.0.0.1:1"
GATEWAY = """
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "{socket}", transport: unix}}}}}}
exporters:
  debug:
service:
  pipelines:
    traces: {{receivers: [otlp], exporters: [debug]}}
"""


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


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test need not wait for the defaults; a try and one more fit in it."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3000")  # milliseconds, too


async def until(condition: Callable[[], bool]) -> None:
    """The SDK's thread counts: there is no event to wait for."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def balanced(tracing: Tracing) -> bool:
    over = tracing.sent + tracing.failed + tracing.dropped
    return tracing.ended == over + tracing.waiting


async def test_a_gateway_that_hangs_costs_spans_and_no_time() -> None:
    """None of the spans waits: the first request has no answer when the last has ended."""
    hangs, released = asyncio.Event(), asyncio.Event()

    async def hang(_: object) -> None:
        hangs.set()
        await released.wait()

    async with Backend() as backend:
        backend.answer = hang
        tracing = tracer_provider(
            TracingConfiguration(
                endpoint=backend.endpoint, sampling_rate_per_million=ALWAYS
            ),
            "webhook",
        )
        spans(tracing, module.BATCH)
        await hangs.wait()
        spans(tracing, 2 * module.QUEUE)
        assert (tracing.sent, tracing.failed) == (0, 0)
        assert tracing.dropped == module.QUEUE
        assert tracing.waiting == module.BATCH + module.QUEUE
        released.set()
        await asyncio.to_thread(tracing.shut_down)
        assert tracing.sent == module.BATCH + module.QUEUE == backend.spans
    assert balanced(tracing)
    assert tracing.waiting == 0


@pytest.mark.usefixtures("fast")
async def test_shutting_down_is_over_when_its_time_is() -> None:
    """With nobody there each batch would be tried in its turn."""
    config = TracingConfiguration(endpoint=NOBODY, sampling_rate_per_million=ALWAYS)
    tracing = tracer_provider(config, "webhook")
    spans(tracing, module.QUEUE)
    await asyncio.to_thread(tracing.shut_down, 0.1)
    assert tracing.failed + tracing.dropped == module.QUEUE
    spans(tracing, 7)
    assert (tracing.ended, tracing.waiting) == (module.QUEUE + 7, 0)
    assert balanced(tracing)


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
async def test_a_gateway_that_comes_late_goes_away_and_comes_back(tmp_path: Path) -> None:
    endpoint = f"unix://{tmp_path}/otlp.sock"
    path = tmp_path / "gateway.yaml"
    path.write_text(GATEWAY.format(socket=tmp_path / "otlp.sock"))
    arguments = ("--config", str(path), "--set", METRICS_PORT)
    config = TracingConfiguration(endpoint=endpoint, sampling_rate_per_million=ALWAYS)
    tracing = tracer_provider(config, "webhook")
    for _ in range(2):
        before = tracing.sent
        spans(tracing, 100)  # it is not there
        async with GatewayProcess(*arguments, out=tmp_path / "out") as gateway:
            spans(tracing, 1000)
            await until(lambda: tracing.waiting == 0)
            samples = await gateway.at_rest()
            arrived = samples.sum("otelcol_receiver_accepted_spans_total")
            assert arrived == tracing.sent - before >= 1000
    spans(tracing, 10)
    await asyncio.to_thread(tracing.shut_down, 0.1)
    assert tracing.ended == tracing.sent + tracing.failed == 2210
    assert tracing.failed >= 10


async def test_counts_are_metrics() -> None:
    registry = CollectorRegistry()
    async with Backend() as backend:
        config = TracingConfiguration(
            endpoint=backend.endpoint, sampling_rate_per_million=ALWAYS
        )
        tracing = tracer_provider(config, "webhook")
        registry.register(tracing)
        spans(tracing, 3)
        assert registry.get_sample_value("k8strace_component_spans_waiting") == 3
        await asyncio.to_thread(tracing.shut_down)
    spans(tracing, 2)
    assert [
        registry.get_sample_value("k8strace_component_spans_total", {"outcome": outcome})
        for outcome in ("sent", "failed", "dropped")
    ] == [3, 0, 2]
    assert registry.get_sample_value("k8strace_component_spans_waiting") == 0


@pytest.mark.parametrize(
    ("value", "expected"), [("700", 700), ("none", 2048), ("-1", 2048)]
)
async def test_the_environment_is_heeded(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    """As the Go SDK does it: what is no number is passed over, a batch fits the queue."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", value)
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5000")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    async with Backend() as backend:
        config = TracingConfiguration(
            endpoint=backend.endpoint, sampling_rate_per_million=ALWAYS
        )
        tracing = tracer_provider(config, "webhook")
        spans(tracing, expected)
        await backend.wait_for_spans(expected)
        await asyncio.to_thread(tracing.shut_down)
        assert len(backend.requests) == 1
        assert backend.metadata[0]["x-tenant"] == "blue"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 10),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "100000"}, 100),
        (
            {
                "OTEL_EXPORTER_OTLP_TIMEOUT": "100000",
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "50000",
            },
            50,
        ),
    ],
)
async def test_timeouts_are_milliseconds(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int
) -> None:
    """What is left of it when a request is there, which may take a while.

    gRPC's core sends three digits of a deadline and rounds up: 10.1 s of 10 s and a bit.
    """
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    left: list[float] = []

    class Seeing(Backend):
        async def _export(self, message: Any, context: Any) -> Any:
            left.append(context.time_remaining())
            return await super()._export(message, context)

    async with Seeing() as backend:
        config = TracingConfiguration(
            endpoint=backend.endpoint, sampling_rate_per_million=ALWAYS
        )
        tracing = tracer_provider(config, "webhook")
        spans(tracing, 1)
        await asyncio.to_thread(tracing.shut_down)
    assert expected / 2 < left[0] <= expected * 1.02


OTLP = "OTEL_EXPORTER_OTLP_"


async def sends(endpoint: str | None, backend: Backend) -> bool:
    """Whether a span comes to the backend."""
    config = TracingConfiguration(endpoint=endpoint, sampling_rate_per_million=ALWAYS)
    tracing = tracer_provider(config, "webhook")
    spans(tracing, 1)
    await asyncio.to_thread(tracing.shut_down)
    return backend.spans == 1


@pytest.mark.parametrize("name", ["ENDPOINT", "TRACES_ENDPOINT"])
async def test_the_environment_names_the_endpoint_where_the_file_does_not(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with Backend() as named, Backend() as configured:
        monkeypatch.setenv(f"{OTLP}ENDPOINT", f"http://{NOBODY}")
        monkeypatch.setenv(OTLP + name, f"http://{named.endpoint}")
        assert await sends(None, named)
        assert await sends(configured.endpoint, configured)
        assert named.spans == 1


async def test_certificates_of_the_environment_are_tls(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    """Whatever scheme the endpoint has, as with Go's exporter."""
    server = authority.issue()
    pairs = [(server.key.read_bytes(), server.cert.read_bytes())]
    async with Backend(credentials=grpc.ssl_server_credentials(pairs)) as backend:
        monkeypatch.setenv(f"{OTLP}CERTIFICATE", str(authority.cert))
        assert await sends(f"localhost:{backend.port}", backend)


async def test_https_without_a_certificate_is_not_plaintext(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")
    async with Backend() as backend:
        monkeypatch.setenv(f"{OTLP}ENDPOINT", f"https://localhost:{backend.port}")
        assert not await sends(None, backend)


@pytest.mark.parametrize("prefix", ["", "TRACES_"])
async def test_client_certificates_of_the_environment_are_shown(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, prefix: str
) -> None:
    server, client = authority.issue(), authority.issue("/CN=webhook")
    credentials = grpc.ssl_server_credentials(
        [(server.key.read_bytes(), server.cert.read_bytes())],
        root_certificates=authority.cert.read_bytes(),
        require_client_auth=True,
    )
    monkeypatch.setenv(f"{OTLP}{prefix}CERTIFICATE", str(authority.cert))
    monkeypatch.setenv(f"{OTLP}{prefix}CLIENT_CERTIFICATE", str(client.cert))
    monkeypatch.setenv(f"{OTLP}{prefix}CLIENT_KEY", str(client.key))
    async with Backend(credentials=credentials) as backend:
        assert await sends(f"localhost:{backend.port}", backend)


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"ENDPOINT": "localhost:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT: 'localhost:4317'"),
        ({"TRACES_ENDPOINT": "x"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'x' is not an"),
        (
            {"CERTIFICATE": "/none.pem"},
            "OTEL_EXPORTER_OTLP_CERTIFICATE: /none.pem: No such",
        ),
        ({"CLIENT_CERTIFICATE": __file__}, "OTEL_EXPORTER_OTLP_CLIENT_KEY: one without"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], error: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(OTLP + name, value)
    with pytest.raises(TracingConfigurationError, match=error):
        tracer_provider(TracingConfiguration(), "webhook")


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
