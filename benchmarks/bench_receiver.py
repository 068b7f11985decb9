"""A real client, a socket, and the otlp receiver in a process of its own.

One operation is a burst of requests, so many of them at a time, to a gateway whose exporter
is `nop`. The time is that of the client and the server together on this machine; the CPU
time of the server alone, user and system, is in `extra_info`, per request and per span.
Beside it a gRPC server of the generated classes, which only counts the spans.
"""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import uvloop
import yaml
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.kube import kube_request
from tests.support.backend import PATH
from tests.support.gateway import GatewayProcess

SPANS = (1, 10, 100, 512, 4096)
AT_ONCE = 16
BURST = {1: 320, 10: 320, 100: 160, 512: 64, 4096: 16}  # requests
ROUNDS = 5
FREE = {"endpoint": "127.0.0.1:0"}

Send = Callable[[], Awaitable[object]]


class Target:
    """A process under test and the loop of the client."""

    def __init__(self, pid: int, grpc_address: str, http_address: str = "") -> None:
        self.pid = pid
        self.grpc = grpc_address
        self.http = http_address

    def cpu(self) -> float:
        """CPU seconds of the process, all its threads."""
        return time.clock_gettime(~self.pid << 3 | 2)  # its clock, as Linux numbers it


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as one:
        yield one


@pytest.fixture(scope="module")
def gateway(
    runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    config = folder / "gateway.yaml"
    readers = [{"pull": {"exporter": {"prometheus": {"host": "127.0.0.1", "port": 0}}}}]
    config.write_text(
        yaml.safe_dump(
            {
                "receivers": {"otlp": {"protocols": {"grpc": FREE, "http": FREE}}},
                "exporters": {"nop": None},
                "service": {
                    "telemetry": {"metrics": {"readers": readers}},
                    "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["nop"]}},
                },
            }
        )
    )
    process = GatewayProcess("--config", str(config), out=folder / "out")

    async def start() -> Target:
        await process.__aenter__()
        grpc_address, http_address = (
            await process.address("grpc"),
            await process.address("http"),
        )
        return Target(process.process.pid, grpc_address, http_address)

    yield runner.run(start())
    runner.run(process.kill())


@pytest.fixture(scope="module")
def protobuf_server() -> Iterator[Target]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.protobuf_server"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Target(process.pid, f"127.0.0.1:{port}")
        process.kill()


def bursts(
    benchmark: BenchmarkFixture,
    runner: asyncio.Runner,
    target: Target,
    spans: int,
    send: Send,
) -> None:
    """Measure bursts of `send`, after one to warm up."""
    requests = BURST[spans] if benchmark.enabled else AT_ONCE

    async def worker(share: int) -> None:
        for _ in range(share):
            await send()

    async def burst() -> None:
        workers = (worker(requests // AT_ONCE) for _ in range(AT_ONCE))
        await asyncio.gather(*workers)

    benchmark.group = f"receiver: {requests} requests of {spans} spans"
    runner.run(burst())
    before = target.cpu()
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        lambda: runner.run(burst()), rounds=ROUNDS
    )
    rounds = ROUNDS if benchmark.enabled else 1
    used = (target.cpu() - before) / (requests * rounds)
    benchmark.extra_info["server_us_per_request"] = round(used * 1e6, 1)
    benchmark.extra_info["server_us_per_span"] = round(used / spans * 1e6, 3)


def over_grpc(
    benchmark: BenchmarkFixture,
    runner: asyncio.Runner,
    target: Target,
    spans: int,
    compression: grpc.Compression | None,
) -> None:
    body = kube_request(spans)

    async def connect() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(target.grpc)

    channel = runner.run(connect())
    method: Any = channel.unary_unary(PATH)

    async def send() -> None:
        await method(body, compression=compression, wait_for_ready=True)

    try:
        bursts(benchmark, runner, target, spans, send)
    finally:
        runner.run(channel.close())


@pytest.mark.parametrize("spans", SPANS)
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip], ids=["none", "gzip"])
def test_grpc(
    benchmark: BenchmarkFixture,
    runner: asyncio.Runner,
    gateway: Target,
    compression: grpc.Compression | None,
    spans: int,
) -> None:
    over_grpc(benchmark, runner, gateway, spans, compression)


@pytest.mark.parametrize("spans", SPANS)
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip], ids=["none", "gzip"])
def test_protobuf(
    benchmark: BenchmarkFixture,
    runner: asyncio.Runner,
    protobuf_server: Target,
    compression: grpc.Compression | None,
    spans: int,
) -> None:
    over_grpc(benchmark, runner, protobuf_server, spans, compression)


@pytest.mark.parametrize("spans", SPANS)
@pytest.mark.parametrize("encoding", ["none", "gzip"])
def test_http(
    benchmark: BenchmarkFixture,
    runner: asyncio.Runner,
    gateway: Target,
    encoding: str,
    spans: int,
) -> None:
    body = kube_request(spans)
    headers = {"Content-Type": "application/x-protobuf"}
    if encoding == "gzip":
        body = gzip.compress(body)
        headers["Content-Encoding"] = "gzip"
    url = f"http://{gateway.http}/v1/traces"

    async def connect() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    session = runner.run(connect())

    async def send() -> None:
        async with session.post(url, data=BytesIO(body), headers=headers) as response:
            assert response.status == 200, await response.read()

    try:
        bursts(benchmark, runner, gateway, spans, send)
    finally:
        runner.run(session.close())
