"""A component's tracer provider: the OpenTelemetry SDK, set up as component-base does it.

Traces are begun at `samplingRatePerMillion`, those of callers are gone on with as they
say; spans go out over OTLP/gRPC, unencrypted, in batches of 512 every five seconds at the
latest. The component never waits: where the gateway is down, spans are dropped and counted.
The environment that Kubernetes' components heed is heeded: OTEL_EXPORTER_OTLP_HEADERS,
_TIMEOUT and _COMPRESSION, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from ssl import get_default_verify_paths
from urllib.parse import urlsplit

import grpc

from k8strace.kube._extra import missing

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.environment_variables import (
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
        OTEL_BSP_MAX_QUEUE_SIZE,
        OTEL_BSP_SCHEDULE_DELAY,
        OTEL_EXPORTER_OTLP_CERTIFICATE,
        OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE,
        OTEL_EXPORTER_OTLP_CLIENT_KEY,
        OTEL_EXPORTER_OTLP_ENDPOINT,
        OTEL_EXPORTER_OTLP_TIMEOUT,
        OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE,
        OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE,
        OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY,
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
    )
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
except ImportError as error:
    raise missing(error) from error
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from k8strace.kube.tracing_config import (
    MILLION,
    TracingConfiguration,
    TracingConfigurationError,
)

DEFAULT_ENDPOINT = "localhost:4317"
QUEUE = 2048  # spans; these are the defaults of the Go SDK
BATCH = 512
DELAY = 5_000  # milliseconds
TIMEOUT = 10_000  # milliseconds, of a batch with all tries


class Tracing(Collector):
    """A component's tracing: give `provider` to what makes spans; `shut_down` at the end.

    `ended` spans were sampled and are over; of them `sent` were taken by the gateway,
    `failed` not, and `dropped` found no room because it was too slow or not there. The
    rest is `waiting`. It is a collector of prometheus-client, too: `REGISTRY.register` it.
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

    @property
    def waiting(self) -> int:
        return self._processor.waiting if self._processor else 0

    def collect(self) -> Iterator[Metric]:
        """`k8strace_component_spans_total{outcome}` and `…_spans_waiting`."""
        over = CounterMetricFamily(
            "k8strace_component_spans",
            "Sampled spans of this component, by what became of them.",
            labels=["outcome"],
        )
        for outcome in ("sent", "failed", "dropped"):
            over.add_metric([outcome], getattr(self, outcome))
        yield over
        yield GaugeMetricFamily(
            "k8strace_component_spans_waiting",
            "Sampled spans of this component that wait to be sent or for an answer.",
            value=self.waiting,
        )

    def shut_down(self, timeout: float = 10.0) -> None:
        """Send what waits for `timeout` seconds at the most, then stop; the rest failed."""
        if self._processor is None or not isinstance(self.provider, TracerProvider):
            return
        deadline = threading.Timer(timeout, self._processor.give_up)
        deadline.daemon = True
        deadline.start()
        try:
            self.provider.shutdown()
        finally:
            deadline.cancel()


