"""What a control plane sent once, through a gateway again: the same is expected of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from tests.end_to_end.kube.expectations import (
    EXPECTATIONS,
    FILTERS,
    Evidence,
    Sent,
    calls_to_etcd_are_served_by_etcd,
    every_request_is_served_once,
    only_known_parents_are_missing,
    requests_pass_the_filters,
    requests_to_itself_are_served_inside_their_own_trace,
    webhooks_are_called_inside_the_request,
)
from tests.end_to_end.kube.run import gateway_for
from tests.end_to_end.kube.spans import CLIENT, SERVER, Span, Spans, read
from tests.support.backend import Backend
from tests.support.clients import KUBE, Client
from tests.support.requests import span_ids

pytestmark = pytest.mark.asyncio(loop_scope="module")
OWN = "127.0.0.1:26443"  # where the recorded kube-apiserver was
Expectation = Callable[[Evidence], None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """What of the recorded traces comes out of a gateway."""
    body = gzip.decompress((KUBE / "traces.pb.gz").read_bytes())
    sent = msgspec.json.decode((KUBE / "callers.json").read_bytes(), type=tuple[Sent, ...])
    ids = span_ids(ExportTraceServiceRequest.FromString(body))
    folder: Path = tmp_path_factory.mktemp("recorded")
    async with Backend() as backend, gateway_for(backend, folder) as gateway:
        async with Client(await gateway.address("grpc")) as client:
            await client.send(body)
        await backend.wait_for_spans(len(ids))
        await gateway.at_rest()
        assert await gateway.stop() == 0
    assert sorted(backend.ids.elements()) == sorted(ids)
    return Evidence(read(backend.requests), sent, OWN)


@pytest.mark.parametrize("expectation", EXPECTATIONS)
async def test_spans_are_as_documented(
    expectation: Expectation, evidence: Evidence
) -> None:
    expectation(evidence)


def is_filter(span: Span) -> bool:
    return span.name == FILTERS[2]


def is_call_of_webhook(span: Span) -> bool:
    return span.kind == CLIENT and "/mutate" in span.text("url.full")


def is_served_by_etcd(span: Span) -> bool:
    return span.service == "etcd" and span.name == "etcdserverpb.KV/Txn"


def is_served(span: Span) -> bool:
    return span.service == "apiserver" and span.kind == SERVER


@pytest.mark.parametrize(
    ("lost", "expectation"),
    [
        (is_filter, requests_pass_the_filters),
        (is_call_of_webhook, webhooks_are_called_inside_the_request),
        (is_served_by_etcd, calls_to_etcd_are_served_by_etcd),
        (is_served, every_request_is_served_once),
        (is_served, only_known_parents_are_missing),
        (is_served, requests_to_itself_are_served_inside_their_own_trace),
    ],
)
async def test_a_lost_span_is_noticed(
    lost: Callable[[Span], bool], expectation: Expectation, evidence: Evidence
) -> None:
    kept = [span for span in evidence.spans if not lost(span)]
    assert len(kept) < len(evidence.spans)
    with pytest.raises((AssertionError, ValueError)):
        expectation(evidence._replace(spans=Spans(kept)))


async def test_a_caller_that_is_believed_without_reason_is_noticed(
    evidence: Evidence,
) -> None:
    """Where links were parents, a public endpoint would be none."""
    spans = [
        span._replace(trace=span.links[0][0], parent=span.links[0][1], links=())
        if span.links
        else span
        for span in evidence.spans
    ]
    changed = evidence._replace(spans=Spans(spans))
    for expectation in EXPECTATIONS:
        if expectation.__name__.startswith("callers_"):
            with pytest.raises(AssertionError):
                expectation(changed)
