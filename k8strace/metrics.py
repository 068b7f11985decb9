"""Every series that the gateway exposes, declared once; and where they are counted.

Names are the OpenTelemetry Collector's (internal telemetry) with the suffixes that
Prometheus gives them; what is ours begins with `k8strace_`. Labels are bound at start;
counting is adding to an integer, once for each payload.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector


class Series(NamedTuple):
    """A declared series. `name` is without `_total`; `buckets` only for histograms."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# The collector's series
RECEIVER_ACCEPTED_SPANS = Series(
    "otelcol_receiver_accepted_spans",
    "Spans taken into the pipelines.",
    ("receiver", "transport"),
)
RECEIVER_REFUSED_SPANS = Series(
    "otelcol_receiver_refused_spans",
    "Spans that could not be taken into the pipelines.",
    ("receiver", "transport"),
)
RECEIVER_FAILED_SPANS = Series(
    "otelcol_receiver_failed_spans",
    "Spans that the receiver itself failed on.",
    ("receiver", "transport"),
)
PROCESSOR_INCOMING_ITEMS = Series(
    "otelcol_processor_incoming_items",
    "Spans passed to the processor.",
    ("processor", "otel_signal"),
)
PROCESSOR_OUTGOING_ITEMS = Series(
    "otelcol_processor_outgoing_items",
    "Spans that the processor passed on.",
    ("processor", "otel_signal"),
)
MEMORY_LIMITER_ACCEPTED_SPANS = Series(
    "otelcol_processor_memory_limiter_accepted_spans",
    "Spans that the memory limiter let through.",
    ("processor",),
)
MEMORY_LIMITER_REFUSED_SPANS = Series(
    "otelcol_processor_memory_limiter_refused_spans",
    "Spans that the memory limiter refused.",
    ("processor",),
)
BATCH_SEND_SIZE = Series(
    "otelcol_processor_batch_batch_send_size",
    "Spans in a batch that was sent.",
    ("processor",),
    (
        *(10, 25, 50, 75, 100, 250, 500, 750, 1000, 2000, 3000, 4000, 5000, 6000, 7000),
        *(8000, 9000, 10000, 20000, 30000, 50000, 100000),
    ),
)
BATCH_SEND_SIZE_BYTES = Series(
    "otelcol_processor_batch_batch_send_size_bytes",
    "Bytes in a batch that was sent.",
    ("processor",),
    tuple(float(2**power) for power in range(7, 25)),
)
BATCH_SIZE_TRIGGER_SEND = Series(
    "otelcol_processor_batch_batch_size_trigger_send",
    "Batches sent because they were full.",
    ("processor",),
)
BATCH_TIMEOUT_TRIGGER_SEND = Series(
    "otelcol_processor_batch_timeout_trigger_send",
    "Batches sent because their time was over, or at the end.",
    ("processor",),
)
BATCH_METADATA_CARDINALITY = Series(
    "otelcol_processor_batch_metadata_cardinality",
    "Distinct combinations of metadata values being batched.",
    ("processor",),
)
SAMPLER_COUNT_TRACES_SAMPLED = Series(
    "otelcol_processor_probabilistic_sampler_count_traces_sampled",
    "Spans that the sampler decided on.",
    ("policy", "sampled"),
)
EXPORTER_SENT_SPANS = Series(
    "otelcol_exporter_sent_spans", "Spans that the destination took.", ("exporter",)
)
EXPORTER_SEND_FAILED_SPANS = Series(
    "otelcol_exporter_send_failed_spans",
    "Spans that were given up after failed sends: lost, or back at their sender.",
    ("exporter",),
)
EXPORTER_ENQUEUE_FAILED_SPANS = Series(
    "otelcol_exporter_enqueue_failed_spans",
    "Spans that the sending queue refused.",
    ("exporter",),
)
EXPORTER_QUEUE_SIZE = Series(
    "otelcol_exporter_queue_size",
    "What the sending queue holds, waiting or being sent, in the unit of its sizer.",
    ("exporter", "data_type"),
)
EXPORTER_QUEUE_CAPACITY = Series(
    "otelcol_exporter_queue_capacity",
    "The size of the sending queue, in the unit of its sizer.",
    ("exporter", "data_type"),
)
EXPORTER_IN_FLIGHT_REQUESTS = Series(
    "otelcol_exporter_in_flight_requests",
    "Requests being sent now.",
    ("exporter", "data_type"),
)
EXPORTER_BATCH_SEND_SIZE = Series(
    "otelcol_exporter_queue_batch_send_size",
    "Spans in a request that the exporter sent.",
    ("exporter",),
    BATCH_SEND_SIZE.buckets,
)
PROCESS_UPTIME = Series("otelcol_process_uptime_seconds", "Seconds since the start.")
PROCESS_CPU = Series("otelcol_process_cpu_seconds", "CPU seconds, user and system.")
PROCESS_RSS = Series("otelcol_process_memory_rss_bytes", "Resident memory of the process.")

