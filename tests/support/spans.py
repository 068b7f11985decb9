"""What a rig answers with that takes spans and knows them again."""

from __future__ import annotations

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.errors import RefusedError
from k8strace.grpc import Call
from tests.support.requests import span_ids


class Spans:
    """The ids that came; the first `refusals` requests are to come once more."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.ids: set[bytes] = set()

    async def __call__(self, call: Call) -> bytes:
        if self.refusals:
            self.refusals -= 1
            raise RefusedError("later", 0.1)
        ids = span_ids(ExportTraceServiceRequest.FromString(call.message))
        assert self.ids.isdisjoint(ids)
        self.ids.update(ids)
        return b""
