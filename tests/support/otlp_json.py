"""OTLP's JSON by way of protobuf's own mapping."""

from __future__ import annotations

import base64
import json
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

IDS = {"traceId", "spanId", "parentSpanId"}


def expected(message: ExportTraceServiceRequest) -> dict[str, Any]:
    """protobuf's JSON with what OTLP does otherwise: ids in hex, enums as numbers."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: base64.b64decode(one).hex() if key in IDS else convert(one)
                for key, one in value.items()
            }
        return list(map(convert, value)) if isinstance(value, list) else value

    converted = convert(json_format.MessageToDict(message, use_integers_for_enums=True))
    assert isinstance(converted, dict)
    return {"resourceSpans": [], **converted}


def read(line: bytes) -> ExportTraceServiceRequest:
    """A request from OTLP's JSON."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: base64.b64encode(bytes.fromhex(one)).decode()
                if key in IDS
                else convert(one)
                for key, one in value.items()
            }
        return list(map(convert, value)) if isinstance(value, list) else value

    return json_format.ParseDict(convert(json.loads(line)), ExportTraceServiceRequest())
