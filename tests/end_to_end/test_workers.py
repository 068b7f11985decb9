"""Several workers: what one of them takes with it, and what it doesn't."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from tests.end_to_end.conftest import Start
from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.gateway import GatewayProcess
from tests.support.requests import request, span_ids
from tests.support.workers import Load, Scrapes, kill, processes, until_gone

WORKERS = ("--workers", "2")
NATIVE = ("--set", "receivers.otlp.protocols.grpc.engine=native")
DELIVERED = {"sending_queue": {"wait_for_result": True}}


async def hang(message: ExportTraceServiceRequest) -> None:
    await asyncio.Event().wait()


async def wait_for_health(gateway: GatewayProcess, status: int) -> None:
    url = f"http://{await gateway.address('health')}/"
    async with asyncio.timeout(30):
        while (await gateway.get(url))[0] != status:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(300)  # twenty processes start, which is all that takes time
async def test_killed_workers_lose_nothing_that_was_delivered(start: Start) -> None:
    kills, workers = 20, 4
    several = ("--workers", str(workers))
    async with Backend() as backend:
        async with start(backend.endpoint, *several, *NATIVE, **DELIVERED) as gateway:
            load = Load(await gateway.address("grpc"))
            async with Scrapes(gateway) as scrapes, load:
                for number in range(kills // 2):
                    await backend.wait_for_spans(backend.spans + 50)
                    pair = (number % 2, number % 2 + 2)
                    await asyncio.gather(*(kill(gateway, slot) for slot in pair))
            samples = await gateway.at_rest()
            assert scrapes.number > kills
            assert samples.sum("k8strace_worker_restarts_total") == kills
            assert (
                samples.sum("k8strace_worker_restarts_total", slot="1") == kills / workers
            )
            assert samples.sum("k8strace_spans_dropped_total") == 0
            taken = samples.sum("otelcol_receiver_accepted_spans_total")
            # What was counted, but never answered, came again.
            assert taken >= len(load.acknowledged)
            assert taken <= len(load.acknowledged) + 5 * load.failed
            assert await gateway.stop() == 0
    assert load.acknowledged
    assert load.acknowledged <= set(backend.ids)


@pytest.mark.slow
async def test_what_killed_workers_had_in_memory_is_counted(start: Start) -> None:
    async with Backend() as backend:
        async with start(backend.endpoint, *WORKERS, *NATIVE) as gateway:
            async with Scrapes(gateway), Load(await gateway.address("grpc")) as load:
                for number in range(6):
                    await backend.wait_for_spans(backend.spans + 50)
                    await kill(gateway, number % 2)
            samples = await gateway.at_rest()
            assert await gateway.stop() == 0
    lost = load.acknowledged - set(backend.ids)
    # Some may have arrived, and their worker died before it knew.
    assert len(lost) <= samples.sum("k8strace_spans_dropped_total", reason="worker_died")


@pytest.mark.slow
@pytest.mark.parametrize("promise", ["in memory", "delivered"])
async def test_spans_under_way_are_dropped_or_refused(start: Start, promise: str) -> None:
    options = {} if promise == "in memory" else DELIVERED
    async with Backend() as backend:
        backend.answer = hang
        async with start(backend.endpoint, *WORKERS, *NATIVE, **options) as gateway:
            async with Client(await gateway.address("grpc")) as client:
                sent = asyncio.ensure_future(client.send(request(30)))
                parked = "k8strace_spans_in_flight"
                if promise == "in memory":
                    await sent
                    parked = "k8strace_spans_parked"
                await gateway.wait_for_metric(
                    parked, 30, component="otlp", kind="exporters"
                )
                for slot in (0, 1):
                    await kill(gateway, slot)
                samples = await gateway.at_rest()
                assert await asyncio.gather(sent, return_exceptions=True)
            count = samples.sum
            died = count("k8strace_spans_dropped_total", reason="worker_died")
            refused = count("k8strace_spans_total", kind="receivers", outcome="refused")
            assert (died, refused) == ((30, 0) if promise == "in memory" else (0, 30))
            assert count("otelcol_receiver_accepted_spans_total") == 30 - refused


@pytest.mark.slow
async def test_health_and_states_follow_the_workers(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    debug = "exporters.debug={use_internal_logger: false, output_paths: [" + str(
        folder / "x"
    )
    use = ("--set", debug + "]}", "--set", "service.pipelines.traces.exporters=[debug]")
    async with start("localhost:1", *WORKERS, *use) as gateway:
        await wait_for_health(gateway, 200)
        samples = await gateway.metrics()
        assert samples.sum("k8strace_workers", state="ready") == 2
        (folder / "x").unlink()
        folder.rmdir()
        os.kill(processes(gateway)[1], signal.SIGKILL)
        await gateway.wait_for_log("was ended by SIGKILL: starting again in 0.1 s worker=1")
        await wait_for_health(gateway, 503)
        liveness = f"http://{await gateway.address('health')}/livez"
        assert (await gateway.get(liveness))[0] == 200
        # It cannot start, and is not tried again at once.
        for pause in ("0.2", "0.4"):
            await gateway.wait_for_log(f"with status 1: starting again in {pause} s")
        assert any("cannot start: exporters::debug" in line for line in gateway.log)
        assert (await gateway.metrics()).sum("k8strace_workers", state="ready") == 1
        folder.mkdir()
        await wait_for_health(gateway, 200)
        assert await gateway.stop() == 0


@pytest.mark.slow
async def test_a_stop_under_load_drains_all_workers(start: Start) -> None:
    async with Backend() as backend:
        async with start(backend.endpoint, *WORKERS, *NATIVE) as gateway:
            load = Load(await gateway.address("grpc"))
            async with load:
                await backend.wait_for_spans(500)
                gateway.signal(signal.SIGTERM)
                await gateway.wait_for_log("draining")
                await load.stop()
            assert await gateway.wait() == 0
    assert sum("everything taken was delivered" in line for line in gateway.log) == 2
    assert load.acknowledged <= set(backend.ids)


async def test_a_second_signal_ends_all_workers(start: Start) -> None:
    async with Backend() as backend:
        backend.answer = hang
        timeout = ("--shutdown-timeout", "60")
        async with start(backend.endpoint, *WORKERS, *timeout) as gateway:
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(30))
            gateway.signal(signal.SIGTERM)
            await gateway.wait_for_log("draining.* worker=")
            gateway.signal(signal.SIGINT)
            assert await gateway.wait(20) == 130
            for pid in processes(gateway).values():
                await until_gone(pid)


@pytest.mark.slow
async def test_a_worker_that_is_told_to_end_drains_and_is_followed(start: Start) -> None:
    async with Backend() as backend:
        async with start(backend.endpoint, *WORKERS, *NATIVE) as gateway:
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(30))
            seen, pid = len(gateway.log), processes(gateway)[0]
            for _ in range(2):  # a worker drains, however often it is told
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            await gateway.wait_for_log("ended with status 0: starting again", after=seen)
            await gateway.wait_for_log("worker is ready.* worker=0", after=seen)
            assert await gateway.stop() == 0
    assert backend.spans == 30


async def test_workers_drain_when_their_supervisor_is_killed(start: Start) -> None:
    gate = asyncio.Event()

    async def slowly(message: ExportTraceServiceRequest) -> None:
        await gate.wait()

    async with Backend() as backend:
        backend.answer = slowly
        async with start(backend.endpoint, *WORKERS, *NATIVE) as gateway:
            message = request(30)
            async with Client(await gateway.address("grpc")) as client:
                await client.send(message)
            gateway.signal(signal.SIGKILL)
            await until_gone(gateway.process.pid)
            gate.set()
            for pid in processes(gateway).values():
                await until_gone(pid)
    assert set(backend.ids) == set(span_ids(message))
    assert sum("the supervisor is gone: draining" in line for line in gateway.log) == 2


@pytest.mark.slow
async def test_reloads_under_load(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    async with Backend() as backend:
        async with start(
            backend.endpoint, *NATIVE, "--set", "service.workers=2"
        ) as gateway:
            good = path.read_text()
            first = processes(gateway)
            load = Load(await gateway.address("grpc"))
            async with Scrapes(gateway), load:
                await backend.wait_for_spans(200)
                path.write_text(good.replace("- batch", "- btch"))
                gateway.signal(signal.SIGHUP)
                await gateway.wait_for_log("reload refused")
                assert any('references processor "btch"' in one for one in gateway.log)
                assert processes(gateway) == first
                path.write_text(good.replace("timeout: 20ms", "timeout: 10ms"))
                seen = len(gateway.log)
                gateway.signal(signal.SIGHUP)
                await gateway.wait_until_ready(after=seen)
                for pid in first.values():
                    await until_gone(pid)
                await backend.wait_for_spans(backend.spans + 200)
            samples = await gateway.at_rest()
            accepted = samples.sum("otelcol_receiver_accepted_spans_total")
            assert accepted == len(load.acknowledged)
            assert samples.sum("k8strace_worker_restarts_total") == 0
            assert await gateway.stop() == 0
    assert load.acknowledged <= set(backend.ids)
