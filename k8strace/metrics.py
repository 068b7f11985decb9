"""Every series that the gateway exposes, declared once; and where they are counted.

Names are the OpenTelemetry Collector's (internal telemetry) with the suffixes that
Prometheus gives them; what is ours begins with `k8strace_`. Labels are bound at start;
counting is adding to an integer, once for each payload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from mmap import mmap
from typing import NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from k8strace._counters import (
    COUNTER,
    DROPPED,
    GAUGE,
    HISTOGRAM,
    LEDGER,
    READING,
    Block,
    Gauge,
    Histogram,
    Ledger,
    Value,
)
from k8strace.errors import Reason
from k8strace.losses import Losses

log = logging.getLogger("k8strace")

BLOCK_SIZE = 4 * 1024 * 1024  # bytes; an entry has some 100, and pages come as they fill


class Series(NamedTuple):
    """A declared series. `name` is without `_total`; `buckets` only for histograms.

    Of a gauge in several processes the sum is shown, or the `largest`. `unit` is what of
    the name is no part of the collector's own, but added by its Prometheus exporter.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    largest: bool = False
    unit: str = ""


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
PROCESS_UPTIME = Series(
    "otelcol_process_uptime_seconds", "Seconds since the start.", unit="_seconds"
)
PROCESS_CPU = Series("otelcol_process_cpu_seconds", "CPU seconds, user and system.")
PROCESS_RSS = Series(
    "otelcol_process_memory_rss_bytes", "Resident memory of the process.", unit="_bytes"
)

