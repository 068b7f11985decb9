"""stdin, stdout and stderr as nobody wants them: closed, or a pipe that is not read."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import grpc.aio
import pytest

from tests.support.clients import Client
from tests.support.gateway import Samples
from tests.support.ports import free_port
from tests.support.requests import request

CONFIG = """
receivers: {otlp: {protocols: {grpc: {endpoint: "127.0.0.1:0"}}}}
exporters: {debug: {verbosity: detailed, sampling_initial: 1000}}
extensions: {health_check: {endpoint: "127.0.0.1:0"}}
service:
  extensions: [health_check]
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}
"""


@asynccontextmanager
async def gateway(
    tmp_path: Path, redirections: str = "", stdout: int = asyncio.subprocess.DEVNULL
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, str], list[str]]]:
    """The process, the addresses that it names, and its log."""
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f'exec "$0" -m k8strace.gateway "$@" {redirections}'),
        *(sys.executable, "--config", str(path), "--shutdown-timeout", "1"),
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    log: list[str] = []
    addresses: dict[str, str] = {}
    try:
        async for line in process.stderr:
            log.append(line.decode())
            if found := re.search(r"(grpc|health) on (?:http://)?([\d.:]+)", log[-1]):
                addresses[found[1]] = found[2]
            if "is ready" in log[-1]:
                break
        yield process, addresses, log
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        log.append((await process.stderr.read()).decode())
        await process.wait()


@pytest.mark.parametrize("redirections", [">&-", "<&-", "<&- >&-"])
async def test_what_is_closed_is_no_socket(tmp_path: Path, redirections: str) -> None:
    async with gateway(tmp_path, redirections) as (process, addresses, log):
        async with Client(addresses["grpc"]) as client:
            await client.send(request(3))
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert "cannot write" not in "".join(log)


async def test_a_pipe_that_is_not_read_stops_nothing_else(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    async with gateway(tmp_path, stdout=writer) as (process, addresses, _):
        async with Client(addresses["grpc"]) as client:
            # As text they are far more than a pipe holds.
            with pytest.raises(grpc.aio.AioRpcError):
                await client.send(request(5000), timeout=1.0)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{addresses['health']}/") as response:
                assert response.status == 200
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    os.close(writer)
    os.close(reader)


LOUD = """
receivers: {otlp: {protocols: {grpc: {endpoint: "127.0.0.1:%d"}}}}
exporters: {nop: }
extensions: {health_check: {endpoint: "127.0.0.1:%d"}}
service:
  workers: %d
  extensions: [health_check]
  telemetry:
    logs: {level: debug}
    metrics: {readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: %d}}}}]}
  pipelines: {traces: {receivers: [otlp], exporters: [nop]}}
"""


async def get(url: str) -> str:
    """What an address answers with, as soon as it answers."""
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientConnectionError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return await response.text()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_log_that_is_not_read_stops_nothing(tmp_path: Path, workers: int) -> None:
    grpc_port, health, metrics = free_port(), free_port(), free_port()
    path = tmp_path / "gateway.yaml"
    path.write_text(LOUD % (grpc_port, health, workers, metrics))
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "k8strace.gateway", "--config", str(path)),
        stderr=writer,
    )
    os.close(writer)
    try:
        await get(f"http://127.0.0.1:{health}/readyz")
        for _ in range(200 * workers):  # each is a line of the log, and a pipe holds few
            _, stream = await asyncio.open_connection("127.0.0.1", grpc_port)
            stream.write(b"\0" * 64)
            stream.close()
        text = await get(f"http://127.0.0.1:{metrics}/metrics")
        assert Samples(text).sum("k8strace_log_records_dropped_total") == 0
        await get(f"http://127.0.0.1:{health}/livez")
        async with Client(f"127.0.0.1:{grpc_port}") as client:
            await client.send(request(3))
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        os.close(reader)
