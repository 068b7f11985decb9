"""Trace requests in OTLP's JSON: protobuf's mapping, but ids in hex, enums as numbers."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

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

_encoder = msgspec.json.Encoder()


def encode(request: ExportTraceServiceRequest) -> bytes:
    """The request as one line of JSON, without the line's end."""
    groups = list(map(_resource_spans, request.resource_spans))
    return _encoder.encode({"resourceSpans": groups})


def _filled(**fields: Any) -> JSON:
    """The fields that are not at their default, which protobuf's JSON leaves out."""
    return {name: value for name, value in fields.items() if value}


def _resource_spans(group: ResourceSpans) -> JSON:
    result: JSON = {}
    if group.HasField("resource"):
        result["resource"] = _resource(group.resource)
    return result | _filled(
        scopeSpans=list(map(_scope_spans, group.scope_spans)), schemaUrl=group.schema_url
    )


def _resource(resource: Resource) -> JSON:
    return _filled(
        attributes=_attributes(resource.attributes),
        droppedAttributesCount=resource.dropped_attributes_count,
        entityRefs=list(map(_entity, resource.entity_refs)),
    )


def _entity(entity: EntityRef) -> JSON:
    return _filled(
        schemaUrl=entity.schema_url,
        type=entity.type,
        idKeys=list(entity.id_keys),
        descriptionKeys=list(entity.description_keys),
    )


def _scope_spans(group: ScopeSpans) -> JSON:
    result: JSON = {}
    if group.HasField("scope"):
        result["scope"] = _scope(group.scope)
    return result | _filled(spans=list(map(_span, group.spans)), schemaUrl=group.schema_url)


def _scope(scope: InstrumentationScope) -> JSON:
    return _filled(
        name=scope.name,
        version=scope.version,
        attributes=_attributes(scope.attributes),
        droppedAttributesCount=scope.dropped_attributes_count,
    )


def _span(span: Span) -> JSON:
    result = _filled(
        traceId=span.trace_id.hex(),
        spanId=span.span_id.hex(),
        traceState=span.trace_state,
        parentSpanId=span.parent_span_id.hex(),
        flags=span.flags,
        name=span.name,
        kind=span.kind,
        startTimeUnixNano=_int64(span.start_time_unix_nano),
        endTimeUnixNano=_int64(span.end_time_unix_nano),
        attributes=_attributes(span.attributes),
        droppedAttributesCount=span.dropped_attributes_count,
        events=list(map(_event, span.events)),
        droppedEventsCount=span.dropped_events_count,
        links=list(map(_link, span.links)),
        droppedLinksCount=span.dropped_links_count,
    )
    if span.HasField("status"):
        status = span.status
        result["status"] = _filled(message=status.message, code=status.code)
    return result


def _event(event: Span.Event) -> JSON:
    return _filled(
        timeUnixNano=_int64(event.time_unix_nano),
        name=event.name,
        attributes=_attributes(event.attributes),
        droppedAttributesCount=event.dropped_attributes_count,
    )


def _link(link: Span.Link) -> JSON:
    return _filled(
        traceId=link.trace_id.hex(),
        spanId=link.span_id.hex(),
        traceState=link.trace_state,
        attributes=_attributes(link.attributes),
        droppedAttributesCount=link.dropped_attributes_count,
        flags=link.flags,
    )


def _int64(number: int) -> str:
    return str(number) if number else ""


def _attributes(attributes: Iterable[KeyValue]) -> list[JSON]:
    return list(map(_attribute, attributes))


def _attribute(pair: KeyValue) -> JSON:
    result = _filled(key=pair.key, keyStrindex=pair.key_strindex)
    if pair.HasField("value"):
        result["value"] = _value(pair.value)
    return result


def _value(value: AnyValue) -> JSON:
    """A value that is set is written even where it is empty."""
    match value.WhichOneof("value"):
        case "string_value":
            return {"stringValue": value.string_value}
        case "bool_value":
            return {"boolValue": value.bool_value}
        case "int_value":
            return {"intValue": str(value.int_value)}
        case "double_value":
            return {"doubleValue": _double(value.double_value)}
        case "array_value":
            values = list(map(_value, value.array_value.values))
            return {"arrayValue": _filled(values=values)}
        case "kvlist_value":
            values = _attributes(value.kvlist_value.values)
            return {"kvlistValue": _filled(values=values)}
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
