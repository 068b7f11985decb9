"""Trace requests as text, line for line as the collector's debug exporter prints them.

Control characters in what senders wrote are escaped, so that a span cannot drive the
terminal that it is shown on; line breaks and tabs stay, as in the collector. Requests are
printed in fragments, so that what a sender makes long is not made in one go.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    InstrumentationScope,
    KeyValue,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Texts = Iterator[str]
Fragments = Iterator[bytes]

_KINDS = ("Unspecified", "Internal", "Server", "Client", "Producer", "Consumer")
_STATUS_CODES = ("Unset", "Ok", "Error")
_TYPES = {
    "string_value": "Str",
    "bool_value": "Bool",
    "int_value": "Int",
    "double_value": "Double",
    "kvlist_value": "Map",
    "array_value": "Slice",
    "bytes_value": "Bytes",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ESCAPES = {
    code: f"\\x{code:02x}" for code in range(0xA0) if _CONTROL.match(chr(code)) is not None
}
_PART = 3 * 4096  # characters, or bytes, which base64 writes in threes
_EPOCH = datetime(1970, 1, 1)


def normal(request: ExportTraceServiceRequest) -> Fragments:
    """One line for each resource, scope and span."""
    return _printable(_normal(request))


def detailed(request: ExportTraceServiceRequest) -> Fragments:
    """Everything, a line for each field."""
    return _printable(_detailed(request))


def _printable(texts: Texts) -> Fragments:
    for text in texts:
        for part in _parts(text):
            if _CONTROL.search(part) is not None:
                part = part.translate(_ESCAPES)
            yield part.encode(errors="replace")


def _normal(request: ExportTraceServiceRequest) -> Texts:
    for i, group in enumerate(request.resource_spans):
        schema = f" [{group.schema_url}]" if group.schema_url else ""
        yield f"ResourceTraces #{i}{schema}"
        yield from _pairs(group.resource.attributes)
        for j, scope_spans in enumerate(group.scope_spans):
            scope = _scope(scope_spans.scope, scope_spans.schema_url)
            yield f"ScopeTraces #{j}{scope}"
            yield from _pairs(scope_spans.scope.attributes)
            for span in scope_spans.spans:
                yield f"{span.name} {_hex(span.trace_id)} {_hex(span.span_id)}"
                yield from _pairs(span.attributes)


def _pairs(attributes: Iterable[KeyValue]) -> Texts:
    """The rest of a line."""
    for pair in attributes:
        yield f" {pair.key}="
        yield from _text(pair.value)
    yield "\n"


def _scope(scope: InstrumentationScope, schema_url: str) -> str:
    name = scope.name + (f"@{scope.version}" if scope.version else "")
    parts = [name] if name else []
    if schema_url:
        parts.append(f"[{schema_url}]")
    return "".join(f" {part}" for part in parts)


def _detailed(request: ExportTraceServiceRequest) -> Texts:
    for i, group in enumerate(request.resource_spans):
        yield f"ResourceSpans #{i}\n"
        yield f"Resource SchemaURL: {group.schema_url}\n"
        yield from _attributes("Resource attributes", group.resource.attributes)
        yield from _entities(group.resource)
        for j, scope_spans in enumerate(group.scope_spans):
            scope = scope_spans.scope
            yield f"ScopeSpans #{j}\n"
            yield f"ScopeSpans SchemaURL: {scope_spans.schema_url}\n"
            yield f"InstrumentationScope {scope.name} {scope.version}\n"
            yield from _attributes("InstrumentationScope attributes", scope.attributes)
            for k, span in enumerate(scope_spans.spans):
                yield f"Span #{k}\n"
                yield from _span(span)


def _span(span: Span) -> Texts:
    yield f"    Trace ID       : {_hex(span.trace_id)}\n"
    yield f"    Parent ID      : {_hex(span.parent_span_id)}\n"
    yield f"    ID             : {_hex(span.span_id)}\n"
    yield f"    Name           : {span.name}\n"
    yield f"    Kind           : {_name(_KINDS, span.kind)}\n"
    if span.trace_state:
        yield f"    TraceState     : {span.trace_state}\n"
    yield f"    Start time     : {_time(span.start_time_unix_nano)}\n"
    yield f"    End time       : {_time(span.end_time_unix_nano)}\n"
    yield f"    Status code    : {_name(_STATUS_CODES, span.status.code)}\n"
    yield f"    Status message : {span.status.message}\n"
    yield f"    DroppedAttributesCount: {span.dropped_attributes_count}\n"
    yield f"    DroppedEventsCount: {span.dropped_events_count}\n"
    yield f"    DroppedLinksCount: {span.dropped_links_count}\n"
    yield from _attributes("Attributes", span.attributes)
    if span.events:
        yield "Events:\n"
    for i, event in enumerate(span.events):
        yield f"SpanEvent #{i}\n"
        yield f"     -> Name: {event.name}\n"
        yield f"     -> Timestamp: {_time(event.time_unix_nano)}\n"
        yield f"     -> DroppedAttributesCount: {event.dropped_attributes_count}\n"
        yield from _nested_attributes(event.attributes)
    if span.links:
        yield "Links:\n"
    for i, link in enumerate(span.links):
        yield f"SpanLink #{i}\n"
        yield f"     -> Trace ID: {_hex(link.trace_id)}\n"
        yield f"     -> ID: {_hex(link.span_id)}\n"
        yield f"     -> TraceState: {link.trace_state}\n"
        yield f"     -> DroppedAttributesCount: {link.dropped_attributes_count}\n"
        yield from _nested_attributes(link.attributes)


def _attributes(header: str, attributes: Iterable[KeyValue], before: str = "") -> Texts:
    if attributes:
        yield f"{before}{header}:\n"
    for pair in attributes:
        kind = _TYPES.get(pair.value.WhichOneof("value") or "", "Empty")
        yield f"{before}     -> {pair.key}: {kind}("
        yield from _text(pair.value)
        yield ")\n"


def _nested_attributes(attributes: Iterable[KeyValue]) -> Texts:
    # The second colon stands in the collector's output.
    return _attributes("-> Attributes:", attributes, "     ")


def _entities(resource: Resource) -> Texts:
    if resource.entity_refs:
        yield "Resource entity refs:\n"
    for i, entity in enumerate(resource.entity_refs):
        yield f"     -> Entity ref #{i}:\n"
        yield f"          -> Type: {entity.type}\n"
        if entity.schema_url:
            yield f"          -> Schema URL: {entity.schema_url}\n"
        for header, keys in (
            ("ID keys", entity.id_keys),
            ("Description keys", entity.description_keys),
        ):
            if keys:
                yield f"          -> {header}:\n"
            for key in keys:
                yield f"               -> {key}\n"


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else ""


def _hex(identifier: bytes) -> str:
    return identifier.hex() if any(identifier) else ""


def _time(nanoseconds: int) -> str:
    """The time as Go prints it in UTC; it reads the number as signed."""
    if nanoseconds >= 1 << 63:
        nanoseconds -= 1 << 64
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{_EPOCH + timedelta(seconds=seconds)}{fraction} +0000 UTC"


def _text(value: AnyValue) -> Texts:
    """The value as the collector turns attributes of any type into strings."""
    match value.WhichOneof("value"):
        case "string_value":
            yield from _parts(value.string_value)
        case "bytes_value":
            yield from _base64(value.bytes_value)
        case "bool_value" | "int_value" | "double_value" | "array_value" | "kvlist_value":
            yield from _json(value)


def _json(value: AnyValue) -> Texts:
    match value.WhichOneof("value"):
        case "string_value":
            yield from _quoted(value.string_value)
        case "bytes_value":
            yield '"'
            yield from _base64(value.bytes_value)
            yield '"'
        case "bool_value":
            yield "true" if value.bool_value else "false"
        case "int_value":
            yield str(value.int_value)
        case "double_value":
            yield _float(value.double_value)
        case "array_value":
            between = "["
            for each in value.array_value.values:
                yield between
                yield from _json(each)
                between = ","
            yield "]" if between == "," else "[]"
        case "kvlist_value":
            pairs = {pair.key: pair.value for pair in value.kvlist_value.values}
            between = "{"
            for key in sorted(pairs):
                yield between
                yield from _quoted(key)
                yield ":"
                yield from _json(pairs[key])
                between = ","
            yield "}" if between == "," else "{}"
        case _:
            yield "null"


def _quoted(text: str) -> Texts:
    yield '"'
    for part in _parts(text):
        yield json.dumps(part, ensure_ascii=False)[1:-1]
    yield '"'


def _base64(data: bytes) -> Texts:
    for start in range(0, len(data), _PART):
        yield b64encode(data[start : start + _PART]).decode()


def _parts(text: str) -> Texts:
    """A long text in parts, since escapes make it longer still."""
    if len(text) <= _PART:
        yield text
        return
    for start in range(0, len(text), _PART):
        yield text[start : start + _PART]


def _float(number: float) -> str:
    """The shortest digits, with an exponent where JavaScript writes one."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number and not 1e-6 <= abs(number) < 1e21:
        return repr(number).replace("e-0", "e-")
    return f"{Decimal(repr(number)):f}".removesuffix(".0")
