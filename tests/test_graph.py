"""Graphs are built, wired, started from the back and stopped from the front."""

from __future__ import annotations

import asyncio

import pytest

from k8strace.component import ComponentID, Promise
from k8strace.config import load
from k8strace.edges import Edge, FanOut
from k8strace.errors import ConfigError
from k8strace.graph import Graph
from k8strace.metrics import Metrics
from tests.support.clients import Client
from tests.support.engine import MIB
from tests.support.memory import Memory
from tests.support.requests import request

HEAD = """
receivers:
  otlp: {protocols: {grpc: {endpoint: "127.0.0.1:0"}}}
processors:
  batch: {timeout: 10ms}
  batch/keyed: {metadata_keys: [tenant]}
  memory_limiter: {check_interval: 1s, limit_mib: 100, spike_limit_mib: 20}
exporters:
  nop:
  nop/two:
  nop/unused:
  otlp: {endpoint: "http://127.0.0.1:1", sending_queue: {wait_for_result: true}}
"""


def graph(service: str, head: str = HEAD) -> Graph:
    return Graph(load([f"yaml:{head}\nservice: {service}"]).config, Metrics())


def test_one_receiver_in_two_pipelines_and_two_exporters_in_one() -> None:
    built = graph(
        "{pipelines: {traces: {receivers: [otlp], exporters: [nop, nop/two]},"
        " traces/two: {receivers: [otlp], processors: [batch], exporters: [nop]}}}"
    )
    assert len(built.receivers) == 1
    assert set(built.exporters) == {ComponentID("nop"), ComponentID("nop", "two")}
    outlet = built.receivers[ComponentID("otlp")].downstream
    assert isinstance(outlet, FanOut)
    targets = [edge.target for edge in outlet.edges]
    batch = built.processors[ComponentID("traces", "two")][0]
    assert targets == [*built.exporters.values(), batch]
    assert isinstance(batch.downstream, Edge)
    assert batch.downstream.target is built.exporters[ComponentID("nop")]


def test_the_promise_is_the_weakest_on_the_way() -> None:
    built = graph(
        "{pipelines: {traces: {receivers: [otlp], processors: [batch], exporters: [otlp]},"
        " traces/two: {receivers: [otlp], exporters: [otlp, nop]}}}"
    )
    assert built.promises[ComponentID("traces")] is Promise.DELIVERED
    assert built.promises[ComponentID("traces", "two")] is Promise.MEMORY


def test_the_least_memory_limit_is_the_budget(memory: Memory) -> None:
    memory.own = 30 * MIB
    built = graph(
        "{pipelines: {traces: {receivers: [otlp], processors: [memory_limiter],"
        " exporters: [nop]}}}"
    )
    assert built.budget.limit == 70 * MIB


@pytest.mark.usefixtures("memory")
def test_a_limiter_before_receivers_counts_too() -> None:
    limiter = "extensions: {memory_limiter: {check_interval: 1s, limit_mib: 50}}\n"
    receivers = HEAD.replace(
        '127.0.0.1:0"', '127.0.0.1:0", middlewares: [{id: memory_limiter}]'
    )
    built = graph(
        "{extensions: [memory_limiter],"
        " pipelines: {traces: {receivers: [otlp], exporters: [nop]}}}",
        limiter + receivers,
    )
    assert built.budget.limit == 50 * MIB


def test_workers_share_the_budget() -> None:
    pipelines = "pipelines: {traces: {receivers: [otlp], exporters: [nop]}}"
    alone = graph(f"{{{pipelines}}}").budget.limit
    assert graph(f"{{workers: 4, {pipelines}}}").budget.limit == alone // 4


@pytest.mark.usefixtures("memory")
def test_origins_that_were_joined_away_are_errors() -> None:
    with pytest.raises(ConfigError, match="put batch/keyed first") as caught:
        graph(
            "{pipelines: {traces: {receivers: [otlp], processors: [batch, batch/keyed],"
            " exporters: [nop]}, traces/two: {receivers: [otlp], exporters: [nop],"
            " processors: [memory_limiter, batch, batch/keyed]}}}"
        )
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        "service::pipelines::traces",
        "service::pipelines::traces/two",
    ]


async def test_starts_serves_and_stops() -> None:
    built = graph(
        "{pipelines: {traces: {receivers: [otlp], processors: [batch], exporters: [nop]}}}"
    )
    await built.start()
    receiver = built.receivers[ComponentID("otlp")]
    async with Client(receiver.addresses["grpc"]) as client:  # type: ignore[attr-defined]
        await client.send(request(12))
    await built.stop(asyncio.get_running_loop().time() + 5)
    assert built.exporters[ComponentID("nop")].ledger.sent == 12
    assert built.undelivered() == {}
    assert built.budget.used == 0
    await built.stop(0)


async def test_what_cannot_start_is_named_and_the_rest_is_stopped() -> None:
    service = "{pipelines: {traces: {receivers: [otlp], exporters: [nop]}}}"
    first = graph(service)
    await first.start()
    address = first.receivers[ComponentID("otlp")].addresses["grpc"]  # type: ignore[attr-defined]
    second = graph(service, HEAD.replace("127.0.0.1:0", address))
    with pytest.raises(ConfigError) as caught:
        await second.start()
    assert caught.value.problems == [
        f"receivers::otlp: cannot listen on {address}: Address already in use"
    ]
    await first.stop(asyncio.get_running_loop().time() + 5)
    await second.start()
    await second.stop(asyncio.get_running_loop().time() + 5)


async def test_an_extension_has_no_place_in_the_accounting() -> None:
    metrics = Metrics()
    text = f"yaml:{HEAD}\nextensions: {{health_check: {{endpoint: '127.0.0.1:0'}}}}\n"
    service = "{extensions: [health_check], pipelines: {traces: {receivers: [otlp],"
    Graph(load([f"{text}service: {service} exporters: [nop]}}}}}}"]).config, metrics)
    samples = [one for family in metrics.collect() for one in family.samples]
    kinds = {one.labels.get("kind") for one in samples if "spans" in one.name}
    assert "exporters" in kinds
    assert "extensions" not in kinds


@pytest.mark.parametrize("keeps", [False, True])
async def test_metadata_that_is_read_and_not_kept_is_told_of(
    keeps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    head = HEAD.replace('127.0.0.1:0"}', f'127.0.0.1:0", include_metadata: {keeps}}}')
    head += """
  otlp/setter: {endpoint: "http://127.0.0.1:1", auth: {authenticator: headers_setter}}
extensions:
  headers_setter:
    headers:
    - {key: X-Tenant, from_context: X-Scope}
    - {key: X-Caller, from_attribute: subject}
    - {key: X-Gone, action: delete, from_context: X-Other}
"""
    built = graph(
        "{extensions: [headers_setter], telemetry: {metrics: {level: none}},"
        " pipelines: {traces: {receivers: [otlp], exporters: [otlp/setter, nop]},"
        " traces/two: {receivers: [otlp], processors: [batch/keyed], exporters: [nop]}}}",
        head.replace("True", "true").replace("False", "false"),
    )
    await built.start()
    await built.stop(asyncio.get_running_loop().time() + 1)
    lines = [line.getMessage() for line in caplog.records if "headers" in line.getMessage()]
    assert [line.partition(" is taken")[0] for line in lines] == (
        [] if keeps else ["x-scope", "tenant"]
    )
    assert all("receivers::otlp::protocols::grpc without" in line for line in lines)