# Ours
SPANS = Series(
    "k8strace_spans",
    "Spans by what a component did with them: in + recovered = out + filtered + "
    "sampled_out + rejected + refused + dropped + stored + parked + in_flight.",
    ("kind", "component", "pipeline", "outcome"),
)
SPANS_DROPPED = Series(
    "k8strace_spans_dropped", "Spans lost, by reason.", ("kind", "component", "reason")
)
SPANS_REJECTED = Series(
    "k8strace_spans_rejected",
    "Spans whose senders were told never to send them again, by reason.",
    ("component", "reason"),
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
    largest=True,
)
STORE_RECORDS = Series(
    "k8strace_store_records", "Requests on disk that are not done.", ("exporter",)
)
STORE_BYTES = Series(
    "k8strace_store_bytes", "Bytes that a queue on disk takes there.", ("exporter",)
)
STORE_COMMIT_SECONDS = Series(
    "k8strace_store_commit_seconds",
    "Seconds that it took to bring a group of requests to the disk.",
    ("exporter",),
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
STORE_COMMITTED_RECORDS = Series(
    "k8strace_store_committed_records", "Requests brought to the disk.", ("exporter",)
)
STORE_FAILED_RECORDS = Series(
    "k8strace_store_failed_records",
    "Requests that could not be brought to the disk: their senders are told to retry.",
    ("exporter",),
)
STORE_CORRUPT_RECORDS = Series(
    "k8strace_store_corrupt_records",
    "Requests on disk that cannot be used and were set aside, and segments that were cut "
    "short or cannot be read.",
    ("exporter",),
)
STORE_RECOVERED_SPANS = Series(
    "k8strace_store_recovered_spans",
    "Spans found on disk at a start, or where a worker had left them.",
    ("exporter",),
)
RETRIES = Series("k8strace_exporter_retries", "Sends that were tried again.", ("exporter",))
BUDGET_USED = Series("k8strace_budget_used_bytes", "Payload bytes held in memory.")
BUDGET_LIMIT = Series("k8strace_budget_limit_bytes", "The limit of payload bytes.")
BUDGET_UPKEEP = Series(
    "k8strace_budget_upkeep_bytes", "Bytes that connections hold besides messages."
)
LOOP_LAG = Series(
    "k8strace_loop_lag_seconds",
    "Seconds by which the event loop came late to what was due, fifty times a second.",
    (),
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
LOOP_OWN_LAG = Series(
    "k8strace_loop_own_lag_seconds",
    "The same less the time in which the loop's thread waited for a CPU.",
    (),
    LOOP_LAG.buckets,
)
LOG_RECORDS_DROPPED = Series(
    "k8strace_log_records_dropped",
    "Log records that were not written, because stderr was not read fast enough.",
)
WORKERS = Series("k8strace_workers", "Worker processes, by what they do.", ("state",))
WORKER_RESTARTS = Series(
    "k8strace_worker_restarts",
    "Worker processes started in the place of one that had ended by itself.",
    ("slot",),
)

_DECLARED = {one.name: one for one in tuple(globals().values()) if isinstance(one, Series)}


Labels = tuple[str, ...]
Read = Callable[[], float]


class Metrics(Collector):
    """What is counted, and how Prometheus reads it.

    It outlives a reload: binding the same series and labels again gives the same value,
    so that no counter falls. Counters are in `block`; those in the blocks of `others`,
    which other processes write, are added to them when they are read. `losses` is what is
    known, besides their number, of spans that did not get through.
    """

    def __init__(self, block: Block | None = None) -> None:
        self.block = block or Block(mmap(-1, BLOCK_SIZE))
        self.others: list[Block] = []
        self.losses = Losses()
        self.constant_labels: Mapping[str, str] = {}
        self.without_units = False
        self._series: dict[str, Series] = dict(_DECLARED)
        self._counters: dict[Labels, Value] = {}
        self._histograms: dict[Labels, Histogram] = {}
        self._ledgers: dict[Labels, Ledger] = {}
        self._gauges: dict[tuple[Series, Labels], Read] = {}
        self._readings: dict[tuple[Series, Labels], Read] = {}
        self._written: dict[Labels, tuple[Gauge, float]] = {}
        self._refused = 0

    def counter(self, series: Series, *labels: str) -> Value:
        """A counter of `series` with its labels' values bound."""
        key = self._key(series, labels)
        if key not in self._counters:
            self._counters[key] = self.block.counter(*key)
        return self._counters[key]

    def counter_reading(self, series: Series, read: Read, *labels: str) -> None:
        """A counter whose value is read from elsewhere, by `read`, at each scrape."""
        self._readings[series, labels] = read

    def gauge(self, series: Series, read: Read, *labels: str) -> None:
        """A gauge that is read by `read` at each scrape; the last one bound counts."""
        self._gauges[series, labels] = read

    def histogram(self, series: Series, *labels: str) -> Histogram:
        key = self._key(series, labels)
        if key not in self._histograms:
            self._histograms[key] = self.block.histogram(series.buckets, *key)
        return self._histograms[key]

    def ledger(self, kind: str, component: str, pipeline: str = "") -> Ledger:
        """The ledger of a component; kept over a reload."""
        key = (kind, component, pipeline)
        if key not in self._ledgers:
            self._ledgers[key] = self.block.ledger(*key)
        return self._ledgers[key]

    def forget_gauges(self) -> None:
        """Drop all gauges: their components are gone."""
        self._gauges.clear()

    def write_down(self) -> None:
        """Put what is otherwise read at a scrape into the block, for who reads that."""
        for (series, labels), read in self._gauges.items():
            self.block.gauge(*self._key(series, labels)).set(read())
        for (series, labels), read in self._readings.items():
            key = self._key(series, labels)
            if key not in self._written:
                place = self.block.reading(*key)
                self._written[key] = place, place.value or 0.0
            place, before = self._written[key]
            place.set(before + read())

    def collect(self) -> Iterator[Metric]:
        return self.families(self.read())

    def families(self, rows: Rows) -> Iterator[Metric]:
        """What `read` has found, as prometheus_client takes it."""
        for series, values in rows.counters.items():
            names, ours = self._constant_for(series)
            counter = CounterMetricFamily(
                self._name(series), series.help, labels=(*series.labels, *names)
            )
            for labels, value in values.items():
                counter.add_metric((*labels, *ours), value)
            yield counter
        for series, values in rows.gauges.items():
            names, ours = self._constant_for(series)
            gauge = GaugeMetricFamily(
                self._name(series), series.help, labels=(*series.labels, *names)
            )
            for labels, value in values.items():
                gauge.add_metric((*labels, *ours), value)
            yield gauge
        for series, histograms in rows.histograms.items():
            names, ours = self._constant_for(series)
            histogram = HistogramMetricFamily(
                self._name(series), series.help, labels=(*series.labels, *names)
            )
            for labels, (*counts, total) in histograms.items():
                buckets = _cumulative(series.buckets, counts)
                histogram.add_metric((*labels, *ours), buckets, total)
            yield histogram

    def _key(self, series: Series, labels: Labels) -> Labels:
        self._series[series.name] = series
        return (series.name, *labels)

    def _name(self, series: Series) -> str:
        return series.name.removesuffix(series.unit) if self.without_units else series.name

    def _constant_for(self, series: Series) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names and values of the constant labels; a label of the series itself wins."""
        own = (*series.labels, "le")
        constant = {k: v for k, v in self.constant_labels.items() if k not in own}
        return tuple(constant), tuple(constant.values())

    def read(self) -> Rows:
        """All values as they are now."""
        rows = Rows()
        refused = 0
        for block in (self.block, *self.others):
            refused += block.refused
            for kind, key, values in block.entries():
                if kind == LEDGER:
                    rows.add_ledger(key, values)
                elif kind == DROPPED:
                    rows.add_dropped(key, *values)
                elif series := self._series.get(key[0]):
                    rows.add_entry(kind, series, key[1:], values)
        for (series, labels), read in self._readings.items():
            rows.add(series, labels, read())
        for (series, labels), read in self._gauges.items():
            rows.add_gauge(series, labels, read())
        if refused > self._refused:
            log.error("there is no room for %d series: they are not exposed", refused)
            self._refused = refused
        return rows


class Rows:
    """Values by series and labels, as they are added up."""

    def __init__(self) -> None:
        self.counters: dict[Series, dict[Labels, float]] = {SPANS: {}, SPANS_DROPPED: {}}
        self.gauges: dict[Series, dict[Labels, float]] = {
            SPANS_PARKED: {},
            SPANS_IN_FLIGHT: {},
        }
        self.histograms: dict[Series, dict[Labels, tuple[float, ...]]] = {}

    def add(self, series: Series, labels: Labels, value: float) -> None:
        row = self.counters.setdefault(series, {})
        row[labels] = row.get(labels, 0) + value

    def add_gauge(self, series: Series, labels: Labels, value: float) -> None:
        row = self.gauges.setdefault(series, {})
        before = row.get(labels, 0)
        row[labels] = max(before, value) if series.largest else before + value

    def add_entry(
        self, kind: int, series: Series, labels: Labels, values: tuple[float, ...]
    ) -> None:
        if kind == HISTOGRAM:
            row = self.histograms.setdefault(series, {})
            before = row.get(labels, (0,) * len(values))
            row[labels] = tuple(map(sum, zip(before, values, strict=True)))
        elif kind in (COUNTER, READING):
            self.add(series, labels, *values)
        elif kind == GAUGE and values:
            self.add_gauge(series, labels, *values)

    def add_ledger(self, key: Labels, values: tuple[float, ...]) -> None:
        spans = dict(zip(_LEDGER, values, strict=True))
        for outcome in _OUTCOMES:
            self.add(SPANS, (*key, outcome), spans[outcome])
        self.add(SPANS, (*key, "dropped"), 0)
        settled = sum(spans[outcome] for outcome in _OUTCOMES if outcome not in _COMING)
        coming = sum(spans[outcome] for outcome in _COMING)
        self.add_gauge(SPANS_PARKED, key, spans["parked"])
        self.add_gauge(SPANS_IN_FLIGHT, key, coming - settled - spans["parked"])
        kind, component, _ = key
        if kind == "processors":
            labels = (component, "traces")
            self.add(PROCESSOR_INCOMING_ITEMS, labels, spans["in"])
            self.add(PROCESSOR_OUTGOING_ITEMS, labels, spans["out"])
        elif kind == "exporters":
            self.add(EXPORTER_SENT_SPANS, (component,), spans["out"])

    def add_dropped(self, key: Labels, spans: float) -> None:
        kind, component, pipeline, reason = key
        where = (kind, component, pipeline)
        self.add(SPANS, (*where, "dropped"), spans)
        self.add(SPANS_DROPPED, (kind, component, reason), spans)
        self.add_gauge(SPANS_IN_FLIGHT, where, -spans)


def _cumulative(bounds: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    """Counts by upper bound as Prometheus writes them."""
    total = 0.0
    rows = []
    for bound, count in zip((*bounds, None), counts, strict=True):
        total += count
        rows.append(("+Inf" if bound is None else str(float(bound)), total))
    return rows


def settle(block: Block) -> dict[Labels, int]:
    """Bring to an end, in its accounting, what a process that died had under way.

    Spans without an answer count as refused, for their senders try again. Those that were
    acknowledged and parked are stored, or lost: then they are dropped, and their number is
    returned, by the keys of their ledgers. The process's gauges are gone.
    """
    lost: dict[Labels, int] = {}
    for kind, key, _ in block.entries():
        if kind == GAUGE:
            block.gauge(*key).clear()
        if kind != LEDGER:
            continue
        ledger = block.ledger(*key)
        # Negative where it died between the two halves of a settlement.
        parked = max(ledger.parked + min(ledger.in_flight, 0), 0)
        ledger.parked = 0
        if ledger.parks_on_disk:
            ledger.stored += parked
        elif parked and not ledger.holds_answers:
            ledger.drop(parked, WORKER_DIED)
            lost[key] = parked
        rest = ledger.in_flight
        ledger.refused += max(rest, 0)
        ledger.recovered += max(-rest, 0)
    return lost


WORKER_DIED: Reason = "worker_died"
_COMING = ("in", "recovered")
_OUTCOMES = (*_COMING, "out", "filtered", "sampled_out", "rejected", "refused", "stored")
_LEDGER = (
    *("in", "recovered", "out", "filtered", "sampled_out", "rejected", "refused"),
    *("stored", "parked", "holds_answers", "parks_on_disk"),
)

__all__ = ["Histogram", "Ledger", "Metrics", "Series", "Value", "settle"]
