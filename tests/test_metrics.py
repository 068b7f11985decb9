"""Series are declared once, and counted as Prometheus reads them."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from k8strace import metrics
from k8strace._counters import Block
from k8strace.metrics import Ledger, Metrics, Series, settle

OUTCOMES = ("sent", "filtered", "sampled_out", "rejected", "refused", "parked")


def exposed(source: Metrics) -> list[str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(source)
    return generate_latest(registry).decode().splitlines()


def test_names_are_declared_once() -> None:
    series = [one for one in vars(metrics).values() if isinstance(one, Series)]
    assert len(series) > 30
    assert len({one.name for one in series}) == len(series)
    assert not [one.name for one in series if one.name.endswith("_total")]


def test_binding_again_gives_the_same_value() -> None:
    source = Metrics()
    source.counter(metrics.RETRIES, "otlp").add(2)
    source.counter(metrics.RETRIES, "otlp").add(3)
    assert 'k8strace_exporter_retries_total{exporter="otlp"} 5.0' in exposed(source)
    assert source.ledger("exporters", "otlp") is source.ledger("exporters", "otlp")


def test_histogram_is_cumulative() -> None:
    source = Metrics()
    histogram = source.histogram(metrics.BATCH_SEND_SIZE, "batch")
    for value in (1, 10, 11, 1_000_000):
        histogram.observe(value)
    lines = exposed(source)
    name = "otelcol_processor_batch_batch_send_size"
    assert f'{name}_bucket{{le="10.0",processor="batch"}} 2.0' in lines
    assert f'{name}_bucket{{le="25.0",processor="batch"}} 3.0' in lines
    assert f'{name}_bucket{{le="+Inf",processor="batch"}} 4.0' in lines
    assert f'{name}_sum{{processor="batch"}} 1.000022e+06' in lines


def test_ledger_becomes_the_collectors_series_and_ours() -> None:
    source = Metrics()
    source.constant_labels = {"service_instance_id": "a"}
    sampler = source.ledger("processors", "probabilistic_sampler", "traces")
    sampler.received, sampler.sent, sampler.sampled_out = 10, 4, 6
    exporter = source.ledger("exporters", "otlp")
    exporter.received, exporter.sent = 9, 5
    exporter.drop(1, "permanent_error")
    exporter.parked = 2
    lines = exposed(source)
    for line in (
        'otelcol_processor_incoming_items_total{otel_signal="traces",'
        'processor="probabilistic_sampler",service_instance_id="a"} 10.0',
        'otelcol_processor_outgoing_items_total{otel_signal="traces",'
        'processor="probabilistic_sampler",service_instance_id="a"} 4.0',
        'otelcol_exporter_sent_spans_total{exporter="otlp",service_instance_id="a"} 5.0',
        'k8strace_spans_dropped_total{component="otlp",kind="exporters",reason="permanent_error",'
        'service_instance_id="a"} 1.0',
        'k8strace_spans_parked{component="otlp",kind="exporters",pipeline="",'
        'service_instance_id="a"} 2.0',
        'k8strace_spans_in_flight{component="otlp",kind="exporters",pipeline="",'
        'service_instance_id="a"} 1.0',
        'k8strace_spans_total{component="probabilistic_sampler",kind="processors",'
        'outcome="sampled_out",pipeline="traces",service_instance_id="a"} 6.0',
    ):
        assert line in lines


def test_gauges_are_forgotten_and_counters_stay() -> None:
    source = Metrics()
    source.gauge(metrics.QUEUE_BYTES, lambda: 7, "otlp")
    source.counter(metrics.RETRIES, "otlp").add(1)
    source.counter_reading(metrics.PROCESS_UPTIME, lambda: 3)
    assert 'k8strace_exporter_queue_bytes{exporter="otlp"} 7.0' in exposed(source)
    source.forget_gauges()
    text = "\n".join(exposed(source))
    assert 'k8strace_exporter_queue_bytes{exporter="otlp"}' not in text
    assert 'k8strace_exporter_retries_total{exporter="otlp"} 1.0' in text
    assert "otelcol_process_uptime_seconds_total 3.0" in text


@given(
    st.lists(st.integers(0, 1000), min_size=len(OUTCOMES), max_size=len(OUTCOMES)),
    st.dictionaries(st.sampled_from(["auth", "memory"]), st.integers(0, 1000)),
    st.integers(0, 1000),
)
def test_the_identity(settled: list[int], dropped: dict[str, int], under_way: int) -> None:
    ledger = Ledger()
    for name, spans in zip(OUTCOMES, settled, strict=True):
        setattr(ledger, name, spans)
    for reason, spans in dropped.items():
        ledger.drop(spans, reason)
    ledger.received = sum(settled) + sum(dropped.values()) + under_way
    assert ledger.in_flight == under_way


def test_what_other_processes_counted_is_added() -> None:
    workers = [Metrics(Block(bytearray(8192))) for _ in range(2)]
    for number, worker in enumerate(workers, 1):
        worker.counter(metrics.RETRIES, "otlp").add(number)
        worker.histogram(metrics.BATCH_SEND_SIZE, "batch").observe(10 * number)
        worker.gauge(metrics.QUEUE_BYTES, lambda: 7, "otlp")
        worker.gauge(metrics.QUEUE_OLDEST, partial(float, number), "otlp")
        worker.counter_reading(metrics.PROCESS_CPU, lambda: 1.5)
        worker.ledger("exporters", "otlp").receive(5)
        worker.ledger("exporters", "otlp").drop(number, "why")
    source = Metrics()
    source.others = [worker.block for worker in workers]
    assert not [line for line in exposed(source) if "queue" in line or "cpu" in line]
    for worker in workers:
        worker.write_down()
        worker.write_down()
    source.gauge(metrics.QUEUE_BYTES, lambda: 1, "otlp")
    lines = exposed(source)
    for line in (
        'k8strace_exporter_retries_total{exporter="otlp"} 3.0',
        'otelcol_processor_batch_batch_send_size_bucket{le="10.0",processor="batch"} 1.0',
        'otelcol_processor_batch_batch_send_size_bucket{le="+Inf",processor="batch"} 2.0',
        'otelcol_processor_batch_batch_send_size_sum{processor="batch"} 30.0',
        'k8strace_exporter_queue_bytes{exporter="otlp"} 15.0',
        'k8strace_exporter_queue_oldest_seconds{exporter="otlp"} 2.0',
        "otelcol_process_cpu_seconds_total 3.0",
        'k8strace_spans_in_flight{component="otlp",kind="exporters",pipeline=""} 7.0',
        'k8strace_spans_dropped_total{component="otlp",kind="exporters",reason="why"} 3.0',
    ):
        assert line in lines


def test_a_successor_in_the_same_block_goes_on() -> None:
    memory = bytearray(8192)
    for expected in (1.5, 3.0, 4.5):
        worker = Metrics(Block(memory))
        worker.counter_reading(metrics.PROCESS_CPU, lambda: 0.5)
        worker.write_down()
        worker.counter_reading(metrics.PROCESS_CPU, lambda: 1.5)
        worker.write_down()
        source = Metrics()
        source.others = [Block(memory)]
        assert f"otelcol_process_cpu_seconds_total {expected}" in exposed(source)


def test_what_has_no_room_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    source = Metrics(Block(bytearray(256)))
    for number in range(5):
        source.counter(metrics.RETRIES, f"otlp/{number}").add(1)
    assert len([line for line in exposed(source) if "retries_total{" in line]) < 5
    exposed(source)
    assert len([one for one in caplog.records if "no room" in one.getMessage()]) == 1


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(-9, 9))
def test_what_a_dead_process_had_under_way_is_settled(
    sent: int, parked: int, dropped: int, in_flight: int
) -> None:
    """`in_flight` below zero: it died between counting as sent and no longer as parked."""
    in_flight = max(in_flight, -parked, -sent)
    block = Block(bytearray(8192))
    ledger = block.ledger("exporters", "otlp", "")
    ledger.receive(sent + parked + dropped + in_flight)
    ledger.send(sent)
    ledger.park(parked)
    ledger.drop(dropped, "why")
    gauge = block.gauge(metrics.QUEUE_BYTES.name, "otlp")
    gauge.set(3)
    lost = parked + min(in_flight, 0)
    assert settle(block) == ({("exporters", "otlp", ""): lost} if lost else {})
    after = block.ledger("exporters", "otlp", "")
    assert (after.in_flight, after.parked) == (0, 0)
    assert after.sent == sent
    assert after.refused == max(in_flight, 0)
    assert after.dropped.get("worker_died", 0) == lost
    assert gauge.value is None
    assert settle(block) == {}


def test_parked_spans_without_an_answer_are_refused() -> None:
    block = Block(bytearray(8192))
    ledger = block.ledger("processors", "batch", "traces")
    ledger.holds_answers = True
    ledger.receive(5)
    ledger.park(5)
    assert settle(block) == {}
    assert (ledger.refused, ledger.parked, ledger.dropped) == (5, 0, {})
