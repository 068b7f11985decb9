"""OTLP's JSON, with protobuf's own mapping as the oracle."""

from __future__ import annotations

import json
import math
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.exporters._otlp_json import encode
from tests.support.clients import recorded
from tests.support.otlp_json import expected, read

VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: st.text(max_size=5),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=16),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_FIXED64: st.integers(0, (1 << 64) - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, (1 << 32) - 1),
    FieldDescriptor.TYPE_FIXED32: st.integers(0, (1 << 32) - 1),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 9),
}


def fill(draw: st.DrawFn, message: Message, depth: int, everything: bool) -> None:
    """Set fields of `message` and below it; every field it has, or some of them."""
    descriptor = message.DESCRIPTOR
    for field in descriptor.fields:
        if field.containing_oneof is not None or not (everything or draw(st.booleans())):
            continue
        fill_field(draw, message, field, depth, everything)
    for oneof in descriptor.oneofs:
        choices = [f for f in oneof.fields if depth or f.message_type is None]
        fill_field(draw, message, draw(st.sampled_from(choices)), depth, everything)


def fill_field(
    draw: st.DrawFn, message: Message, field: Any, depth: int, everything: bool
) -> None:
    target = getattr(message, field.name)
    times = draw(st.integers(1, 2)) if field.is_repeated else 1
    if field.message_type is not None:
        for _ in range(times):
            below = target.add() if field.is_repeated else target
            below.SetInParent()
            fill(draw, below, max(0, depth - 1), everything)
    elif field.is_repeated:
        target.extend(draw(VALUES[field.type]) for _ in range(times))
    else:
        setattr(message, field.name, draw(VALUES[field.type]))


@st.composite
def requests(draw: st.DrawFn) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        fill(draw, message.resource_spans.add(), 7, draw(st.booleans()))
    return message


@given(requests())
def test_any_request_is_protobufs_json_but_for_ids_and_enums(
    message: ExportTraceServiceRequest,
) -> None:
    line = b"".join(encode(message))
    assert json.loads(line) == expected(message)
    assert b"\n" not in line


def test_real_requests_come_back_span_for_span() -> None:
    for body in recorded()[:3]:
        message = ExportTraceServiceRequest.FromString(body)
        assert read(b"".join(encode(message))) == message


def test_the_form_that_the_specification_asks_for() -> None:
    message = ExportTraceServiceRequest()
    span = (
        message.resource_spans.add()
        .scope_spans.add()
        .spans.add(
            trace_id=b"\xab" * 16,
            span_id=b"\xcd" * 8,
            kind="SPAN_KIND_SERVER",
            start_time_unix_nano=1_700_000_000_000_000_001,
        )
    )
    span.attributes.add(key="n").value.int_value = -1
    span.attributes.add(key="d").value.double_value = math.inf
    assert json.loads(b"".join(encode(message)))["resourceSpans"][0]["scopeSpans"][0][
        "spans"
    ] == [
        {
            "traceId": "ab" * 16,
            "spanId": "cd" * 8,
            "kind": 2,
            "startTimeUnixNano": "1700000000000000001",
            "attributes": [
                {"key": "n", "value": {"intValue": "-1"}},
                {"key": "d", "value": {"doubleValue": "Infinity"}},
            ],
        }
    ]
