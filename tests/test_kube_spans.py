"""The demo's traces have the shape of a kube-apiserver's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from random import Random

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from k8strace._kube_spans import Cluster

NOW = 1_700_000_000_000_000_000


def serve(seed: int, requests: int) -> list[list[ReadableSpan]]:
    """The spans of each request."""
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    cluster = Cluster(Random(seed), {"apiserver": processor, "etcd": processor})
    result = []
    for _ in range(requests):
        made = cluster.serve(NOW)
        spans = list(exporter.get_finished_spans())
        assert len(spans) == made
        result.append(spans)
        exporter.clear()
    cluster.shutdown()
    return result


@pytest.fixture(scope="module")
def served() -> list[list[ReadableSpan]]:
    return serve(1, 400)


def service(span: ReadableSpan) -> object:
    return span.resource.attributes["service.name"]


def by_id(spans: Sequence[ReadableSpan]) -> dict[int, ReadableSpan]:
    return {span.context.span_id: span for span in spans if span.context}


def test_every_parent_is_there_and_lasts_as_long(served: list[list[ReadableSpan]]) -> None:
    for spans in served:
        known = by_id(spans)
        assert len(known) == len(spans)
        for span in spans:
            assert span.start_time is not None
            assert span.end_time is not None
            assert span.start_time <= span.end_time <= NOW
            if span.parent is None:
                continue
            parent = known[span.parent.span_id]
            assert parent.context is not None
            assert span.context is not None
            assert parent.context.trace_id == span.context.trace_id
            assert (parent.start_time or 0) <= span.start_time
            assert span.end_time <= (parent.end_time or 0)


def test_traces_begin_as_those_of_an_apiserver(served: list[list[ReadableSpan]]) -> None:
    roots = [span for spans in served for span in spans if span.parent is None]
    forms = {(span.name.split()[0], span.kind) for span in roots}
    assert ("authentication", SpanKind.INTERNAL) in forms
    assert ("GET", SpanKind.SERVER) in forms
    assert ("HTTP", SpanKind.CLIENT) in forms
    # A user's request is a trace of its own beside the one of its authentication.
    traces = [len({s.context.trace_id for s in spans if s.context}) for spans in served]
    assert set(traces) == {1, 2}


def test_a_server_span_has_the_filters_below_it(served: list[list[ReadableSpan]]) -> None:
    filters = ["audit", "constrainedimpersonation", "priorityandfairness", "authorization"]
    found = 0
    for spans in served:
        children = defaultdict(list)
        for span in spans:
            if span.parent:
                children[span.parent.span_id].append(span)
        for span in spans:
            if span.kind is SpanKind.SERVER and service(span) == "apiserver":
                found += 1
                chain = span
                for name in filters:
                    assert chain.context is not None
                    (chain,) = children[chain.context.span_id]
                    assert chain.name == name
                    assert not chain.attributes
    assert found > 300


def test_etcd_serves_what_the_apiserver_calls(served: list[list[ReadableSpan]]) -> None:
    calls = [span for spans in served for span in spans if service(span) == "etcd"]
    assert len(calls) > 200
    for spans in served:
        known = by_id(spans)
        for span in spans:
            if service(span) != "etcd":
                continue
            assert span.parent is not None
            caller = known[span.parent.span_id]
            assert (caller.name, caller.kind) == (span.name, SpanKind.CLIENT)
            assert service(caller) == "apiserver"
            assert span.kind is SpanKind.SERVER
            assert span.attributes is not None
            assert span.attributes["rpc.service"] == "etcdserverpb.KV"


def test_attributes_are_strings_and_numbers_and_errors_are_rare(
    served: list[list[ReadableSpan]],
) -> None:
    spans = [span for spans in served for span in spans]
    assert {type(v) for s in spans for v in (s.attributes or {}).values()} == {str, int}
    failed = [span for span in spans if span.status.status_code is StatusCode.ERROR]
    assert failed
    assert {span.name for span in failed} == {"HTTP GET"}
    assert sum(len(span.events) for span in spans) > len(spans) / 4


def test_resources_say_who_it_was(served: list[list[ReadableSpan]]) -> None:
    resources = {
        str(service(span)): dict(span.resource.attributes)
        for spans in served
        for span in spans
    }
    identity = str(resources["apiserver"].pop("service.instance.id"))
    assert identity.startswith("apiserver-")
    assert len(identity) == len("apiserver-") + 26
    assert resources == {
        "apiserver": {"service.name": "apiserver"},
        "etcd": {"service.name": "etcd"},
    }


def test_a_seed_gives_the_same_spans() -> None:
    def read(seed: int) -> list[tuple[object, ...]]:
        return [
            (span.name, span.context and span.context.span_id, dict(span.attributes or {}))
            for spans in serve(seed, 20)
            for span in spans
        ]

    assert read(7) == read(7)
    assert read(7) != read(8)
