"""Spans of Kubernetes' components, and how they hang together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Proto

SERVER, CLIENT = Proto.SPAN_KIND_SERVER, Proto.SPAN_KIND_CLIENT


class Span(NamedTuple):
    """A span; ids are hexadecimal, `parent` is empty for a root."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    links: tuple[tuple[str, str], ...]
    trace_state: str
    is_error: bool
    attributes: dict[str, str | int]

    def text(self, attribute: str) -> str:
        """An attribute, empty where there is none."""
        return str(self.attributes.get(attribute, ""))


class Spans:
    """All that arrived of some traces."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self.all = tuple(spans)
        self.by_id = {span.id: span for span in self.all}
        self._children: dict[str, list[Span]] = defaultdict(list)
        self._audits: dict[str, list[Span]] = defaultdict(list)
        for span in self.all:
            self._children[span.parent].append(span)
            if span.kind == SERVER and (audit := span.text("audit-id")):
                self._audits[audit].append(span)

    def __iter__(self) -> Iterator[Span]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def parent(self, span: Span) -> Span | None:
        """None for a root, and where the parent never came."""
        return self.by_id.get(span.parent)

    def children(self, span: Span) -> list[Span]:
        return self._children.get(span.id, [])

    def ancestors(self, span: Span) -> Iterator[Span]:
        """The nearest first."""
        above = self.parent(span)
        while above is not None:
            yield above
            above = self.parent(above)

    def below(self, span: Span) -> Iterator[Span]:
        """The span itself and all that descends from it."""
        yield span
        for child in self.children(span):
            yield from self.below(child)

    def served(self, audit_id: str) -> list[Span]:
        """The SERVER spans of one request to a kube-apiserver: there should be one."""
        return self._audits.get(audit_id, [])


def read(requests: Iterable[ExportTraceServiceRequest]) -> Spans:
    """The spans of all requests."""
    return Spans(
        _span(_text(resource_spans.resource.attributes, "service.name"), span)
        for request in requests
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    )


def _span(service: str, span: Proto) -> Span:
    return Span(
        service=service,
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        trace_state=span.trace_state,
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes={one.key: _value(one) for one in span.attributes},
    )


def _value(one: KeyValue) -> str | int:
    """Kubernetes has no others than texts and integers."""
    kind = one.value.WhichOneof("value")
    return one.value.int_value if kind == "int_value" else one.value.string_value


def _text(attributes: Iterable[KeyValue], key: str) -> str:
    return next((one.value.string_value for one in attributes if one.key == key), "")
