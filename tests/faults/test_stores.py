"""A disk that is full, and one that forgets bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace._store import FIRST_RECORD
from k8strace.grpc.status import Code, StatusError
from tests.end_to_end.conftest import Start
from tests.faults.conftest import Fault
from tests.faults.processes import modes, options, storage
from tests.support.backend import Backend
from tests.support.stores import files, flip
from tests.support.workers import Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SPANS = 100
DISK = 40  # MiB: two segments, and no third
FLIPS = 3
IN_A_RECORD = 20  # spans at the most: a batch of one request of each client
CORRUPT = "k8strace_store_corrupt_records_total"


async def unavailable(_: ExportTraceServiceRequest) -> None:
    raise StatusError(Code.UNAVAILABLE, "later")


class LargeSpans(Load):
    """Senders of spans of 64 KiB."""

    def message(self) -> ExportTraceServiceRequest:
        message = super().message()
        for span in message.resource_spans[0].scope_spans[0].spans:
            span.attributes.add(key="padding").value.string_value = "x" * 65_536
        return message


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of `DISK` MiB; skips the test where none can be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={DISK}m", "k8strace")
    if os.geteuid() or subprocess.run(["mount", *options, path], check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("mode", modes("stored", batch=True))
async def test_disk_full(start: Start, fault: Fault, mode: str, disk: Path) -> None:
    """Nobody is answered whose spans are not on it; all goes on when it empties."""
    rounds = fault.of(1, 20)
    async with Backend(keep=False) as backend:
        arguments = storage(mode, disk / "store")
        async with start(backend.endpoint, *arguments, **options(mode)) as gateway:
            async with LargeSpans(await gateway.address("grpc")) as load:
                for _ in range(rounds):
                    backend.answer = unavailable
                    await load.wait_for(1, "failed")
                    backend.answer = None
                    await load.wait_for(SPANS)
            samples = await gateway.at_rest(60)
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert samples.sum("k8strace_store_failed_records_total")
            assert await gateway.stop() == 0
    fault.settle(f"full {rounds} times", load, backend.ids)


@pytest.mark.parametrize("mode", modes("stored", batch=True))
async def test_bits_flip(start: Start, fault: Fault, mode: str, tmp_path: Path) -> None:
    """In what is stored, while no gateway runs: each costs the record that it is in."""
    rounds, rng = fault.of(1, 50), random.Random(7)
    store = tmp_path / "store"
    arguments = storage(mode, store)
    sent = Load()
    async with Backend(keep=False) as backend:
        for _ in range(rounds):
            backend.answer = unavailable
            async with start(backend.endpoint, *arguments, **options(mode)) as gateway:
                async with Load(await gateway.address("grpc")) as load:
                    await load.wait_for(SPANS)
                gateway.signal(signal.SIGKILL)
                await gateway.wait()
            sent.sent |= load.sent
            sent.acknowledged |= load.acknowledged
            segment = max(files(store), key=written)
            for _ in range(FLIPS):
                at = rng.randrange(FIRST_RECORD, written(segment))
                flip(segment, at, rng.randrange(8))
            backend.answer = None
            async with start(backend.endpoint, *arguments, **options(mode)) as gateway:
                samples = await gateway.at_rest()
                corrupt = samples.sum("k8strace_spans_dropped_total", reason="corrupt")
                assert samples.sum("k8strace_spans_dropped_total") == corrupt
                assert 0 < samples.sum(CORRUPT) <= FLIPS
                assert await gateway.stop() == 0
    bits = FLIPS * rounds
    note = f"a bit costs one record at the most, which has up to {IN_A_RECORD} spans here"
    fault.settle(f"{bits} bits", sent, backend.ids, may_lose=bits * IN_A_RECORD, note=note)


def written(path: Path) -> int:
    """The bytes up to the last one that isn't 0."""
    return len(path.read_bytes().rstrip(b"\0"))