def tracer_provider(
    config: TracingConfiguration | None,
    service_name: str,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Tracing:
    """The tracing that `config` asks for; None makes no spans, but context still passes.

    `attributes` are the resource's, over those of OTEL_RESOURCE_ATTRIBUTES. Connects when
    there is something to send, so that it doesn't matter whether the gateway is there yet.

    Raises:
        TracingConfigurationError: what OTEL_EXPORTER_OTLP_… of the environment names is
            not an endpoint or cannot be read.
    """
    if config is None:
        return Tracing(trace.NoOpTracerProvider())
    resource = OTELResourceDetector().detect()
    resource = resource.merge(
        Resource({"service.name": service_name, **(attributes or {})})
    )
    general = _setting(OTEL_EXPORTER_OTLP_TIMEOUT, TIMEOUT)
    endpoint, is_https = config.endpoint, False
    if endpoint is None:
        endpoint, is_https = _endpoint_of_environment()
    credentials = _credentials(is_https=is_https)
    exporter = OTLPSpanExporter(
        endpoint=target(endpoint),
        insecure=credentials is None,
        credentials=credentials,
        # In milliseconds, as OpenTelemetry has it; Python's SDK takes them for seconds.
        timeout=_setting(OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, general) / 1000,
    )
    processor = Counting(exporter)
    provider = TracerProvider(
        sampler=sampler(config), resource=resource, shutdown_on_exit=False
    )
    provider.add_span_processor(processor)
    return Tracing(provider, processor)


def _endpoint_of_environment() -> tuple[str | None, bool]:
    """The endpoint where the configuration has none, and whether it is https."""
    name, value = _variable(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT)
    if not value:
        return None, False
    url = urlsplit(value)
    if url.scheme in ("http", "https") and url.netloc:
        return url.netloc, url.scheme == "https"
    if url.scheme == "unix" and url.path:
        return f"unix://{url.path}", False
    raise TracingConfigurationError(
        f"{name}: {value!r} is not an endpoint: write http://host:port, or https://"
    )


def _credentials(*, is_https: bool) -> grpc.ChannelCredentials | None:
    """TLS where the environment names certificates, as Go has it, or asks for https."""
    authority = _file(OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE, OTEL_EXPORTER_OTLP_CERTIFICATE)
    chain = _file(
        OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE
    )
    key = _file(OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY, OTEL_EXPORTER_OTLP_CLIENT_KEY)
    if (chain is None) != (key is None):
        raise TracingConfigurationError(
            f"{OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE} and {OTEL_EXPORTER_OTLP_CLIENT_KEY}: "
            "one without the other"
        )
    if authority is None and chain is None and not is_https:
        return None
    if authority is None and (of_system := get_default_verify_paths().cafile):
        authority = Path(of_system).read_bytes()  # gRPC would take roots of its own
    return grpc.ssl_channel_credentials(authority, key, chain)


def _file(*names: str) -> bytes | None:
    """What the file has that the first of these variables names; None for no variable."""
    name, path = _variable(*names)
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise TracingConfigurationError(f"{name}: {path}: {why}") from None


def _variable(*names: str) -> tuple[str, str]:
    """The first of these variables that is set, and its value; "" for none."""
    for name in names:
        if value := os.environ.get(name, ""):
            return name, value
    return names[0], ""


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
    """The SDK's batches, behind a count of what they hold: what is over it is dropped.

    The SDK's own queue drops the oldest and tells nobody; Go's drops the newest.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self.ended = 0
        self.sent = 0
        self.failed = 0
        self.dropped = 0
        self._queued = 0
        self._is_open = True
        self._lock = threading.RLock()  # a collected object may end a span anywhere
        self._exporter = exporter
        self._queue = _setting(OTEL_BSP_MAX_QUEUE_SIZE, QUEUE)
        self._batches = BatchSpanProcessor(
            _Told(exporter, self),
            max_queue_size=self._queue,
            schedule_delay_millis=_setting(OTEL_BSP_SCHEDULE_DELAY, DELAY),
            max_export_batch_size=min(
                _setting(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, BATCH), self._queue
            ),
        )

    @property
    def waiting(self) -> int:
        with self._lock:
            return self.ended - self.sent - self.failed - self.dropped

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._batches.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        with self._lock:
            self.ended += 1
            if not self._is_open or self._queued >= self._queue:
                self.dropped += 1
                return
            self._queued += 1
            # Under the lock, or it could come behind the last batch of a shutdown.
            self._batches.on_end(span)

    def taken(self, spans: int) -> None:
        """They are in the queue no longer."""
        with self._lock:
            self._queued -= spans

    def over(self, spans: int, *, was_sent: bool) -> None:
        with self._lock:
            if was_sent:
                self.sent += spans
            else:
                self.failed += spans

    def give_up(self) -> None:
        """Try no more: what waits, or is under way, fails at once."""
        self._exporter.shutdown()

    def shutdown(self) -> None:
        with self._lock:
            self._is_open = False
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return bool(self._batches.force_flush(timeout_millis))


def _setting(name: str, default: int) -> int:
    """A number of the environment; Go's SDK, too, takes none for the default."""
    try:
        value = int(os.environ.get(name, ""))
    except ValueError:
        return default
    return value if value > 0 else default


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
