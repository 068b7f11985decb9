"""A real kube-apiserver and etcd send what they do to a gateway: all of it arrives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import pytest_asyncio

from tests.end_to_end.kube import binaries
from tests.end_to_end.kube.callees import GROUP_VERSION
from tests.end_to_end.kube.expectations import (
    AGGREGATED,
    CONVERSION,
    EXPECTATIONS,
    OUTGOING,
    WEBHOOK,
    Evidence,
)
from tests.end_to_end.kube.run import Run, run
from tests.end_to_end.kube.spans import SERVER

pytestmark = [
    pytest.mark.control_plane,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]
ROUNDS = 5
# What is below a caller that doesn't sample: a ConfigMap is stored, its webhook looks for
# two things, and an aggregated API for one.
UNSAMPLED = Counter({"etcdserverpb.KV/Txn": 1, "etcdserverpb.KV/Range": 3})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def done(tmp_path_factory: pytest.TempPathFactory, tables: list[str]) -> Run:
    """One run, which all tests look at."""
    result = await run(tmp_path_factory.mktemp("kube"), ROUNDS)
    tables.append(table(result))
    return result


def accepted(done: Run) -> float:
    return done.samples.sum("otelcol_receiver_accepted_spans_total")


def sent(done: Run) -> int:
    return sum(one.sent for one in done.exports.values())


async def test_nothing_is_lost_between_the_components_and_the_backend(done: Run) -> None:
    """Exporters' count, the gateway's two, and the backend's, span by span."""
    assert sent(done) > 5000
    assert accepted(done) == sent(done)
    assert done.samples.sum("otelcol_exporter_sent_spans_total") == sent(done)
    assert len(done.delivered) == done.delivered.total() == sent(done)
    assert len(done.evidence.spans.by_id) == sent(done)
    for name in ("refused", "failed"):
        assert done.samples.sum(f"otelcol_receiver_{name}_spans_total") == 0


async def test_the_components_lose_nothing_themselves(done: Run) -> None:
    for exports in done.exports.values():
        assert (exports.failed, exports.dropped) == (0, 0)


async def test_each_call_that_etcd_counts_has_its_span(done: Run) -> None:
    spans = Counter(
        span.name
        for span in done.evidence.spans
        if (span.service, span.kind) == ("etcd", SERVER)
    )
    assert spans + UNSAMPLED == done.handled


@pytest.mark.parametrize("expectation", EXPECTATIONS)
async def test_spans_are_as_documented(
    expectation: Callable[[Evidence], None], done: Run
) -> None:
    expectation(done.evidence)


async def test_those_who_are_called_get_the_context_of_the_call(done: Run) -> None:
    """traceparent has the span of the very request; tracestate and baggage go with it."""
    calls = {
        (span.trace, span.id)
        for kind, span in done.evidence.made()
        if kind in (WEBHOOK, AGGREGATED, CONVERSION)
    }
    seen = 0
    for call in done.called:
        things = call.path.startswith(f"/apis/{GROUP_VERSION}/")
        if call.path == "/convert" or call.method == "POST" or things:
            _, trace_id, span_id, flags = call.headers["traceparent"].split("-")
            if flags == "01":
                assert (trace_id, span_id) in calls, call
                seen += 1
            else:
                assert flags == "00"
                assert (trace_id, span_id) not in calls, call
    assert seen >= 2 * ROUNDS
    told = [call.headers for call in done.called if "baggage" in call.headers]
    for headers in told:
        assert sorted(headers["baggage"].split(",")) == ["tier=gold", "user=x"]
    assert any(headers.get("tracestate") == "vendor=abc,other=1" for headers in told)


def table(done: Run) -> str:
    """What was sent, and where it arrived."""
    evidence = done.evidence
    outgoing = evidence.outgoing()
    rows: list[tuple[str, float]] = [
        *((f"spans sent by {name}", one.sent) for name, one in done.exports.items()),
        ("spans accepted by the gateway", accepted(done)),
        ("spans delivered to the backend", done.delivered.total()),
        ("requests to the kube-apiserver", sum(1 for _ in evidence.served())),
        *((f"requests from it to {kind}", outgoing[kind]) for kind in OUTGOING),
        ("calls that etcd counted", sum(done.handled.values())),
        (
            "spans dropped by the components",
            sum(one.dropped + one.failed for one in done.exports.values()),
        ),
    ]
    kubernetes, etcd = binaries.kubernetes_version(), binaries.etcd_version()
    lines = [f"kube-apiserver {kubernetes}, etcd {etcd}, 100 %:"]
    lines += [f"  {name:<48} {count:>8,.0f}" for name, count in rows]
    return "\n".join(lines) + "\n"
