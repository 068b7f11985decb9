"""One operation on the bytes of a request, with protobuf's parse of it beside it.

The parse is what a gateway that decodes spans pays before it has looked at any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.kube import kube_request
from k8strace import _fastpath

SPANS = (1, 10, 100, 512, 4096)
SAMPLED = 15.0  # percent
SEED = 22
PRECISION = 4

Chunks = tuple[bytes, ...]
T = TypeVar("T")
W = TypeVar("W", bound=_fastpath.Work)


def run(benchmark: BenchmarkFixture, spans: int, operation: Callable[[Chunks], T]) -> T:
    """Measure `operation` on a request of so many spans."""
    body = kube_request(spans)
    benchmark.group = f"fastpath: {spans} spans"
    benchmark.extra_info["bytes"] = len(body)
    result: T = benchmark(operation, (body,))
    return result


def done(work: W) -> W:
    """All steps of `work`, as `passes.complete` goes through them."""
    while not work.is_done:
        work.run()
    return work


def sampler(mode: int, percentage: float) -> Callable[[Chunks], _fastpath.Sampled]:
    arguments = mode, percentage, SEED, PRECISION, True
    return lambda chunks: done(_fastpath.Sampling(chunks, *arguments)).take()


def cut(chunks: Chunks, max_spans: int = 0, max_bytes: int = 0) -> list[bytes]:
    """All pieces, as `pieces.Pieces` makes them."""
    work = _fastpath.Cutting(chunks, max_spans, max_bytes)
    found = []
    while not work.is_done:
        work.run()
        work.run()
        found.append(work.take())
    return found


@pytest.mark.parametrize("spans", SPANS)
def test_count(benchmark: BenchmarkFixture, spans: int) -> None:
    assert run(benchmark, spans, _fastpath.count) == (spans, 0, 0, 0)


@pytest.mark.parametrize("spans", SPANS)
def test_count_deep(benchmark: BenchmarkFixture, spans: int) -> None:
    counted = run(benchmark, spans, lambda chunks: _fastpath.count(chunks, True))
    assert counted == (spans, 0, 0, 0)


@pytest.mark.parametrize("spans", SPANS)
def test_clean(benchmark: BenchmarkFixture, spans: int) -> None:
    cleaned = run(benchmark, spans, lambda chunks: done(_fastpath.Cleaning(chunks)).take())
    assert cleaned[1] == spans


@pytest.mark.parametrize("percentage", [SAMPLED, 100.0])
@pytest.mark.parametrize("mode", ["hash_seed", "proportional", "equalizing"])
@pytest.mark.parametrize("spans", SPANS)
def test_sample(
    benchmark: BenchmarkFixture, mode: str, percentage: float, spans: int
) -> None:
    number = getattr(_fastpath, mode.upper())
    found = run(benchmark, spans, sampler(number, percentage))
    assert found.kept + found.sampled_out == spans
    assert found.kept == spans or percentage < 100


@pytest.mark.parametrize("spans", SPANS)
def test_cut_by_spans(benchmark: BenchmarkFixture, spans: int) -> None:
    limit = max(spans // 4, 1)
    pieces = run(benchmark, spans, lambda chunks: cut(chunks, limit))
    assert _fastpath.count(tuple(pieces)).spans == spans


@pytest.mark.parametrize("spans", SPANS)
def test_cut_by_bytes(benchmark: BenchmarkFixture, spans: int) -> None:
    limit = max(len(kube_request(spans)) // 4, 1)
    pieces = run(benchmark, spans, lambda chunks: cut(chunks, 0, limit))
    assert _fastpath.count(tuple(pieces)).spans == spans


@pytest.mark.parametrize("spans", SPANS)
def test_group_by_trace(benchmark: BenchmarkFixture, spans: int) -> None:
    groups = run(benchmark, spans, _fastpath.group_by_trace)
    assert sum(some for _, _, some in groups) == spans


@pytest.mark.parametrize("spans", SPANS)
def test_fields(benchmark: BenchmarkFixture, spans: int) -> None:
    names = ("trace_id", "name", "service")
    columns = run(benchmark, spans, lambda chunks: _fastpath.fields(chunks, *names))
    assert [len(column) for column in columns] == [spans] * 3


@pytest.mark.parametrize("spans", SPANS)
def test_protobuf_parse(benchmark: BenchmarkFixture, spans: int) -> None:
    parsed = run(
        benchmark, spans, lambda chunks: ExportTraceServiceRequest.FromString(chunks[0])
    )
    assert parsed.resource_spans
