"""A worker from its supervisor's side, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from k8strace.config import load
from k8strace.listeners import Listeners
from k8strace.losses import Loss, Sample
from k8strace.metrics import RECEIVER_ACCEPTED_SPANS, Metrics
from k8strace.supervisor import Plan
from k8strace.worker_process import SharedBlock, WorkerProcess
from tests.support.clients import Client
from tests.support.descriptors import open_descriptors
from tests.support.pipeline import until
from tests.support.requests import request

CONFIG = (
    "yaml:{receivers: {otlp: {protocols:"
    " {grpc: {endpoint: '127.0.0.1:0', engine: native}}}},"
    " exporters: {debug: {use_internal_logger: false, output_paths: ['%s']}},"
    " service: {workers: 2, pipelines: {traces: {receivers: [otlp], exporters: [debug]}}}}"
)


class Rig:
    """What a supervisor has, for one worker."""

    def __init__(self, path: Path) -> None:
        self.plan = Plan(load([CONFIG % path]), Metrics())
        self.lost: list[tuple[Loss, Sample]] = []
        self.listeners = Listeners()
        self.shared = SharedBlock.make()
        self.states: list[str] = []
        self.worker: WorkerProcess | None = None

    async def start(self) -> WorkerProcess:
        await self.listeners.open(self.plan.endpoints, 2)
        self.worker = WorkerProcess(
            0,
            self.plan.worker,
            self.listeners.of(self.plan.endpoints, 0),
            self.shared,
            is_first=True,
            shutdown_timeout=5.0,
            on_change=self._note,
            on_lost=lambda *one: self.lost.append(one),
        )
        return self.worker

    def _note(self) -> None:
        assert self.worker is not None
        self.states.append(self.worker.state)

    @property
    def address(self) -> str:
        sockets = self.listeners.of(self.plan.endpoints, 0)["otlp"]["grpc"]
        return f"127.0.0.1:{sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Rig:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.listeners.close()
        os.close(self.shared.descriptor)
        if self.worker is not None:
            self.worker.kill()
            await self.worker.ended


async def test_a_life(tmp_path: Path) -> None:
    async with Rig(tmp_path / "out") as rig:
        worker = await rig.start()
        assert (worker.state, worker.up.done()) == ("starting", False)
        await worker.up
        assert worker.state == "ready"
        # The second worker's socket is bound, but nobody listens there.
        async with Client(rig.address) as client:
            await client.send(request(7))
        accepted = rig.shared.block.counter(RECEIVER_ACCEPTED_SPANS.name, "otlp", "grpc")
        assert accepted.value == 7
        # What it loses it says, with a sample.
        async with Client(rig.address) as client:
            invalid = request(2, service="etcd")
            invalid.resource_spans[0].scope_spans[0].spans[0].span_id = b""
            await client.send(invalid)
        await until(lambda: bool(rig.lost))
        ((loss, sample),) = rig.lost
        assert loss == ("receivers", "otlp", "dropped", "invalid_id")
        assert (sample.peer[:10], sample.service) == ("127.0.0.1:", "etcd")
        worker.drain()
        assert await worker.ended == 0
        worker.drain()
        worker.kill()
        assert rig.states == ["ready", "draining", "ended"]
        assert worker.problems == ()


async def test_one_that_is_killed(tmp_path: Path) -> None:
    async with Rig(tmp_path / "out") as rig:
        worker = await rig.start()
        await worker.up
        worker.kill()
        assert await worker.ended == -signal.SIGKILL
        assert rig.states == ["ready", "ended"]


async def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    async with Rig(tmp_path / "no" / "out") as rig:
        worker = await rig.start()
        await worker.up
        assert await worker.ended == 1
        (problem,) = worker.problems
        assert problem.startswith("exporters::debug: ")
        assert "No such file or directory" in problem
        assert rig.states == ["ended"]


async def test_one_that_is_told_to_end_while_it_starts(tmp_path: Path) -> None:
    async with Rig(tmp_path / "out") as rig:
        worker = await rig.start()
        worker.drain()
        assert await worker.ended == 0
        assert worker.up.done()


async def test_a_process_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    async with Rig(tmp_path / "out") as rig:
        before = open_descriptors()
        with pytest.raises(FileNotFoundError):
            await rig.start()
        await asyncio.sleep(0)
        # The sockets that were bound, one for each worker.
        assert len(open_descriptors() - before) == 2
