"""The texts of the debug exporter, against what the collector prints."""

from __future__ import annotations

import json
import math
from base64 import b64encode

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from k8strace.exporters._debug_text import Fragments, detailed, normal
from tests.support.requests import request


def text_of(fragments: Fragments) -> str:
    return b"".join(fragments).decode()


def typed(value: AnyValue) -> str:
    """How `detailed` writes the value of an attribute."""
    message = ExportTraceServiceRequest()
    message.resource_spans.add().resource.attributes.add(key="k").value.CopyFrom(value)
    _, _, line = text_of(detailed(message)).partition("     -> k: ")
    return line.removesuffix("\n")


TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(17, 25))
# 2020-02-11 20:26:12.000000321 and 20:26:13.000000789
START, END = 1581452772_000000321, 1581452773_000000789


def full_request() -> ExportTraceServiceRequest:
    """A request that has something in every place that is printed."""
    message = ExportTraceServiceRequest()
    group = message.resource_spans.add(schema_url="https://example.org/resource")
    group.resource.attributes.add(key="service.name").value.string_value = "apiserver"
    group.resource.attributes.add(key="ready").value.bool_value = False
    group.resource.entity_refs.add(
        type="service",
        schema_url="https://example.org/entity",
        id_keys=["service.name"],
        description_keys=["service.version"],
    )
    group.resource.entity_refs.add(type="host")
    scope_spans = group.scope_spans.add(schema_url="https://example.org/scope")
    scope_spans.scope.name = "k8s.io/component-base/tracing"
    scope_spans.scope.version = "1.36.3"
    scope_spans.scope.attributes.add(key="generation").value.int_value = 2
    span = scope_spans.spans.add(
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        parent_span_id=SPAN_ID[::-1],
        trace_state="ot=th:0",
        name="Create etcd3",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=START,
        end_time_unix_nano=END,
        dropped_attributes_count=1,
        dropped_events_count=2,
        dropped_links_count=3,
        status=Status(code=Status.STATUS_CODE_ERROR, message="cancelled"),
    )
    span.attributes.add(key="audit-id").value.string_value = "5f6d7a8"
    span.attributes.add(key="limit").value.int_value = 500
    event = span.events.add(
        name="Txn call succeeded", time_unix_nano=END, dropped_attributes_count=4
    )
    event.attributes.add(key="len").value.int_value = 412
    span.events.add(name="bare", time_unix_nano=START)
    link = span.links.add(
        trace_id=TRACE_ID, span_id=SPAN_ID, trace_state="a=b", dropped_attributes_count=5
    )
    link.attributes.add(key="kind").value.string_value = "caller"
    span.links.add()
    group.scope_spans.add().spans.add(name="empty")
    return message


DETAILED = """\
ResourceSpans #0
Resource SchemaURL: https://example.org/resource
Resource attributes:
     -> service.name: Str(apiserver)
     -> ready: Bool(false)
Resource entity refs:
     -> Entity ref #0:
          -> Type: service
          -> Schema URL: https://example.org/entity
          -> ID keys:
               -> service.name
          -> Description keys:
               -> service.version
     -> Entity ref #1:
          -> Type: host
ScopeSpans #0
ScopeSpans SchemaURL: https://example.org/scope
InstrumentationScope k8s.io/component-base/tracing 1.36.3
InstrumentationScope attributes:
     -> generation: Int(2)
Span #0
    Trace ID       : 0102030405060708090a0b0c0d0e0f10
    Parent ID      : 1817161514131211
    ID             : 1112131415161718
    Name           : Create etcd3
    Kind           : Server
    TraceState     : ot=th:0
    Start time     : 2020-02-11 20:26:12.000000321 +0000 UTC
    End time       : 2020-02-11 20:26:13.000000789 +0000 UTC
    Status code    : Error
    Status message : cancelled
    DroppedAttributesCount: 1
    DroppedEventsCount: 2
    DroppedLinksCount: 3
Attributes:
     -> audit-id: Str(5f6d7a8)
     -> limit: Int(500)
Events:
SpanEvent #0
     -> Name: Txn call succeeded
     -> Timestamp: 2020-02-11 20:26:13.000000789 +0000 UTC
     -> DroppedAttributesCount: 4
     -> Attributes::
          -> len: Int(412)
SpanEvent #1
     -> Name: bare
     -> Timestamp: 2020-02-11 20:26:12.000000321 +0000 UTC
     -> DroppedAttributesCount: 0
Links:
SpanLink #0
     -> Trace ID: 0102030405060708090a0b0c0d0e0f10
     -> ID: 1112131415161718
     -> TraceState: a=b
     -> DroppedAttributesCount: 5
     -> Attributes::
          -> kind: Str(caller)
SpanLink #1
     -> Trace ID: {end}
     -> ID: {end}
     -> TraceState: {end}
     -> DroppedAttributesCount: 0
ScopeSpans #1
ScopeSpans SchemaURL: {end}
InstrumentationScope  {end}
Span #0
    Trace ID       : {end}
    Parent ID      : {end}
    ID             : {end}
    Name           : empty
    Kind           : Unspecified
    Start time     : 1970-01-01 00:00:00 +0000 UTC
    End time       : 1970-01-01 00:00:00 +0000 UTC
    Status code    : Unset
    Status message : {end}
    DroppedAttributesCount: 0
    DroppedEventsCount: 0
    DroppedLinksCount: 0
""".format(end="")

