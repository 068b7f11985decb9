"""What is on the pages: from the same counters as the metrics."""

from __future__ import annotations

import time

import pytest

from k8strace import __version__, metrics
from k8strace.extensions._zpages_facts import (
    Pipeline,
    Queue,
    losses,
    pipelines,
    service,
    totals,
)
from k8strace.losses import TICK, Loss, Sample
from k8strace.metrics import Metrics
from tests.support.overview import overview


def test_service() -> None:
    source = Metrics()
    source.counter_reading(metrics.PROCESS_UPTIME, lambda: 100.0)
    source.gauge(metrics.WORKERS, lambda: 2, "ready")
    facts = service(overview(source))
    assert (facts.version, facts.uptime) == (__version__, 100.0)
    assert facts.started == pytest.approx(time.time() - 100, abs=60)
    assert facts.workers == {"ready": 2}
    assert facts.pipelines == (
        Pipeline("traces", ("otlp",), ("batch",), ("otlp", "nop"), "in memory"),
        Pipeline("traces/audit", ("otlp",), (), ("nop",), "delivered"),
    )
    assert facts.extensions == ("health_check", "zpages")
    assert "<tempo>" in facts.configuration


def test_pipelines_show_the_accounting_and_the_queues() -> None:
    source = Metrics()
    receiver = source.ledger("receivers", "otlp")
    receiver.receive(10)
    receiver.send(7)
    receiver.refused += 3
    batch = source.ledger("processors", "batch", "traces")
    batch.receive(7)
    batch.park(2)
    batch.send(4)
    exporter = source.ledger("exporters", "otlp")
    exporter.receive(4)
    exporter.drop(1, "queue_full")
    exporter.drop(2, "shutdown")
    source.gauge(metrics.EXPORTER_QUEUE_SIZE, lambda: 5, "otlp", "traces")
    source.gauge(metrics.EXPORTER_QUEUE_CAPACITY, lambda: 1000, "otlp", "traces")
    source.gauge(metrics.QUEUE_BYTES, lambda: 77, "otlp")
    source.gauge(metrics.QUEUE_OLDEST, lambda: 1.5, "otlp")
    first, second = pipelines(overview(source)).pipelines
    assert (first.name, first.promise) == ("traces", "in memory")
    states = {(one.kind, one.id): one for one in first.components}
    assert list(states) == [
        ("receivers", "otlp"),
        ("processors", "batch"),
        ("exporters", "otlp"),
        ("exporters", "nop"),
    ]
    came = states["receivers", "otlp"].spans
    assert (came["in"], came["out"], came["refused"], came["in_flight"]) == (10, 7, 3, 0)
    waits = states["processors", "batch"].spans
    assert (waits["parked"], waits["in_flight"]) == (2, 1)
    sent = states["exporters", "otlp"]
    assert (sent.spans["dropped"], sent.spans["in_flight"]) == (3, 1)
    assert sent.queue == Queue(5, 1000, 77, 1.5)
    assert states["exporters", "nop"].queue is None
    assert [one.id for one in second.components] == ["otlp", "nop"]


def test_losses_are_all_that_did_not_get_through() -> None:
    source = Metrics()
    receiver = source.ledger("receivers", "otlp")
    receiver.refused += 5
    receiver.drop(2, "invalid_id")
    source.counter(metrics.SPANS_REJECTED, "otlp", "queue_full").add(4)
    source.counter(metrics.REQUESTS_REJECTED, "otlp", "memory").add(3)
    source.counter(metrics.REQUESTS_REJECTED, "otlp", "slow")
    for pipeline in ("traces", "traces/audit"):
        source.ledger("processors", "batch", pipeline).drop(1, "shutdown")
    found = totals(source.read())
    assert found == {
        Loss("receivers", "otlp", "refused", ""): 5,
        Loss("receivers", "otlp", "dropped", "invalid_id"): 2,
        Loss("receivers", "otlp", "rejected", "queue_full"): 4,
        Loss("receivers", "otlp", "requests", "memory"): 3,
        Loss("processors", "batch", "dropped", "shutdown"): 2,
    }
    known = source.losses
    known.observe(0.0, {})
    known.observe(TICK, found)
    known.observe(TICK + 120, found)
    receiver.drop(1, "invalid_id")
    sample = Sample(1.0, "10.0.0.1:1", "etcd", "zeros")
    known.note(Loss("receivers", "otlp", "dropped", "invalid_id"), sample)
    facts = losses(overview(source))
    assert facts.remembered == TICK + 120
    first, *others = facts.losses
    assert (first.kind, first.component, first.what, first.reason) == (
        *("receivers", "otlp", "dropped", "invalid_id"),
    )
    assert (first.last_minute, first.last_10_minutes, first.total) == (1, 3, 3)
    assert first.sample == sample
    assert [one.last_minute for one in others] == [0] * 4
    assert sum(one.last_hour for one in others) == 14
