"""How much an exporter that reads spans with protobuf, in Python, takes at a time.

A decoded span takes many times its bytes, and Python milliseconds for some hundreds of
them. So these exporters get requests in pieces of bounded size, and a single span that
is larger is not decoded where the budget could not hold what becomes of it.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.budget import Budget
from k8strace.errors import RejectedError
from k8strace.payload import Payload

MAX_BYTES = 256 * 1024
MAX_SPANS = 500
GROWTH = 64  # times its bytes: what a message of tiny attributes takes, decoded and as text


def decoded(payload: Payload, budget: Budget) -> ExportTraceServiceRequest:
    """The request, read by protobuf. Raises RejectedError."""
    if payload.size > MAX_BYTES and GROWTH * payload.size > budget.limit // 2:
        raise RejectedError(
            f"a span of {payload.size} bytes, with its resource, is too large to be "
            f"decoded within the memory budget ({budget.limit} bytes)",
            "msg_too_large",
        )
    try:
        return ExportTraceServiceRequest.FromString(b"".join(payload.chunks))
    except DecodeError as error:
        text = f"spans that cannot be decoded: {error}"
        raise RejectedError(text, "decode_error") from error
