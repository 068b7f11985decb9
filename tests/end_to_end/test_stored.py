"""What was answered is on disk: processes are killed, disks fill, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.grpc.status import Code, StatusError
from tests.end_to_end.conftest import Start
from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.gateway import GatewayProcess, run_gateway
from tests.support.requests import request, span_ids
from tests.support.workers import Load, is_alive, kill, processes, until_gone

NATIVE = ("--set", "receivers.otlp.protocols.grpc.engine=native")
WORKERS = (*NATIVE, "--workers", "2")
QUEUE = {"storage": "file_storage", "queue_size": 100_000}
STORED = {"sending_queue": QUEUE}
FSIZE = 12 * 1024 * 1024  # less than a segment


def storage(directory: Path) -> tuple[str, ...]:
    """Arguments that add the extension to what `start` makes."""
    return (
        *("--set", f"extensions.file_storage.directory={directory}"),
        *("--set", "extensions.file_storage.timeout=0s"),
        *("--set", "service.extensions=[health_check, file_storage]"),
    )


async def hang(_: ExportTraceServiceRequest) -> None:
    await asyncio.Event().wait()


async def unavailable(_: ExportTraceServiceRequest) -> None:
    raise StatusError(Code.UNAVAILABLE, "later")


async def kill_all(gateway: GatewayProcess) -> None:
    """SIGKILL for the gateway and its workers."""
    pids = [gateway.process.pid, *processes(gateway).values()]
    for pid in pids:
        with suppress(ProcessLookupError):  # a worker that saw its supervisor go
            os.kill(pid, signal.SIGKILL)
    await gateway.wait()
    for pid in pids:
        await until_gone(pid)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("arguments", [NATIVE, WORKERS], ids=["alone", "workers"])
async def test_kill_9_under_load_loses_nothing(
    start: Start, tmp_path: Path, arguments: tuple[str, ...], pytestconfig: pytest.Config
) -> None:
    rounds = int(pytestconfig.getoption("--soak")) * (1 if arguments is WORKERS else 2)
    acknowledged: set[bytes] = set()
    calls = 0

    async def every_other(_: ExportTraceServiceRequest) -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise StatusError(Code.UNAVAILABLE, "later")

    async with Backend() as backend:
        backend.answer = every_other
        options = (*arguments, *storage(tmp_path / "store"))
        for _ in range(rounds):
            async with start(backend.endpoint, *options, **STORED) as gateway:
                load = Load(await gateway.address("grpc"))
                async with load:
                    await backend.wait_for_spans(backend.spans + 300)
                    await kill_all(gateway)
                    load._stopping = True
                acknowledged |= load.acknowledged
        backend.answer = None
        async with start(backend.endpoint, *options, **STORED) as gateway:
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert samples.sum("k8strace_store_corrupt_records_total") == 0
            assert await gateway.stop() == 0
    assert acknowledged
    assert acknowledged <= set(backend.ids)


@pytest.mark.slow
async def test_killed_workers_take_nothing_with_them(start: Start, tmp_path: Path) -> None:
    async with Backend() as backend:
        backend.answer = hang
        options = (*WORKERS, *storage(tmp_path / "store"))
        async with start(backend.endpoint, *options, **STORED) as gateway:
            ids: set[bytes] = set()
            for _ in range(4):
                async with Client(await gateway.address("grpc")) as client:
                    message = request(5)
                    await client.send(message)
                    ids.update(span_ids(message))
            await gateway.wait_for_metric("k8strace_spans_parked", 20, component="otlp")
            for slot in (0, 1):
                await kill(gateway, slot)
            backend.answer = None
            await backend.wait_for_spans(20)
            samples = await gateway.at_rest()
            count = samples.sum
            assert count("k8strace_spans_dropped_total") == 0
            assert count("k8strace_spans_total", outcome="stored") == 20
            assert count("k8strace_spans_total", outcome="recovered") == 20
            assert await gateway.stop() == 0
    assert ids <= set(backend.ids)


@pytest.mark.slow
async def test_stores_of_slots_that_are_no_more_are_adopted(
    start: Start, tmp_path: Path
) -> None:
    async with Backend() as backend:
        backend.answer = unavailable
        options = (*NATIVE, *storage(tmp_path / "store"))
        several = (*options, "--workers", "3")
        ids: set[bytes] = set()
        async with start(backend.endpoint, *several, **STORED) as gateway:
            for _ in range(9):
                async with Client(await gateway.address("grpc")) as client:
                    message = request(5)
                    await client.send(message)
                    ids.update(span_ids(message))
            assert await gateway.stop() == 0
            assert all("could not be delivered" not in line for line in gateway.log)
        backend.answer = None
        async with start(backend.endpoint, *options, **STORED) as gateway:
            await backend.wait_for_spans(45)
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_store_recovered_spans_total") == 45
            assert await gateway.stop() == 0
    assert set(backend.ids) == ids
    assert backend.spans == 45


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [NATIVE, WORKERS], ids=["alone", "workers"])
async def test_a_reload_keeps_the_store(
    start: Start, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    async with Backend() as backend:
        backend.answer = unavailable
        options = (*arguments, *storage(tmp_path / "store"))
        async with start(backend.endpoint, *options, **STORED) as gateway:
            old = processes(gateway)
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(30))
            seen = len(gateway.log)
            gateway.signal(signal.SIGHUP)
            await gateway.wait_until_ready(after=seen)
            backend.answer = None
            await backend.wait_for_spans(30)
            if arguments is WORKERS:  # alone it serves metrics elsewhere since the reload
                await gateway.at_rest()
            assert await gateway.stop() == 0
            assert not any(is_alive(pid) for pid in old.values())
    assert backend.spans == 30


async def test_two_gateways_on_one_directory(start: Start, tmp_path: Path) -> None:
    options = (*NATIVE, *storage(tmp_path / "store"))
    async with start("localhost:1", *options, **STORED):
        config = str(tmp_path / "gateway.yaml")
        for more in ((), ("--workers", "2")):
            status, _, text = await run_gateway("--config", config, *options, *more)
            assert status == 1
            assert f"extensions::file_storage: {tmp_path}/store: another gateway" in text


@pytest.mark.parametrize("arguments", [NATIVE, WORKERS], ids=["alone", "workers"])
@pytest.mark.parametrize("is_removed", [False, True])
async def test_nothing_is_answered_while_the_directory_is_away(
    start: Start, tmp_path: Path, arguments: tuple[str, ...], is_removed: bool
) -> None:
    directory, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    async with Backend() as backend:
        backend.answer = unavailable
        options = (*arguments, *storage(directory))
        async with start(backend.endpoint, *options, **STORED) as gateway:
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(3))
                if is_removed:
                    shutil.rmtree(directory)
                else:
                    directory.rename(elsewhere)
                for _ in range(3):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await client.send(request(4))
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                    assert "the store of otlp cannot take it" in str(caught.value.details())
                seen = len(gateway.log)
                if is_removed:
                    directory.mkdir()
                else:
                    elsewhere.rename(directory)
                await gateway.wait_for_log("is there again", after=seen)
                await client.send(request(5))
            # What was stored before is delivered, also from files that are gone.
            backend.answer = None
            await backend.wait_for_spans(8)
            await gateway.at_rest()
            assert await gateway.stop() == 0
    assert backend.spans == 8


async def test_the_promise_is_printed(start: Start, tmp_path: Path) -> None:
    start("localhost:1", **STORED)
    config = str(tmp_path / "gateway.yaml")
    status, out, _ = await run_gateway("validate", "--config", config, *storage(tmp_path))
    assert status == 0
    assert "pipeline traces: stored: an answer means that the spans are on disk" in out
    status, _, text = await run_gateway("validate", "--config", config)
    assert status == 1
    assert 'sending_queue::storage: references extension "file_storage" which is' in text


async def test_a_full_disk_refuses_with_a_delay(start: Start, tmp_path: Path) -> None:
    async with Backend() as backend:
        backend.answer = hang
        options = (*NATIVE, *storage(tmp_path / "store"))
        async with start(backend.endpoint, *options, **STORED) as gateway:
            pid = gateway.process.pid
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (FSIZE, resource.RLIM_INFINITY))
            async with Client(await gateway.address("grpc")) as client:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.send(request(5))
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "cannot take it: File too large" in str(caught.value.details())
                trailers: Any = caught.value.trailing_metadata()
                assert b"RetryInfo" in dict(trailers)["grpc-status-details-bin"]
                unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
                backend.answer = None
                await client.send(request(5))
            await backend.wait_for_spans(5)
            await gateway.at_rest()
            assert await gateway.stop() == 0


async def test_orphans_are_kept_until_they_are_dropped(
    start: Start, tmp_path: Path
) -> None:
    options = (*NATIVE, *storage(tmp_path / "store"))
    async with Backend() as backend:
        backend.answer = unavailable
        async with start(backend.endpoint, *options, **STORED) as gateway:
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(30))
            assert await gateway.stop() == 0
        path = tmp_path / "gateway.yaml"
        config = yaml.safe_load(path.read_text())
        config["exporters"]["otlp/new"] = config["exporters"].pop("otlp")
        config["service"]["pipelines"]["traces"]["exporters"] = ["otlp/new"]
        path.write_text(yaml.safe_dump(config))
        out = tmp_path / "out.txt"
        arguments = ("--config", str(path), *options)
        kept = "keeps 1 requests of 30 spans of the exporter otlp, which stores"
        async with GatewayProcess(*arguments, out=out) as gateway:
            await gateway.wait_for_log(kept)
            assert await gateway.stop() == 0
        async with GatewayProcess(*arguments, "--drop-orphans", out=out) as gateway:
            await gateway.wait_for_log(
                "dropped spans: deleted 1 requests of the exporter otlp, .* spans=30"
            )
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total", reason="orphaned") == 30
            assert await gateway.stop() == 0
    assert not (tmp_path / "store" / "otlp").exists()