# Ours
SPANS = Series(
    "k8strace_spans",
    "Spans by what a component did with them: in + recovered = out + filtered + "
    "sampled_out + rejected + refused + dropped + parked + in_flight.",
    ("kind", "component", "pipeline", "outcome"),
)
SPANS_DROPPED = Series(
    "k8strace_spans_dropped", "Spans lost, by reason.", ("kind", "component", "reason")
)
SPANS_PARKED = Series(
    "k8strace_spans_parked",
    "Spans that wait in a component.",
    ("kind", "component", "pipeline"),
)
SPANS_IN_FLIGHT = Series(
    "k8strace_spans_in_flight",
    "Spans that a component is working on.",
    ("kind", "component", "pipeline"),
)
SPANS_RESENT = Series(
    "k8strace_spans_resent",
    "Spans that went on although their sender was told to retry: they come again.",
    ("kind", "component"),
)
REQUESTS_REJECTED = Series(
    "k8strace_requests_rejected",
    "Requests whose spans nobody could count, by reason.",
    ("component", "reason"),
)
QUEUE_BYTES = Series(
    "k8strace_exporter_queue_bytes",
    "Bytes that the sending queue holds, waiting or being sent.",
    ("exporter",),
)
QUEUE_OLDEST = Series(
    "k8strace_exporter_queue_oldest_seconds",
    "Age of the oldest payload that the sending queue holds.",
    ("exporter",),
)
RETRIES = Series("k8strace_exporter_retries", "Sends that were tried again.", ("exporter",))
BUDGET_USED = Series("k8strace_budget_used_bytes", "Payload bytes held in memory.")
BUDGET_LIMIT = Series("k8strace_budget_limit_bytes", "The limit of payload bytes.")


class Value:
    """A counter or gauge with its labels bound."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value


class Histogram:
    """A histogram with its labels bound."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound as Prometheus writes them, and the sum."""
        total = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            total += count
            rows.append(("+Inf" if bound is None else str(float(bound)), total))
        return rows, self._sum


