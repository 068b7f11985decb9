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


def run(benchmark: BenchmarkFixture, spans: int, operation: Callable[[Chunks], T]) -> T:
    """Measure `operation` on a request of so many spans."""
    body = kube_request(spans)
    benchmark.group = f"fastpath: {spans} spans"
    benchmark.extra_info["bytes"] = len(body)
    result: T = benchmark(operation, (body,))
    return result


def sampler(mode: int, percentage: float) -> Callable[[Chunks], _fastpath.Sampled]:
    def sample(chunks: Chunks) -> _fastpath.Sampled:
        return _fastpath.sample(chunks, mode, percentage, SEED, PRECISION, True)

    return sample


@pytest.mark.parametrize("spans", SPANS)
def test_count(benchmark: BenchmarkFixture, spans: int) -> None:
    assert run(benchmark, spans, _fastpath.count) == (spans, 0, 0, 0)


@pytest.mark.parametrize("spans", SPANS)
def test_count_deep(benchmark: BenchmarkFixture, spans: int) -> None:
    counted = run(benchmark, spans, lambda chunks: _fastpath.count(chunks, True))
    assert counted == (spans, 0, 0, 0)


@pytest.mark.parametrize("spans", SPANS)
def test_valid(benchmark: BenchmarkFixture, spans: int) -> None:
    assert run(benchmark, spans, _fastpath.valid) == b"\1" * spans


@pytest.mark.parametrize("spans", SPANS)
def test_keep_every_second(benchmark: BenchmarkFixture, spans: int) -> None:
    verdicts = bytes(index % 2 == 0 for index in range(spans))
    _, kept = run(benchmark, spans, lambda chunks: _fastpath.keep(chunks, verdicts))
    assert kept == sum(verdicts)


@pytest.mark.parametrize("percentage", [SAMPLED, 100.0])
@pytest.mark.parametrize("mode", ["hash_seed", "proportional", "equalizing"])
@pytest.mark.parametrize("spans", SPANS)
def test_sample(
    benchmark: BenchmarkFixture, mode: str, percentage: float, spans: int
) -> None:
    number = getattr(_fastpath, mode.upper())
    done = run(benchmark, spans, sampler(number, percentage))
    assert done.kept + done.sampled_out == spans
    assert done.kept == spans or percentage < 100


@pytest.mark.parametrize("spans", SPANS)
def test_split_by_spans(benchmark: BenchmarkFixture, spans: int) -> None:
    limit = max(spans // 4, 1)
    pieces = run(benchmark, spans, lambda chunks: _fastpath.split(chunks, limit))
    assert sum(some for _, some, _ in pieces) == spans


@pytest.mark.parametrize("spans", SPANS)
def test_split_by_bytes(benchmark: BenchmarkFixture, spans: int) -> None:
    limit = max(len(kube_request(spans)) // 4, 1)
    pieces = run(benchmark, spans, lambda chunks: _fastpath.split(chunks, 0, limit))
    assert sum(some for _, some, _ in pieces) == spans


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
