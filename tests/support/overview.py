"""A gateway with a pipeline of each promise, as extensions are shown it."""

from __future__ import annotations

from k8strace.component import Overview, PipelineView, Promise
from k8strace.metrics import Metrics


def overview(metrics: Metrics) -> Overview:
    return Overview(
        metrics=metrics,
        pipelines=(
            PipelineView(
                name="traces",
                receivers=("otlp",),
                processors=("batch",),
                exporters=("otlp", "nop"),
                promise=Promise.MEMORY,
            ),
            PipelineView(
                name="traces/audit",
                receivers=("otlp",),
                processors=(),
                exporters=("nop",),
                promise=Promise.DELIVERED,
            ),
        ),
        extensions=("health_check", "zpages"),
        configuration=lambda: "exporters:\n  otlp:\n    endpoint: <tempo>\n",
    )
