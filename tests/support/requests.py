"""Trace requests for tests, made with protobuf, which is the oracle everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

_ids = count(1)


def request(
    spans: int = 1,
    *,
    resources: int = 1,
    service: str = "apiserver",
    attributes: int = 3,
    trace_ids: Iterable[bytes] | None = None,
) -> ExportTraceServiceRequest:
    """`spans` valid spans, all ids distinct, spread over `resources` resources.

    How long it is does not depend on how many were made before.
    """
    message = ExportTraceServiceRequest()
    given = iter(trace_ids or ())
    for index in range(resources):
        resource_spans = message.resource_spans.add()
        resource = resource_spans.resource
        resource.attributes.add(key="service.name").value.string_value = service
        resource.attributes.add(key="index").value.int_value = index
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.name = "k8s.io/component-base/tracing"
        for _ in range(spans * index // resources, spans * (index + 1) // resources):
            number = next(_ids)
            span = scope_spans.spans.add()
            span.trace_id = next(given, number.to_bytes(16, "big"))
            span.span_id = number.to_bytes(8, "big")
            span.name = "Get"
            span.kind = span.SPAN_KIND_INTERNAL
            span.start_time_unix_nano = 1_700_000_000_000_000_000 + number
            span.end_time_unix_nano = span.start_time_unix_nano + 1_000_000
            for attribute in range(attributes):
                pair = span.attributes.add(key=f"key.{attribute}")
                pair.value.string_value = f"value {number % 100_000:05}"
    return message


def parse(chunks: Iterable[bytes]) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(b"".join(chunks))


def span_ids(message: ExportTraceServiceRequest) -> list[bytes]:
    """The ids of all spans, in order."""
    return [
        span.span_id
        for resource_spans in message.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]
