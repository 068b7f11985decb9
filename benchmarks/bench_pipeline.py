"""A request's way through processors to a sink, without sockets.

One operation is one request: a payload with its lease goes in, and the batch that it fills,
if it does, comes out behind the last processor. Protobuf's parse of the same request stands
beside it: what a pipeline that decodes spans pays before it has done anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.kube import kube_request
from k8strace import _fastpath
from k8strace.budget import Budget
from k8strace.component import Component, Config, Promise
from k8strace.driver import Done, begin
from k8strace.edges import Edge
from k8strace.metrics import Ledger, Metrics
from k8strace.payload import Origin, Payload
from k8strace.processors.batch import Batch
from k8strace.processors.memory_limiter import MemoryLimiter
from k8strace.processors.probabilistic_sampler import ProbabilisticSampler
from tests.support.pipeline import MIB, Sink, configured, context

SPANS = (1, 10, 100, 512, 4096)
SAMPLED = 15  # percent
ORIGIN = Origin("10.0.0.7:51812")

Chain = tuple[tuple[type[Component[Any]], dict[str, Any]], ...]

BATCH = (Batch, {"timeout": "1h"})
SAMPLER = (ProbabilisticSampler, {"sampling_percentage": SAMPLED, "hash_seed": 22})
LIMITER = (MemoryLimiter, {"check_interval": "1h", "limit_mib": 512})

CHAINS: dict[str, Chain] = {
    "batch": (BATCH,),
    "sampler": (SAMPLER,),
    "limiter, sampler, batch": (LIMITER, SAMPLER, BATCH),
}


class Forgetful(Sink):
    """Takes everything and keeps nothing."""

    async def consume(self, payload: Payload) -> None:
        self.ledger.sent += payload.spans


def pipeline(chain: Chain, budget: Budget) -> tuple[Edge, Forgetful]:
    """The way into a chain of processors, and what stands behind it."""
    metrics = Metrics()
    sink = Forgetful(context("exporters", "sink", metrics=metrics))
    sink.promised = Promise.MEMORY
    consumer: Any = sink
    for component, values in reversed(chain):
        ctx = context("processors", component.type_name, metrics=metrics, budget=budget)
        config: Config = configured(component, values)
        consumer = component(config, ctx, Edge(ctx.ledger, consumer))  # type: ignore[call-arg]
    return Edge(Ledger(), consumer), sink


def in_a_loop(benchmark: BenchmarkFixture, operation: Callable[[], None]) -> None:
    """Measure `operation`, which needs a running loop but never waits for it."""

    async def run() -> None:
        benchmark(operation)

    asyncio.run(run())


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("spans", SPANS)
def test_chain(benchmark: BenchmarkFixture, chain: str, spans: int) -> None:
    body = kube_request(spans)
    budget = Budget(512 * MIB)
    into, sink = pipeline(CHAINS[chain], budget)
    benchmark.group = f"pipeline: {spans} spans"
    benchmark.extra_info["bytes"] = len(body)

    def hand_on() -> None:
        lease = budget.lease(len(body), ORIGIN.peer)
        step = begin(into(Payload((body,), spans, len(body), ORIGIN, (), lease)))
        assert isinstance(step, Done)

    def hand_on_and_wait() -> None:
        lease = budget.lease(len(body), ORIGIN.peer)
        loop.run_until_complete(into(Payload((body,), spans, len(body), ORIGIN, (), lease)))

    if len(body) <= _fastpath.AT_ONCE:
        in_a_loop(benchmark, hand_on)
    else:  # threads of C do what would hold up the loop
        loop = asyncio.new_event_loop()
        with closing(loop):
            benchmark(hand_on_and_wait)
    assert into.target.ledger.received
    assert into.target.ledger.in_flight == 0
    assert sink.ledger.in_flight == 0


@pytest.mark.parametrize("spans", SPANS)
def test_protobuf_parse(benchmark: BenchmarkFixture, spans: int) -> None:
    body = kube_request(spans)
    benchmark.group = f"pipeline: {spans} spans"
    benchmark.extra_info["bytes"] = len(body)
    assert benchmark(ExportTraceServiceRequest.FromString, body).resource_spans
