"""Trace requests made of any bytes, as k8strace reads, cuts and shows them."""

from __future__ import annotations

import json
from contextlib import suppress

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace import _fastpath as fastpath
from k8strace.errors import MalformedPayloadError
from k8strace.exporters import _otlp_json
from tests.support.oracle import Row, agrees, rows
from tests.support.otlp_json import expected
from tests.support.requests import parse

NAMES = ("trace_id", "span_id", "parent_span_id", "trace_state", "name", "service")
NUMBERS = ("kind", "start", "end", "status", "flags")


def trace_request(data: bytes) -> None:
    """What `count` takes in, all operations take in, and lose no span of it.

    protobuf reads the same of it, before and afterwards.
    """
    chunks = (data,)
    taken = agrees(data)
    try:
        counted = fastpath.count(chunks)
    except MalformedPayloadError:
        return
    verdicts = fastpath.valid(chunks)
    spans = len(verdicts)
    assert sum(verdicts) == counted.spans == spans - counted.bad_ids
    assert fastpath.keep(chunks, b"\1" * spans) == (chunks, spans) or spans == 0
    some = bytes(number & 1 for number in range(spans))
    kept, number = fastpath.keep(chunks, some)
    assert number == sum(some) == len(fastpath.valid(kept))
    before = None if taken is None else rows(taken)
    if before is not None:
        assert rows(parse(kept)) == before[1::2]
    for most, largest in ((1, 0), (0, 100), (2, 200)):
        parts = fastpath.split(chunks, most, largest)
        assert sum(part[1] for part in parts) == spans
        assert sum(len(fastpath.valid(part[0])) for part in parts) == spans
        assert [sum(map(len, part[0])) for part in parts] == [part[2] for part in parts]
        if before is not None:
            assert rows(parse(chunk for part in parts for chunk in part[0])) == before
    for mode in (fastpath.HASH_SEED, fastpath.PROPORTIONAL, fastpath.EQUALIZING):
        got = fastpath.sample(chunks, mode, 50.0, 7, 4, True)
        assert got.kept + got.sampled_out + got.rejected == spans
        assert len(fastpath.valid(got.chunks)) == got.kept
        if before is not None:
            assert len(rows(parse(got.chunks))) == got.kept
    columns = fastpath.fields(chunks, *NAMES, *NUMBERS)
    assert [len(column) for column in columns] == [spans] * len(columns)
    if before is not None:
        assert columns[0] == [span.trace_id for _, _, span in before]
    if all(len(trace_id) == 16 for trace_id in columns[0] if isinstance(trace_id, bytes)):
        groups = fastpath.group_by_trace(chunks)
        assert sum(group[2] for group in groups) == spans
        if before is not None:
            check_groups(groups, before)


def check_groups(
    groups: list[tuple[bytes, tuple[bytes, ...], int]], before: list[Row]
) -> None:
    for trace_id, some, _ in groups:
        mine = [row for row in before if row[2].trace_id == trace_id]
        assert rows(parse(some)) == mine


def otlp_json(data: bytes) -> None:
    """A request's JSON is one line, and what protobuf's own mapping makes of it."""
    message = ExportTraceServiceRequest()
    with suppress(DecodeError):
        message = ExportTraceServiceRequest.FromString(data)
    line = b"".join(_otlp_json.encode(message))
    assert b"\n" not in line
    assert json.loads(line) == expected(message)
