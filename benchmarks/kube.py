"""Requests for benchmarks: always the same spans, in the shape of a kube-apiserver's."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from k8strace._kube_spans import Cluster

SEED = 1
START = 1_700_000_000_000_000_000  # ns
STEP = 1_000_000  # ns between two requests to the apiserver


class _Collecting(SpanProcessor):
    def __init__(self, spans: list[ReadableSpan]) -> None:
        self._spans = spans

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)


@lru_cache
def kube_request(spans: int) -> bytes:
    """An ExportTraceServiceRequest of `spans` spans, whole traces but for the last."""
    collected: list[ReadableSpan] = []
    processor = _Collecting(collected)
    cluster = Cluster(Random(SEED), {"apiserver": processor, "etcd": processor})
    end = START
    while len(collected) < spans:
        cluster.serve(end)
        end += STEP
    cluster.shutdown()
    return encode_spans(collected[:spans]).SerializeToString()
