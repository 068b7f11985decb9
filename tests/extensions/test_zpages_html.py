"""The pages for people."""

from __future__ import annotations

import re

import pytest

from k8strace.extensions import _zpages_html as html
from k8strace.extensions._zpages_facts import (
    ComponentState,
    Losses,
    LossState,
    Pipelines,
    PipelineState,
    Queue,
    service,
)
from k8strace.losses import Loss, Sample
from k8strace.metrics import WORKERS, Metrics
from tests.support.overview import overview


def rows(page: str) -> list[list[str]]:
    """The text of the cells in each row."""
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", page)
    ]


def test_service() -> None:
    source = Metrics()
    source.gauge(WORKERS, lambda: 2, "ready")
    page = html.service(service(overview(source)))
    assert ["workers", "2 ready"] in rows(page)
    assert ["traces", "otlp", "batch", "otlp, nop", "in memory"] in rows(page)
    assert "endpoint: &lt;tempo&gt;" in page
    assert "workers" not in html.service(service(overview(Metrics())))


def test_pipelines() -> None:
    spans = {"in": 12345, "out": 12340, "dropped": 5, "parked": 0, "in_flight": 0}
    state = ComponentState("exporters", "otlp", spans, Queue(3, 1000, 4096, 2.25))
    page = html.pipelines(Pipelines((PipelineState("traces", "stored", (state,)),)))
    assert "<h2>traces: stored</h2>" in page
    header, row = rows(page)
    assert dict(zip(header, row, strict=True)) == {
        "": "exporter",
        "component": "otlp",
        "in": "12,345",
        "recovered": "0",
        "out": "12,340",
        "filtered": "0",
        "sampled out": "0",
        "rejected": "0",
        "refused": "0",
        "stored": "0",
        "dropped": "5",
        "parked": "0",
        "in flight": "0",
        "queue": "3 of 1,000",
        "queue bytes": "4,096",
        "oldest": "2.2 s",
    }
    assert page.count('class="n loss"') == 1


def test_losses() -> None:
    sample = Sample(1_700_000_000.0, "10.0.0.1:1", "etcd", "zeros")
    what = Loss("receivers", "otlp", "dropped", "invalid_id")
    found = LossState(*what, 1, 20, 300, 4000, sample)
    bare = LossState("receivers", "otlp", "refused", "", 0, 0, 0, 7, None)
    page = html.losses(Losses(1_700_000_001.0, 720.0, (found, bare)))
    _, first, second = rows(page)
    assert first == [
        *("receivers/otlp", "spans dropped", "invalid_id", "1", "20", "300", "4,000"),
        *("2023-11-14 22:13:20Z", "10.0.0.1:1", "etcd", "zeros"),
    ]
    assert second == ["receivers/otlp", "spans refused", "", *"0007", "", "", "", ""]
    assert "Columns of minutes go back 12 min 0 s." in page
    assert "Nothing was lost" in html.losses(Losses(0.0, 3600.0, ()))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (3600, "1 h 0 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert html._duration(seconds) == text
