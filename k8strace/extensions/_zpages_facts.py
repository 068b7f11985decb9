"""What is on the pages of zpages, as it is put into JSON."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping

import msgspec

from k8strace import __version__
from k8strace.component import Overview, PipelineView, Promise
from k8strace.losses import Loss, Sample, What
from k8strace.metrics import (
    EXPORTER_QUEUE_CAPACITY,
    EXPORTER_QUEUE_SIZE,
    PROCESS_UPTIME,
    QUEUE_BYTES,
    QUEUE_OLDEST,
    REQUESTS_REJECTED,
    SPANS,
    SPANS_DROPPED,
    SPANS_IN_FLIGHT,
    SPANS_PARKED,
    SPANS_REJECTED,
    WORKERS,
    Rows,
)

PROMISES = {
    Promise.MEMORY: "in memory",
    Promise.STORED: "stored",
    Promise.DELIVERED: "delivered",
}
MINUTE, TEN_MINUTES, HOUR = 60.0, 600.0, 3600.0


class Pipeline(msgspec.Struct, frozen=True):
    """A pipeline: the ids of its components, and what an answer to a sender means."""

    name: str
    receivers: tuple[str, ...]
    processors: tuple[str, ...]
    exporters: tuple[str, ...]
    promise: str


class Service(msgspec.Struct, frozen=True):
    """/debug/servicez. `workers` counts processes by state, and is empty where one runs."""

    version: str
    python: str
    started: float
    uptime: float
    workers: dict[str, int]
    pipelines: tuple[Pipeline, ...]
    extensions: tuple[str, ...]
    configuration: str


class Queue(msgspec.Struct, frozen=True):
    """A sending queue: `size` and `capacity` are in the unit of its sizer."""

    size: int
    capacity: int
    bytes: int
    oldest: float


class ComponentState(msgspec.Struct, frozen=True):
    """A component and its accounting, in spans."""

    kind: str
    id: str
    spans: dict[str, int]
    queue: Queue | None


class PipelineState(msgspec.Struct, frozen=True):
    name: str
    promise: str
    components: tuple[ComponentState, ...]


class Pipelines(msgspec.Struct, frozen=True):
    """/debug/pipelinez."""

    pipelines: tuple[PipelineState, ...]


class LossState(msgspec.Struct, frozen=True):
    """How much was lost in one way: in the last minute, 10, 60, and since the start."""

    kind: str
    component: str
    what: What
    reason: str
    last_minute: int
    last_10_minutes: int
    last_hour: int
    total: int
    sample: Sample | None


class Losses(msgspec.Struct, frozen=True):
    """/debug/dropz. Counts of the last minutes go back `remembered` seconds at most."""

    time: float
    remembered: float
    losses: tuple[LossState, ...]


def service(overview: Overview) -> Service:
    rows = overview.metrics.read()
    uptime = rows.counters.get(PROCESS_UPTIME, {}).get((), 0.0)
    workers = rows.gauges.get(WORKERS, {})
    return Service(
        version=__version__,
        python=platform.python_version(),
        started=time.time() - uptime,
        uptime=uptime,
        workers={state: int(number) for (state,), number in workers.items()},
        pipelines=tuple(map(_pipeline, overview.pipelines)),
        extensions=overview.extensions,
        configuration=overview.configuration(),
    )


def _pipeline(view: PipelineView) -> Pipeline:
    return Pipeline(
        view.name, view.receivers, view.processors, view.exporters, PROMISES[view.promise]
    )


def pipelines(overview: Overview) -> Pipelines:
    rows = overview.metrics.read()
    spans: dict[tuple[str, ...], dict[str, int]] = {}
    for (*where, outcome), number in rows.counters[SPANS].items():
        spans.setdefault(tuple(where), {})[outcome] = int(number)
    for series, name in ((SPANS_PARKED, "parked"), (SPANS_IN_FLIGHT, "in_flight")):
        for labels, number in rows.gauges[series].items():
            spans.setdefault(labels, {})[name] = int(number)

    def state(kind: str, id_: str, pipeline: str = "") -> ComponentState:
        queue = _queue(rows, id_) if kind == "exporters" else None
        return ComponentState(kind, id_, spans.get((kind, id_, pipeline), {}), queue)

    return Pipelines(
        tuple(
            PipelineState(
                view.name,
                PROMISES[view.promise],
                (
                    *(state("receivers", one) for one in view.receivers),
                    *(state("processors", one, view.name) for one in view.processors),
                    *(state("exporters", one) for one in view.exporters),
                ),
            )
            for view in overview.pipelines
        )
    )


def _queue(rows: Rows, exporter: str) -> Queue | None:
    """None for an exporter without a queue, and for one that hasn't started."""
    gauges = rows.gauges
    capacity = gauges.get(EXPORTER_QUEUE_CAPACITY, {}).get((exporter, "traces"))
    if capacity is None:
        return None
    return Queue(
        int(gauges.get(EXPORTER_QUEUE_SIZE, {}).get((exporter, "traces"), 0)),
        int(capacity),
        int(gauges.get(QUEUE_BYTES, {}).get((exporter,), 0)),
        gauges.get(QUEUE_OLDEST, {}).get((exporter,), 0.0),
    )


def losses(overview: Overview) -> Losses:
    known = overview.metrics.losses

    def state(loss: Loss, total: int) -> LossState:
        return LossState(
            *loss,
            known.lately(loss, total, MINUTE),
            known.lately(loss, total, TEN_MINUTES),
            known.lately(loss, total, HOUR),
            total,
            known.samples.get(loss),
        )

    found = [state(*one) for one in totals(overview.metrics.read()).items()]
    found.sort(
        key=lambda one: (one.last_minute, one.last_10_minutes, one.last_hour, one.total),
        reverse=True,
    )
    return Losses(time.time(), known.remembered, tuple(found))


def totals(rows: Rows) -> Mapping[Loss, int]:
    """What did not get through since the start, by loss."""
    found: dict[Loss, int] = {}
    for (kind, id_, reason), number in rows.counters[SPANS_DROPPED].items():
        found[Loss(kind, id_, "dropped", reason)] = int(number)
    for (id_, reason), number in rows.counters.get(SPANS_REJECTED, {}).items():
        found[Loss("receivers", id_, "rejected", reason)] = int(number)
    for (id_, reason), number in rows.counters.get(REQUESTS_REJECTED, {}).items():
        found[Loss("receivers", id_, "requests", reason)] = int(number)
    for (kind, id_, _, outcome), number in rows.counters[SPANS].items():
        if kind == "receivers" and outcome == "refused":
            found[Loss(kind, id_, "refused", "")] = int(number)
    return {loss: number for loss, number in found.items() if number}
