"""Trace requests as text, line for line as the collector's debug exporter prints them.

Control characters in what senders wrote are escaped, so that a span cannot drive the
terminal that it is shown on; line breaks and tabs stay, as in the collector.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from google.protobuf.message import DecodeError
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
_EPOCH = datetime(1970, 1, 1)
_MAX_VARINT = 10  # bytes of a 64-bit number


def resource_spans(chunks: Iterable[bytes]) -> int:
    """The number of ResourceSpans in `chunks`, read off the outermost level alone.

    Raises DecodeError.
    """
    return sum(map(_top_level_messages, chunks))


def _top_level_messages(chunk: bytes) -> int:
    count = position = 0
    while position < len(chunk):
        tag, position = _varint(chunk, position)
        match tag & 7:
            case 2:
                length, position = _varint(chunk, position)
                position += length
                count += tag == 0x0A
            case 0:
                _, position = _varint(chunk, position)
            case 1:
                position += 8
            case 5:
                position += 4
            case wire_type:
                raise DecodeError(f"wire type {wire_type} at byte {position}")
    return count


def _varint(chunk: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(chunk[position : position + _MAX_VARINT]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise DecodeError(f"no number at byte {position}")


def normal(request: ExportTraceServiceRequest) -> str:
    """One line for each resource, scope and span."""
    return _printable(_normal(request))


def detailed(request: ExportTraceServiceRequest) -> str:
    """Everything, a line for each field."""
    return _printable(_detailed(request))


def _printable(lines: Iterator[str]) -> str:
    text = "".join(f"{line}\n" for line in lines)
    if _CONTROL.search(text) is None:
        return text
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _normal(request: ExportTraceServiceRequest) -> Iterator[str]:
    for i, group in enumerate(request.resource_spans):
        schema = f" [{group.schema_url}]" if group.schema_url else ""
        pairs = _pairs(group.resource.attributes)
        yield f"ResourceTraces #{i}{schema}{pairs}"
        for j, scope_spans in enumerate(group.scope_spans):
            scope = _scope(scope_spans.scope, scope_spans.schema_url)
            pairs = _pairs(scope_spans.scope.attributes)
            yield f"ScopeTraces #{j}{scope}{pairs}"
            for span in scope_spans.spans:
                ids = f"{_hex(span.trace_id)} {_hex(span.span_id)}"
                yield f"{span.name} {ids}{_pairs(span.attributes)}"


def _pairs(attributes: Iterable[KeyValue]) -> str:
    return "".join(f" {pair.key}={_text(pair.value)}" for pair in attributes)


def _scope(scope: InstrumentationScope, schema_url: str) -> str:
    name = scope.name + (f"@{scope.version}" if scope.version else "")
    parts = [name] if name else []
    if schema_url:
        parts.append(f"[{schema_url}]")
    return "".join(f" {part}" for part in parts)


def _detailed(request: ExportTraceServiceRequest) -> Iterator[str]:
    for i, group in enumerate(request.resource_spans):
        yield f"ResourceSpans #{i}"
        yield f"Resource SchemaURL: {group.schema_url}"
        yield from _attributes("Resource attributes", group.resource.attributes)
        yield from _entities(group.resource)
        for j, scope_spans in enumerate(group.scope_spans):
            scope = scope_spans.scope
            yield f"ScopeSpans #{j}"
            yield f"ScopeSpans SchemaURL: {scope_spans.schema_url}"
            yield f"InstrumentationScope {scope.name} {scope.version}"
            yield from _attributes("InstrumentationScope attributes", scope.attributes)
            for k, span in enumerate(scope_spans.spans):
                yield f"Span #{k}"
                yield from _span(span)


def _span(span: Span) -> Iterator[str]:
    yield f"    Trace ID       : {_hex(span.trace_id)}"
    yield f"    Parent ID      : {_hex(span.parent_span_id)}"
    yield f"    ID             : {_hex(span.span_id)}"
    yield f"    Name           : {span.name}"
    yield f"    Kind           : {_name(_KINDS, span.kind)}"
    if span.trace_state:
        yield f"    TraceState     : {span.trace_state}"
    yield f"    Start time     : {_time(span.start_time_unix_nano)}"
    yield f"    End time       : {_time(span.end_time_unix_nano)}"
    yield f"    Status code    : {_name(_STATUS_CODES, span.status.code)}"
    yield f"    Status message : {span.status.message}"
    yield f"    DroppedAttributesCount: {span.dropped_attributes_count}"
    yield f"    DroppedEventsCount: {span.dropped_events_count}"
    yield f"    DroppedLinksCount: {span.dropped_links_count}"
    yield from _attributes("Attributes", span.attributes)
    if span.events:
        yield "Events:"
    for i, event in enumerate(span.events):
        yield f"SpanEvent #{i}"
        yield f"     -> Name: {event.name}"
        yield f"     -> Timestamp: {_time(event.time_unix_nano)}"
        yield f"     -> DroppedAttributesCount: {event.dropped_attributes_count}"
        yield from _nested_attributes(event.attributes)
    if span.links:
        yield "Links:"
    for i, link in enumerate(span.links):
        yield f"SpanLink #{i}"
        yield f"     -> Trace ID: {_hex(link.trace_id)}"
        yield f"     -> ID: {_hex(link.span_id)}"
        yield f"     -> TraceState: {link.trace_state}"
        yield f"     -> DroppedAttributesCount: {link.dropped_attributes_count}"
        yield from _nested_attributes(link.attributes)


def _attributes(header: str, attributes: Iterable[KeyValue]) -> Iterator[str]:
    lines = [f"     -> {pair.key}: {_typed(pair.value)}" for pair in attributes]
    if lines:
        yield f"{header}:"
        yield from lines


def _nested_attributes(attributes: Iterable[KeyValue]) -> Iterator[str]:
    # The second colon stands in the collector's output.
    for line in _attributes("-> Attributes:", attributes):
        yield f"     {line}"


def _entities(resource: Resource) -> Iterator[str]:
    if resource.entity_refs:
        yield "Resource entity refs:"
    for i, entity in enumerate(resource.entity_refs):
        yield f"     -> Entity ref #{i}:"
        yield f"          -> Type: {entity.type}"
        if entity.schema_url:
            yield f"          -> Schema URL: {entity.schema_url}"
        for header, keys in (
            ("ID keys", entity.id_keys),
            ("Description keys", entity.description_keys),
        ):
            if keys:
                yield f"          -> {header}:"
            for key in keys:
                yield f"               -> {key}"


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


def _typed(value: AnyValue) -> str:
    kind = _TYPES.get(value.WhichOneof("value") or "", "Empty")
    return f"{kind}({_text(value)})"


def _text(value: AnyValue) -> str:
    """The value as the collector turns attributes of any type into strings."""
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bytes_value":
            return b64encode(value.bytes_value).decode()
        case "bool_value" | "int_value" | "double_value" | "array_value" | "kvlist_value":
            return _json(value)
        case _:
            return ""


def _json(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return _quoted(value.string_value)
        case "bytes_value":
            return _quoted(b64encode(value.bytes_value).decode())
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return _float(value.double_value)
        case "array_value":
            return f"[{','.join(map(_json, value.array_value.values))}]"
        case "kvlist_value":
            pairs = {pair.key: _json(pair.value) for pair in value.kvlist_value.values}
            return f"{{{','.join(f'{_quoted(k)}:{pairs[k]}' for k in sorted(pairs))}}}"
        case _:
            return "null"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _float(number: float) -> str:
    """The shortest digits, with an exponent where JavaScript writes one."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number and not 1e-6 <= abs(number) < 1e21:
        return repr(number).replace("e-0", "e-")
    return f"{Decimal(repr(number)):f}".removesuffix(".0")
