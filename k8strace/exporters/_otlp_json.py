"""Trace requests in OTLP's JSON: protobuf's mapping, but ids in hex, enums as numbers.

A request is written in fragments, one for each attribute or so, so that what a sender makes
long is neither held twice nor written in one go.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    EntityRef,
    InstrumentationScope,
    KeyValue,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

JSON = dict[str, Any]
Fragments = Iterator[bytes]
T = TypeVar("T")

PART = 12 * 1024  # characters of a text that are written at a time

_encode = msgspec.json.Encoder().encode


def encode(request: ExportTraceServiceRequest) -> Fragments:
    """The request as one line of JSON, without the line's end."""
    yield b'{"resourceSpans":'
    yield from _list(_resource_spans, request.resource_spans)
    yield b"}"


def _filled(**fields: Any) -> JSON:
    """The fields that are not at their default, which protobuf's JSON leaves out."""
    return {name: value for name, value in fields.items() if value}


def _object(fields: JSON, members: Iterable[tuple[str, Fragments]] = ()) -> Fragments:
    """An object of `fields` and of `members`, which are written one after the other."""
    long = [name for name, value in fields.items() if _is_long(value)]
    members = [*((name, _text(fields.pop(name))) for name in long), *members]
    yield _encode(fields)[:-1]
    between = "," if fields else ""
    for name, fragments in members:
        yield f'{between}"{name}":'.encode()
        yield from fragments
        between = ","
    yield b"}"


def _list(write: Callable[[T], Fragments], items: Iterable[T]) -> Fragments:
    between = b"["
    for item in items:
        yield between
        yield from write(item)
        between = b","
    yield b"]" if between == b"," else b"[]"


def _resource_spans(group: ResourceSpans) -> Fragments:
    members = []
    if group.HasField("resource"):
        members.append(("resource", _resource(group.resource)))
    if group.scope_spans:
        members.append(("scopeSpans", _list(_scope_spans, group.scope_spans)))
    return _object(_filled(schemaUrl=group.schema_url), members)


def _resource(resource: Resource) -> Fragments:
    members = _attributes(resource.attributes)
    if resource.entity_refs:
        members.append(("entityRefs", _list(_entity, resource.entity_refs)))
    fields = _filled(droppedAttributesCount=resource.dropped_attributes_count)
    return _object(fields, members)


def _entity(entity: EntityRef) -> Fragments:
    members = []
    for name, keys in (
        ("idKeys", entity.id_keys),
        ("descriptionKeys", entity.description_keys),
    ):
        if keys:
            members.append((name, _list(_text, keys)))
    return _object(_filled(schemaUrl=entity.schema_url, type=entity.type), members)


def _text(text: str) -> Fragments:
    """A text in parts, since escapes make it longer still."""
    yield b'"'
    for start in range(0, len(text), PART):
        yield _encode(text[start : start + PART])[1:-1]
    yield b'"'


def _is_long(value: Any) -> bool:
    return type(value) is str and len(value) > PART


def _scope_spans(group: ScopeSpans) -> Fragments:
    members = []
    if group.HasField("scope"):
        members.append(("scope", _scope(group.scope)))
    if group.spans:
        members.append(("spans", _list(_span, group.spans)))
    return _object(_filled(schemaUrl=group.schema_url), members)


def _scope(scope: InstrumentationScope) -> Fragments:
    fields = _filled(
        name=scope.name,
        version=scope.version,
        droppedAttributesCount=scope.dropped_attributes_count,
    )
    return _object(fields, _attributes(scope.attributes))


def _span(span: Span) -> Fragments:
    fields = _filled(
        traceId=span.trace_id.hex(),
        spanId=span.span_id.hex(),
        traceState=span.trace_state,
        parentSpanId=span.parent_span_id.hex(),
        flags=span.flags,
        name=span.name,
        kind=span.kind,
        startTimeUnixNano=_int64(span.start_time_unix_nano),
        endTimeUnixNano=_int64(span.end_time_unix_nano),
        droppedAttributesCount=span.dropped_attributes_count,
        droppedEventsCount=span.dropped_events_count,
        droppedLinksCount=span.dropped_links_count,
    )
    members = _attributes(span.attributes)
    if span.HasField("status"):
        status = _filled(message=span.status.message, code=span.status.code)
        members.append(("status", _object(status)))
    if span.events:
        members.append(("events", _list(_event, span.events)))
    if span.links:
        members.append(("links", _list(_link, span.links)))
    return _object(fields, members)


def _event(event: Span.Event) -> Fragments:
    fields = _filled(
        timeUnixNano=_int64(event.time_unix_nano),
        name=event.name,
        droppedAttributesCount=event.dropped_attributes_count,
    )
    return _object(fields, _attributes(event.attributes))


def _link(link: Span.Link) -> Fragments:
    fields = _filled(
        traceId=link.trace_id.hex(),
        spanId=link.span_id.hex(),
        traceState=link.trace_state,
        droppedAttributesCount=link.dropped_attributes_count,
        flags=link.flags,
    )
    return _object(fields, _attributes(link.attributes))


def _int64(number: int) -> str:
    return str(number) if number else ""


def _attributes(attributes: Iterable[KeyValue]) -> list[tuple[str, Fragments]]:
    return [("attributes", _list(_attribute, attributes))] if attributes else []


def _attribute(pair: KeyValue) -> Fragments:
    fields = _filled(key=pair.key, keyStrindex=pair.key_strindex)
    if pair.HasField("value"):
        scalar = _scalar(pair.value)
        if scalar is None:
            return _object(fields, [("value", _value(pair.value))])
        fields["value"] = scalar
    return _object(fields) if _is_long(pair.key) else iter((_encode(fields),))


def _value(value: AnyValue) -> Fragments:
    """A value that is set is written even where it is empty."""
    scalar = _scalar(value)
    if scalar is not None:
        yield _encode(scalar)
        return
    match value.WhichOneof("value"):
        case "array_value":
            member = "arrayValue", _values(_value, value.array_value.values)
        case "kvlist_value":
            member = "kvlistValue", _values(_attribute, value.kvlist_value.values)
        case _:
            member = "stringValue", _text(value.string_value)
    yield from _object({}, [member])


def _values(write: Callable[[T], Fragments], items: Iterable[T]) -> Fragments:
    return _object({}, [("values", _list(write, items))] if items else [])


def _scalar(value: AnyValue) -> JSON | None:
    """What is one fragment; None for a list and a long text."""
    match value.WhichOneof("value"):
        case "string_value":
            text = value.string_value
            return None if _is_long(text) else {"stringValue": text}
        case "bool_value":
            return {"boolValue": value.bool_value}
        case "int_value":
            return {"intValue": str(value.int_value)}
        case "double_value":
            return {"doubleValue": _double(value.double_value)}
        case "array_value" | "kvlist_value":
            return None
        case "bytes_value":
            return {"bytesValue": b64encode(value.bytes_value).decode()}
        case "string_value_strindex":
            return {"stringValueStrindex": value.string_value_strindex}
        case _:
            return {}


def _double(number: float) -> float | str:
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number
