"""The requests are what the page says of them, and always the same."""

from __future__ import annotations

import gzip

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from benchmarks.peers.matrix import SPAN_SIZES, Cell
from benchmarks.peers.payloads import HASH_SEED, RING_SPANS, Request, ring, seeded, total
from k8strace import _fastpath


def test_seeded_spans() -> None:
    (body,) = seeded(512, 1)
    request = ExportTraceServiceRequest.FromString(body)
    spans = request.resource_spans[0].scope_spans[0].spans
    assert len(spans) == 512
    assert len({span.trace_id for span in spans}) == 512
    assert {len(span.attributes) for span in spans} == {8}
    assert {len(span.events) for span in spans} == {1}
    assert 400 < len(body) / 512 < 420
    assert seeded(512, 2)[0] == body != seeded(512, 2)[1]


@pytest.mark.parametrize("size", SPAN_SIZES)
def test_spans_of_other_sizes(size: int) -> None:
    for spans in (1, 10):
        requests = ring(Cell("forward", "none", f"{spans}x{size}"))
        assert {one.spans for one in requests} == {spans}
        sizes = [
            span.ByteSize()
            for one in requests[:20]
            for span in ExportTraceServiceRequest.FromString(one.message)
            .resource_spans[0]
            .scope_spans[0]
            .spans
        ]
        assert min(sizes) > 0.85 * size
        assert max(sizes) < 1.15 * size
        assert len({one.message for one in requests}) == len(requests)


@pytest.mark.parametrize("payload", ["512", "kube"])
def test_a_ring_knows_what_is_in_it(payload: str) -> None:
    plain = ring(Cell("sample", "none", payload))
    packed = ring(Cell("sample", "gzip", payload))
    assert [gzip.decompress(one.message) for one in packed] == [
        one.message for one in plain
    ]
    for one in plain:
        spans = _fastpath.count((one.message,)).spans
        kept = _fastpath.sample(
            (one.message,), _fastpath.HASH_SEED, 10, HASH_SEED, 4, True
        ).kept
        assert (one.size, one.spans, one.sampled) == (len(one.message), spans, kept)
    if payload != "kube":
        assert sum(one.spans for one in plain) == RING_SPANS


def test_totals_go_round_the_ring() -> None:
    requests = [Request(b"", 1, 10, 1), Request(b"", 2, 20, 0), Request(b"", 3, 40, 5)]
    assert total(requests, 0, "spans") == 0
    assert total(requests, 2, "spans") == 30
    assert total(requests, 7, "spans") == 150
    assert total(requests, 4, "sampled") == 7