class Ledger:
    """The accounting of one component, in spans.

    `received + recovered` equals the sum of everything else and `in_flight`, which is
    what the component has not settled yet: never negative, zero at rest.
    """

    __slots__ = (
        *("dropped", "filtered", "parked", "received", "recovered"),
        *("refused", "rejected", "sampled_out", "sent"),
    )

    def __init__(self) -> None:
        self.received = 0
        self.recovered = 0
        self.sent = 0
        self.filtered = 0
        self.sampled_out = 0
        self.rejected = 0
        self.refused = 0
        self.dropped: dict[str, int] = {}
        self.parked = 0

    def drop(self, spans: int, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + spans

    @property
    def in_flight(self) -> int:
        settled = self.sent + self.filtered + self.sampled_out + self.rejected
        settled += self.refused + self.parked + sum(self.dropped.values())
        return self.received + self.recovered - settled


class Metrics(Collector):
    """What is counted, and how Prometheus reads it.

    It outlives a reload: binding the same series and labels again gives the same value,
    so that no counter falls.
    """

    def __init__(self) -> None:
        self._counters: dict[Series, dict[tuple[str, ...], Value]] = {}
        self._histograms: dict[Series, dict[tuple[str, ...], Histogram]] = {}
        self._gauges: dict[Series, dict[tuple[str, ...], Callable[[], float]]] = {}
        self._readings: dict[Series, dict[tuple[str, ...], Callable[[], float]]] = {}
        self._ledgers: dict[tuple[str, str, str], Ledger] = {}
        self.constant_labels: Mapping[str, str] = {}

    def counter(self, series: Series, *labels: str) -> Value:
        """A counter of `series` with its labels' values bound."""
        return self._counters.setdefault(series, {}).setdefault(labels, Value())

    def counter_reading(
        self, series: Series, read: Callable[[], float], *labels: str
    ) -> None:
        """A counter whose value is read from elsewhere, by `read`, at each scrape."""
        self._readings.setdefault(series, {})[labels] = read

    def gauge(self, series: Series, read: Callable[[], float], *labels: str) -> None:
        """A gauge that is read by `read` at each scrape; the last one bound counts."""
        self._gauges.setdefault(series, {})[labels] = read

    def histogram(self, series: Series, *labels: str) -> Histogram:
        return self._histograms.setdefault(series, {}).setdefault(
            labels, Histogram(series.buckets)
        )

    def ledger(self, kind: str, component: str, pipeline: str = "") -> Ledger:
        """The ledger of a component; kept over a reload."""
        return self._ledgers.setdefault((kind, component, pipeline), Ledger())

    def forget_gauges(self) -> None:
        """Drop all gauges: their components are gone."""
        self._gauges.clear()

    def collect(self) -> Iterator[Metric]:
        counters, gauges = self._ledger_rows()
        for series, values in self._counters.items():
            counters[series] = {labels: one.value for labels, one in values.items()}
        for series, reads in self._readings.items():
            counters[series] = {labels: read() for labels, read in reads.items()}
        for series, reads in self._gauges.items():
            gauges[series] = {labels: read() for labels, read in reads.items()}
        for series, rows in counters.items():
            names, ours = self._constant_for(series)
            counter = CounterMetricFamily(
                series.name, series.help, labels=(*series.labels, *names)
            )
            for labels, value in rows.items():
                counter.add_metric((*labels, *ours), value)
            yield counter
        for series, rows in gauges.items():
            names, ours = self._constant_for(series)
            gauge = GaugeMetricFamily(
                series.name, series.help, labels=(*series.labels, *names)
            )
            for labels, value in rows.items():
                gauge.add_metric((*labels, *ours), value)
            yield gauge
        for series, histograms in self._histograms.items():
            names, ours = self._constant_for(series)
            histogram = HistogramMetricFamily(
                series.name, series.help, labels=(*series.labels, *names)
            )
            for labels, one in histograms.items():
                buckets, total = one.buckets()
                histogram.add_metric((*labels, *ours), buckets, total)
            yield histogram

    def _constant_for(self, series: Series) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names and values of the constant labels; a label of the series itself wins."""
        own = (*series.labels, "le")
        constant = {k: v for k, v in self.constant_labels.items() if k not in own}
        return tuple(constant), tuple(constant.values())

    def _ledger_rows(self) -> tuple[_Rows, _Rows]:
        """The counters and the gauges that follow from the ledgers."""
        counters: _Rows = {SPANS: {}, SPANS_DROPPED: {}}
        gauges: _Rows = {SPANS_PARKED: {}, SPANS_IN_FLIGHT: {}}

        def add(series: Series, labels: tuple[str, ...], value: float) -> None:
            row = counters.setdefault(series, {})
            row[labels] = row.get(labels, 0) + value

        for (kind, component, pipeline), ledger in self._ledgers.items():
            where = (kind, component, pipeline)
            add(SPANS, (*where, "in"), ledger.received)
            add(SPANS, (*where, "out"), ledger.sent)
            for outcome in _OUTCOMES:
                add(SPANS, (*where, outcome), getattr(ledger, outcome))
            add(SPANS, (*where, "dropped"), sum(ledger.dropped.values()))
            for reason, spans in ledger.dropped.items():
                add(SPANS_DROPPED, (kind, component, reason), spans)
            gauges[SPANS_PARKED][where] = ledger.parked
            gauges[SPANS_IN_FLIGHT][where] = ledger.in_flight
            if kind == "processors":
                labels = (component, "traces")
                add(PROCESSOR_INCOMING_ITEMS, labels, ledger.received)
                add(PROCESSOR_OUTGOING_ITEMS, labels, ledger.sent)
            elif kind == "exporters":
                add(EXPORTER_SENT_SPANS, (component,), ledger.sent)
        return counters, gauges


_OUTCOMES = ("recovered", "filtered", "sampled_out", "rejected", "refused")
_Rows = dict[Series, dict[tuple[str, ...], float]]
