"""Backends that die, hang, refuse, and say what no backend should."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from k8strace.grpc.status import RETRYABLE, Code, StatusError
from tests.end_to_end.conftest import Start
from tests.faults.conftest import Fault
from tests.faults.processes import BackendProcess, modes, options
from tests.support.backend import Backend
from tests.support.proxy import Proxy
from tests.support.workers import Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SPANS = 100  # that come between one blow and the next
RETRIES = "k8strace_exporter_retries_total"
RETRIED = {code for code in grpc.StatusCode if code.value[0] in RETRYABLE}


@pytest.mark.parametrize("mode", modes(batch=True))
async def test_backend_killed(
    start: Start, fault: Fault, mode: str, tmp_path: Path
) -> None:
    kills = fault.of(2, 100)
    async with BackendProcess(tmp_path / "ids") as backend:
        async with start(backend.endpoint, **options(mode)) as gateway:
            async with Load(await gateway.address("grpc")) as load:
                for _ in range(kills):
                    await backend.wait_for_spans(backend.spans + SPANS)
                    await backend.kill()
                    await backend.start()
                await backend.wait_for_spans(backend.spans + SPANS)
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
    fault.settle(f"{kills} kills", load, backend.ids)


@pytest.mark.parametrize("mode", modes(batch=True))
async def test_backend_hangs(start: Start, fault: Fault, mode: str, tmp_path: Path) -> None:
    """SIGSTOP: its connections stay, and nothing comes from them."""
    hangs = fault.of(1, 20)
    async with BackendProcess(tmp_path / "ids") as backend:
        brief = options(mode, timeout="200ms")
        async with start(backend.endpoint, **brief) as gateway:
            async with Load(await gateway.address("grpc")) as load:
                for _ in range(hangs):
                    await backend.wait_for_spans(backend.spans + SPANS)
                    before = (await gateway.metrics()).sum(RETRIES)
                    backend.signal(signal.SIGSTOP)
                    await gateway.wait_for_samples(
                        lambda now, before=before: now.sum(RETRIES) > before  # type: ignore[misc]
                    )
                    backend.signal(signal.SIGCONT)
                await backend.wait_for_spans(backend.spans + SPANS)
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
    fault.settle(f"{hangs} hangs", load, backend.ids)


@pytest.mark.parametrize("mode", modes(batch=True))
async def test_backend_answers_every_code(start: Start, fault: Fault, mode: str) -> None:
    """Also partial successes; what it refuses for good is told, or counted."""
    rounds = fault.of(2, 50)
    rejected = 0
    answers = itertools.cycle([None, *(code for code in Code if code), "partial"])

    async def answer(_: ExportTraceServiceRequest) -> ExportTraceServiceResponse | None:
        nonlocal rejected
        now = next(answers)
        if now is None:
            return None
        if isinstance(now, Code):
            delay = 0.01 if now is Code.RESOURCE_EXHAUSTED else None
            raise StatusError(now, f"the backend says {now.name}", delay)
        rejected += 1
        response = ExportTraceServiceResponse()
        response.partial_success.rejected_spans = 1
        response.partial_success.error_message = "one is too old"
        return response

    async with Backend(keep=False) as backend:
        backend.answer = answer
        async with start(backend.endpoint, **options(mode)) as gateway:
            load = Load(await gateway.address("grpc"), may_be_told=True)
            async with load:
                await backend.wait_for_calls(rounds * (len(Code) + 1))
            backend.answer = None
            samples = await gateway.at_rest()
            assert await gateway.stop() == 0
    dropped = int(samples.sum("k8strace_spans_dropped_total", reason="permanent_error"))
    partial = samples.sum("k8strace_spans_dropped_total", reason="partial_success")
    assert partial == rejected
    assert samples.sum("k8strace_spans_dropped_total") == dropped + rejected
    assert not RETRIED & set(load.told.values())
    if mode.startswith("delivered"):
        assert load.told
    note = "what the backend refused for good, counted as `permanent_error`"
    fault.settle(
        f"{backend.calls:,} answers", load, backend.ids, may_lose=dropped, note=note
    )


class Spoiler:
    """Spoils every seventh of what a server says, `count` times in all."""

    def __init__(self, how: str, count: int) -> None:
        self._how = how
        self._left = count
        self._said = 0
        self.done = asyncio.Event()

    def __call__(self, said: bytes) -> bytes:
        self._said += 1
        if self._said % 7 or not self._left:
            return said
        self._left -= 1
        if not self._left:
            self.done.set()
        if self._how == "garbage":
            return os.urandom(len(said))
        return said[: len(said) // 2]


@pytest.mark.parametrize("mode", modes(batch=True))
@pytest.mark.parametrize("how", ["garbage", "half an answer"])
async def test_backend_says(start: Start, fault: Fault, how: str, mode: str) -> None:
    """It takes what it gets, but what it answers does not come back as it was."""
    spoiler = Spoiler(how, fault.of(3, 300))
    async with Backend(keep=False) as backend, Proxy(backend.port) as proxy:
        proxy.spoil = spoiler
        async with start(proxy.endpoint, **options(mode)) as gateway:
            async with Load(await gateway.address("grpc")) as load:
                await asyncio.wait_for(spoiler.done.wait(), fault.of(60, 600))
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
    fault.settle(f"{fault.of(3, 300)} answers", load, backend.ids)
