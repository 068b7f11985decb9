"""A receiver that has it refuses requests unread while memory is short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import grpc
import grpc.aio
import pytest
from google.rpc.status_pb2 import Status

from k8strace.budget import Lease
from k8strace.component import ComponentID
from k8strace.config import load
from k8strace.extensions.memory_limiter import MemoryLimiter
from k8strace.graph import Graph
from k8strace.grpc.status import Code
from k8strace.metrics import Metrics
from tests.support.clients import Client
from tests.support.engine import MIB, delay_of
from tests.support.http2 import DATA, END_HEADERS, GRPC, HEADERS, Raw, frame, headers
from tests.support.memory import Memory
from tests.support.pipeline import until
from tests.support.requests import request

LIMITED = ComponentID("otlp")
FREE = ComponentID("otlp", "free")
CONFIG = """yaml:
extensions:
  memory_limiter: {{check_interval: 1h, limit_mib: 10, spike_limit_mib: 2}}
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 127.0.0.1:0
        middlewares: [{{id: memory_limiter}}]
        engine: {engine}
      http: {{endpoint: "127.0.0.1:0", middlewares: [{{id: memory_limiter}}]}}
  otlp/free: {{protocols: {{grpc: {{endpoint: "127.0.0.1:0"}}}}}}
exporters: {{nop: }}
service:
  extensions: [memory_limiter]
  pipelines: {{traces: {{receivers: [otlp, otlp/free], exporters: [nop]}}}}
"""
BODY = request(1).SerializeToString()


@pytest.fixture(params=["native", "grpcio"])
async def graph(request: pytest.FixtureRequest, memory: Memory) -> AsyncIterator[Graph]:
    graph = Graph(load([CONFIG.format(engine=request.param)]).config, Metrics())
    await graph.start()
    yield graph
    await graph.stop(asyncio.get_running_loop().time() + 5)


def address(graph: Graph, receiver: ComponentID = LIMITED, protocol: str = "grpc") -> str:
    text: str = graph.receivers[receiver].addresses[protocol]  # type: ignore[attr-defined]
    return text


def limiter(graph: Graph) -> MemoryLimiter:
    found = graph.extensions[ComponentID("memory_limiter")]
    assert isinstance(found, MemoryLimiter)
    return found


async def refused(graph: Graph) -> grpc.aio.AioRpcError:
    async with Client(address(graph)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.send(BODY, timeout=3)
    return caught.value


async def test_it_lets_requests_in_while_there_is_room(graph: Graph) -> None:
    async with Client(address(graph)) as client:
        await client.send(BODY)
    assert graph.exporters[ComponentID("nop")].ledger.sent == 1
    assert graph.budget.used == 0


async def test_above_the_soft_limit_it_refuses_those_who_have_it(graph: Graph) -> None:
    held = Lease(graph.budget, 8 * MIB, "else")
    error = await refused(graph)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == "too much memory is in use"
    async with Client(address(graph, FREE)) as client:
        await client.send(BODY)
    assert held.held == graph.budget.used
    rejected = {
        sample.labels["reason"]: sample.value
        for family in graph.metrics.collect()
        for sample in family.samples
        if sample.name == "k8strace_requests_rejected_total"
        and sample.labels["component"] == "otlp"
    }
    assert rejected["memory"] == 1


async def test_over_http_it_says_when_to_come_again(graph: Graph) -> None:
    held = Lease(graph.budget, 8 * MIB, "else")
    url = f"http://{address(graph, protocol='http')}/v1/traces"
    kind = {"Content-Type": "application/x-protobuf"}
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=BODY, headers=kind) as answer:
            assert answer.status == 503
            status = Status.FromString(await answer.read())
            assert status.message == "too much memory is in use"
            assert answer.headers["Retry-After"]
        del held
        async with session.post(url, data=BODY, headers=kind) as answer:
            assert answer.status == 200


async def test_a_request_is_held_until_there_is_room(graph: Graph) -> None:
    held = Lease(graph.budget, 8 * MIB, "else")
    room = limiter(graph).guard.room
    async with Client(address(graph)) as client:
        sent = asyncio.create_task(client.send(BODY))
        await until(lambda: room.waiting == 1)
        assert graph.exporters[ComponentID("nop")].ledger.sent == 0
        del held
        await sent
    assert graph.exporters[ComponentID("nop")].ledger.sent == 1
    assert graph.budget.used == 0


async def test_while_resident_memory_is_high_nobody_is_held(
    graph: Graph, memory: Memory
) -> None:
    memory.resident = 10 * MIB
    await limiter(graph).guard.check()
    error = await refused(graph)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    memory.resident = 0
    await limiter(graph).guard.check()
    async with Client(address(graph)) as client:
        await client.send(BODY)


@pytest.mark.parametrize("graph", ["native"], indirect=True)
async def test_what_is_refused_is_not_read(graph: Graph) -> None:
    """With grpcio it is: core tells of a message when it has it."""
    held = Lease(graph.budget, 8 * MIB, "else")
    async with Raw(address(graph)) as raw:
        await raw.send(
            frame(HEADERS, END_HEADERS, 1, headers(*GRPC, ("grpc-timeout", "3S"))),
            frame(DATA, 0, 1, b"\0" + len(BODY).to_bytes(4, "big")),
        )
        assert await raw.status() == Code.UNAVAILABLE
    assert held.held == graph.budget.used


async def test_a_request_over_the_soft_limit_goes_when_nothing_is_held(
    graph: Graph,
) -> None:
    large = request(1)
    span = large.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.add(key="padding").value.string_value = "x" * (17 * MIB // 2)
    async with Client(address(graph)) as client:
        await client.send(large)
        held = Lease(graph.budget, 1, "else")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.send(large, timeout=3)
        del held
    delay = delay_of(caught.value)
    assert delay is not None
    assert 0 < delay <= 2


@pytest.mark.usefixtures("memory")
async def test_stop_without_start() -> None:
    built = Graph(load([CONFIG.format(engine="native")]).config, Metrics())
    await limiter(built).stop(0)
