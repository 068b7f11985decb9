"""A component's tracer provider: the OpenTelemetry SDK, set up as component-base does it.

Traces are begun at `samplingRatePerMillion`, those of callers are gone on with as they
say; spans go out over OTLP/gRPC, unencrypted, in batches of 512 every five seconds at the
latest. The component never waits: where the gateway is down, spans are dropped and counted.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.util.types import AttributeValue

from k8strace.kube.tracing_config import MILLION, TracingConfiguration

DEFAULT_ENDPOINT = "localhost:4317"
QUEUE = 2048  # spans; these are the defaults of the Go SDK
BATCH = 512
DELAY = 5.0  # seconds
TIMEOUT = 10.0


class Tracing:
    """A component's tracing: give `provider` to what makes spans; `shut_down` at the end.

    `ended` spans were sampled and are over; of them `sent` were taken by the gateway,
    `failed` not, and `dropped` found no room because it was too slow or not there. The
    rest waits.
    """

    def __init__(
        self, provider: trace.TracerProvider, processor: Counting | None = None
    ) -> None:
        self.provider = provider
        self._processor = processor

    @property
    def ended(self) -> int:
        return self._processor.ended if self._processor else 0

    @property
    def sent(self) -> int:
        return self._processor.sent if self._processor else 0

    @property
    def failed(self) -> int:
        return self._processor.failed if self._processor else 0

    @property
    def dropped(self) -> int:
        return self._processor.dropped if self._processor else 0

    def shut_down(self) -> None:
        """Send what waits, then stop; takes as long as one request at the most."""
        if isinstance(self.provider, TracerProvider):
            self.provider.shutdown()


def tracer_provider(
    config: TracingConfiguration | None,
    service_name: str,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Tracing:
    """The tracing that `config` asks for; None makes no spans, but context still passes.

    `attributes` are the resource's, over those of OTEL_RESOURCE_ATTRIBUTES;
    OTEL_EXPORTER_OTLP_HEADERS gives headers, as in Kubernetes' components.
    """
    if config is None:
        return Tracing(trace.NoOpTracerProvider())
    resource = OTELResourceDetector().detect()
    resource = resource.merge(
        Resource({"service.name": service_name, **(attributes or {})})
    )
    processor = Counting(
        OTLPSpanExporter(endpoint=target(config.endpoint), insecure=True, timeout=TIMEOUT)
    )
    provider = TracerProvider(
        sampler=sampler(config), resource=resource, shutdown_on_exit=False
    )
    provider.add_span_processor(processor)
    return Tracing(provider, processor)


def sampler(config: TracingConfiguration) -> Sampler:
    """Parents decide; roots are kept by the lower half of their trace id, or never."""
    rate = config.sampling_rate_per_million
    return ParentBased(TraceIdRatioBased(rate / MILLION) if rate else ALWAYS_OFF)


def target(endpoint: str | None) -> str:
    """`endpoint` as the exporter takes it.

    It would take the resolver of dns://resolver/host:port for the host: the system's own
    resolver is asked instead.
    """
    scheme, separator, rest = (endpoint or DEFAULT_ENDPOINT).partition("://")
    if not separator:
        return scheme
    if scheme.lower() == "dns":
        return f"dns:///{rest.partition('/')[2] or rest}"
    return f"{scheme.lower()}:{rest}"


class Counting(SpanProcessor):
    """The SDK's batches, behind a count of what they hold: what is over it is dropped."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.ended = 0
        self.sent = 0
        self.failed = 0
        self.dropped = 0
        self._waiting = 0
        self._lock = threading.Lock()
        self._batches = BatchSpanProcessor(
            _Told(exporter, self),
            max_queue_size=QUEUE,
            schedule_delay_millis=DELAY * 1000,
            max_export_batch_size=BATCH,
        )

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._batches.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        with self._lock:
            self.ended += 1
            if self._waiting >= QUEUE:
                self.dropped += 1
                return
            self._waiting += 1
        self._batches.on_end(span)

    def taken(self, spans: int) -> None:
        """They wait no longer."""
        with self._lock:
            self._waiting -= spans

    def over(self, spans: int, *, was_sent: bool) -> None:
        with self._lock:
            if was_sent:
                self.sent += spans
            else:
                self.failed += spans

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return bool(self._batches.force_flush(timeout_millis))


class _Told(SpanExporter):
    """An exporter whose outcomes are counted."""

    def __init__(self, exporter: SpanExporter, counts: Counting) -> None:
        self._exporter = exporter
        self._counts = counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._counts.taken(len(spans))
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._counts.over(len(spans), was_sent=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
