"""Gateways that are killed, stopped and replaced under load."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Start
from tests.faults.conftest import Fault
from tests.faults.processes import at, modes, options, storage
from tests.support.backend import Backend
from tests.support.ports import free_port
from tests.support.workers import Load, kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SPANS = 100  # that come between one blow and the next


@pytest.mark.parametrize("mode", modes("stored", "delivered"))
async def test_gateway_killed(
    start: Start, fault: Fault, mode: str, tmp_path: Path
) -> None:
    kills, port = fault.of(3, 100), free_port()
    arguments = (*at(port), *storage(mode, tmp_path / "store"))
    async with Backend(keep=False) as backend, Load(f"127.0.0.1:{port}") as load:
        for _ in range(kills):
            async with start(backend.endpoint, *arguments, **options(mode)) as gateway:
                await load.wait_for(SPANS)
                gateway.signal(signal.SIGKILL)
                assert await gateway.wait() == -signal.SIGKILL
        async with start(backend.endpoint, *arguments, **options(mode)) as gateway:
            await load.wait_for(SPANS)
            await load.stop()
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
    assert load.failed
    fault.settle(f"{kills} kills", load, backend.ids)


@pytest.mark.parametrize("mode", ["in memory, batch"])
async def test_worker_killed(start: Start, fault: Fault, mode: str) -> None:
    kills = fault.of(3, 100)
    several = ("--workers", "2")
    async with Backend(keep=False) as backend:
        async with start(backend.endpoint, *several, **options(mode)) as gateway:
            async with Load(await gateway.address("grpc")) as load:
                for number in range(kills):
                    await load.wait_for(SPANS)
                    await kill(gateway, number % 2)
            samples = await gateway.at_rest()
            told = int(samples.sum("k8strace_spans_dropped_total", reason="worker_died"))
            assert samples.sum("k8strace_spans_dropped_total") == told
            assert samples.sum("k8strace_worker_restarts_total") == kills
            assert await gateway.stop() == 0
    note = "what the killed held in memory, and no more than was counted as `worker_died`"
    fault.settle(f"{kills} kills", load, backend.ids, may_lose=told, note=note)


@pytest.mark.parametrize("mode", modes())
async def test_gateway_stopped(start: Start, fault: Fault, mode: str) -> None:
    """SIGTERM: it drains, and nothing is lost in any mode."""
    stops, port = fault.of(1, 20), free_port()
    async with Backend(keep=False) as backend, Load(f"127.0.0.1:{port}") as load:
        for _ in range(stops):
            async with start(backend.endpoint, *at(port), **options(mode)) as gateway:
                await load.wait_for(SPANS)
                assert await gateway.stop() == 0
                drained = "drained; everything taken was delivered or counted"
                assert any(drained in line for line in gateway.log)
    fault.settle(f"{stops} stops", load, backend.ids)
    assert load.failed


@pytest.mark.parametrize(
    "mode", ["in memory, batch", pytest.param("delivered, batch", marks=pytest.mark.long)]
)
async def test_rolling_restart(start: Start, fault: Fault, mode: str) -> None:
    """Of three gateways, one after the other, behind clients that reconnect."""
    rounds = fault.of(1, 20)
    ports = [free_port() for _ in range(3)]
    async with Backend(keep=False) as backend, AsyncExitStack() as stack:
        made = [start(backend.endpoint, *at(port), **options(mode)) for port in ports]
        gateways = await asyncio.gather(*map(stack.enter_async_context, made))
        async with Load(*(f"127.0.0.1:{port}" for port in ports), clients=6) as load:
            for _ in range(rounds):
                for number, port in enumerate(ports):
                    await load.wait_for(SPANS)
                    assert await gateways[number].stop() == 0
                    one = start(backend.endpoint, *at(port), **options(mode))
                    gateways[number] = await stack.enter_async_context(one)
                    await load.wait_for(SPANS)
        for gateway in gateways:
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
    fault.settle(f"{rounds * 3} restarts", load, backend.ids)
