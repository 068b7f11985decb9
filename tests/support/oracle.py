"""Trace requests as protobuf reads them: what the laws of k8strace._fastpath go by."""

from __future__ import annotations

from contextlib import suppress

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from k8strace import _fastpath
from k8strace.errors import MalformedPayloadError
from tests.support.requests import parse

Chunks = tuple[bytes, ...]
# A span with all that it stands in: resource, scope, and what else is beside them.
Row = tuple[bytes, bytes, Span]
BORDERLINE = "a field number that is 0 or too large"


def rows(message: ExportTraceServiceRequest) -> list[Row]:
    found = []
    for resource_spans in message.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            found += [
                (
                    _without(resource_spans, "scope_spans"),
                    _without(scope_spans, "spans"),
                    one,
                )
                for one in scope_spans.spans
            ]
    return found


def _without(message: Message, children: str) -> bytes:
    copied = type(message)()
    copied.CopyFrom(message)
    copied.ClearField(children)
    return copied.SerializeToString(deterministic=True)


def between_resources(chunks: Chunks) -> bytes:
    return _without(parse(chunks), "resource_spans")


def are_good(span: Span) -> bool:
    return (
        (len(span.trace_id), len(span.span_id)) == (16, 8)
        and any(span.trace_id)
        and any(span.span_id)
        and len(span.parent_span_id) in (0, 8)
        and all(
            len(link.trace_id) in (0, 16) and len(link.span_id) in (0, 8)
            for link in span.links
        )
    )


def counted_deep(body: bytes) -> _fastpath.Count | MalformedPayloadError:
    try:
        return _fastpath.count((body,), deep=True)
    except MalformedPayloadError as error:
        return error


def agrees(body: bytes) -> ExportTraceServiceRequest | None:
    """The request, where protobuf takes it in.

    Asserts that `deep` gives protobuf's verdict, and that the rest is no stricter.
    """
    taken = None
    with suppress(DecodeError):
        taken = parse([body])
    counted = counted_deep(body)
    if isinstance(counted, MalformedPayloadError):
        assert 0 <= counted.offset <= len(body)
        # Protobuf lets a field number 0 pass inside an unknown group.
        assert taken is None or counted.reason == BORDERLINE
        return taken
    assert taken is not None or counted.bad_text or counted.bad_ids or counted.too_deep
    assert taken is None or sum(counted) == len(rows(taken))
    shallow = _fastpath.count((body,))
    assert sum(shallow) == sum(counted)
    assert _fastpath.keep((body,), b"\1" * sum(counted))[1] == sum(counted)
    assert sum(spans for _, spans, _ in _fastpath.split((body,), 1)) == sum(counted)
    assert len(_fastpath.fields((body,), "name", "service")[1]) == sum(counted)
    assert sum(_fastpath.sample((body,), 1, 50.0, 0, 4, False)[1:4]) == sum(counted)
    return taken