NORMAL = """\
ResourceTraces #0 [https://example.org/resource] service.name=apiserver ready=false
ScopeTraces #0 k8s.io/component-base/tracing@1.36.3 [https://example.org/scope] generation=2
Create etcd3 0102030405060708090a0b0c0d0e0f10 1112131415161718 audit-id=5f6d7a8 limit=500
ScopeTraces #1
empty {end}
""".format(end=" ")


def test_detailed_has_a_line_for_each_field() -> None:
    assert text_of(detailed(full_request())) == DETAILED


def test_normal_has_a_line_for_each_span() -> None:
    assert text_of(normal(full_request())) == NORMAL


def test_an_empty_request_has_no_lines() -> None:
    assert text_of(detailed(ExportTraceServiceRequest())) == ""
    assert text_of(normal(ExportTraceServiceRequest())) == ""


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (500_000_000, "1970-01-01 00:00:00.5 +0000 UTC"),
        (1_700_000_000_000_000_000, "2023-11-14 22:13:20 +0000 UTC"),
        ((1 << 63) - 1, "2262-04-11 23:47:16.854775807 +0000 UTC"),
        ((1 << 64) - 1, "1969-12-31 23:59:59.999999999 +0000 UTC"),
    ],
)
def test_times_are_those_of_go(nanoseconds: int, expected: str) -> None:
    message = ExportTraceServiceRequest()
    span = message.resource_spans.add().scope_spans.add().spans.add()
    span.start_time_unix_nano = nanoseconds
    assert f"    Start time     : {expected}\n" in text_of(detailed(message))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (5.5, "5.5"),
        (5.0, "5"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (1e20, "100000000000000000000"),
        (123456789012345680.0, "123456789012345680"),
        (1e21, "1e+21"),
        (1e-6, "0.000001"),
        (1.5e-7, "1.5e-7"),
        (1e-10, "1e-10"),
        (1e300, "1e+300"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_doubles_are_written_as_the_collector_writes_them(
    number: float, expected: str
) -> None:
    assert typed(AnyValue(double_value=number)) == f"Double({expected})"


def test_nested_values_are_json() -> None:
    value = AnyValue()
    items = value.array_value.values
    items.add().string_value = 'a"<b>é'
    items.add().int_value = 42
    items.add().array_value.values.add().bytes_value = b"\x01\x02"
    items.add().bool_value = True
    items.add()
    pairs = items.add().kvlist_value.values
    pairs.add(key="zoo").value.double_value = 5.5
    pairs.add(key="bar").value.kvlist_value.SetInParent()
    assert typed(value) == 'Slice(["a\\"<b>é",42,["AQI="],true,null,{"bar":{},"zoo":5.5}])'
    assert typed(items[5]) == 'Map({"bar":{},"zoo":5.5})'
    assert typed(AnyValue(bytes_value=b"\x01\x02")) == "Bytes(AQI=)"
    assert typed(AnyValue()) == "Empty()"


def test_control_characters_cannot_reach_the_terminal() -> None:
    message = request(1)
    span = message.resource_spans[0].scope_spans[0].spans[0]
    span.name = "a\x1b[2Jb\x9bc\rd\te\nf"
    for text in map(text_of, (detailed(message), normal(message))):
        assert "a\\x1b[2Jb\\x9bc\\x0dd\te\nf" in text


def test_unknown_enums_have_no_name() -> None:
    message = ExportTraceServiceRequest()
    span = message.resource_spans.add().scope_spans.add().spans.add()
    # Not in the enums: a sender of a later version.
    span.MergeFromString(b"\x30\x63")
    span.status.MergeFromString(b"\x18\x63")
    text = text_of(detailed(message))
    assert "    Kind           : \n" in text
    assert "    Status code    : \n" in text


@pytest.mark.parametrize("length", [12_287, 12_288, 12_289, 40_000])
def test_long_values_are_written_in_parts_and_whole(length: int) -> None:
    text = ('a\x01é"' * length)[:length]
    assert typed(AnyValue(string_value=text)) == f"Str({text})".replace("\x01", "\\x01")
    data = bytes(index % 251 for index in range(length))
    assert typed(AnyValue(bytes_value=data)) == f"Bytes({b64encode(data).decode()})"
    value = AnyValue()
    value.array_value.values.add().string_value = text
    quoted = json.dumps([text], ensure_ascii=False)
    assert typed(value) == f"Slice({quoted})"
