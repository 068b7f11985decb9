"""What runs out or jumps: file descriptors, memory, a backend's speed, the wall clock."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.grpc.status import RETRYABLE, Code
from tests.end_to_end.conftest import Start
from tests.faults.conftest import Fault
from tests.faults.processes import (
    BATCH,
    BackendProcess,
    modes,
    options,
    peak_memory,
)
from tests.faults.upload import Upload, ids
from tests.support.backend import Backend
from tests.support.engine import MIB
from tests.support.http2 import Raw
from tests.support.requests import span_ids
from tests.support.sanitizers import unsanitized
from tests.support.workers import Load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("descriptors"),
]

DAY = 24 * 60 * 60
SHIM = Path(__file__).parent / "clock.c"


@pytest.mark.parametrize("mode", modes(batch=True))
async def test_file_descriptors_run_out(start: Start, fault: Fault, mode: str) -> None:
    """The backend goes and comes back meanwhile, for which one has to be left."""
    rounds, limit = fault.of(1, 20), 200
    async with Backend(keep=False) as backend:
        async with start(backend.endpoint, **options(mode)) as gateway:
            pid = gateway.process.pid
            _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, most))
            endpoint = await gateway.address("grpc")
            host, _, port = endpoint.rpartition(":")
            async with Load(endpoint, pause=0.01) as load:
                for _ in range(rounds):
                    pairs = []
                    closed = 0
                    for _ in range(limit):
                        pairs.append(await asyncio.open_connection(host, int(port)))
                        with suppress(ConnectionError, TimeoutError):
                            async with asyncio.timeout(0.01):
                                closed += await pairs[-1][0].read(1) == b""
                    await gateway.wait_for_log("too many files")
                    await backend.stop()
                    await backend.start()
                    for _, writer in pairs:
                        writer.close()
                    await load.wait_for(100)
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
    fault.settle(f"{rounds} times, {limit} connections", load, backend.ids)


@pytest.fixture
def shim(tmp_path: Path) -> str:
    """The library of clock.c, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = str(tmp_path / "clock.so")
    made = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run([*made, "-o", library, str(SHIM), "-ldl"], check=True)
    return library


@pytest.mark.parametrize("mode", modes(batch=True))
async def test_clock_jumps(
    start: Start, fault: Fault, mode: str, shim: str, tmp_path: Path
) -> None:
    """Years ahead and back: nobody waits, hurries or loses anything."""
    jumps = [DAY, -DAY, 3650 * DAY, -3650 * DAY, 0] * fault.of(1, 20)
    clock = tmp_path / "seconds"
    clock.write_text("0")
    # What sanitizers preload has to come first.
    preload = f"{os.environ.get('LD_PRELOAD', '')}:{shim}"
    env = {"LD_PRELOAD": preload, "CLOCK_FILE": str(clock)}
    async with Backend(keep=False) as backend:
        async with start(backend.endpoint, env=env, **options(mode)) as gateway:
            async with Load(await gateway.address("grpc")) as load:
                for jump in jumps:
                    new = clock.with_suffix(".new")
                    new.write_text(str(jump))
                    new.replace(clock)
                    await load.wait_for(100)
            assert not load.why
            clock.write_text(str(3650 * DAY))
            samples = await gateway.at_rest()
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
            years = [int(line[:4]) for line in gateway.log]
            assert years[-1] >= years[0] + 9, "the clock of the gateway did not jump"
    fault.settle(f"{len(jumps)} jumps", load, backend.ids)


class LargeSpans(Load):
    """Senders of spans of 40 KiB."""

    def message(self) -> ExportTraceServiceRequest:
        message = super().message()
        for span in message.resource_spans[0].scope_spans[0].spans:
            span.attributes.add(key="padding").value.string_value = "x" * 40_960
        return message


class Slow:
    """A backend's answer that takes `rate` spans a second."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free = 0.0

    async def __call__(self, message: ExportTraceServiceRequest) -> None:
        loop = asyncio.get_running_loop()
        seconds = len(span_ids(message)) / self._rate
        self._free = max(self._free, loop.time()) + seconds
        await asyncio.sleep(self._free - loop.time())


@unsanitized("they take more memory than the limit leaves")
@pytest.mark.parametrize("mode", ["in memory, batch"])
async def test_64_MiB_requests(  # noqa: N802
    start: Start, fault: Fault, mode: str, tmp_path: Path
) -> None:
    """From many hosts at once, each of which sends until it is taken."""
    senders, limit = fault.of(10, 200), 1024
    limiter = {"memory_limiter": {"check_interval": "100ms", "limit_mib": limit}}
    limited = options(mode, processors={**limiter, **BATCH})

    async def send(host: str) -> None:
        span_ids = ids()
        load.sent.update(span_ids)
        status = Code.UNAVAILABLE
        while status != Code.OK:
            async with Raw(endpoint, host) as raw:
                status = Code(await Upload(raw).run(span_ids))
            assert status == Code.OK or status in RETRYABLE
        load.acknowledged.update(span_ids)

    async with BackendProcess(tmp_path / "ids") as backend:
        async with start(backend.endpoint, **limited) as gateway:
            endpoint = await gateway.address("grpc")
            async with Load(endpoint, clients=2, pause=0.01) as load:
                hosts = [f"127.0.1.{number + 1}" for number in range(senders)]
                await asyncio.gather(*map(send, hosts))
            peak = peak_memory(gateway.process.pid)
            samples = await gateway.at_rest(60)
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
    # They wait for at most 2 s, which is not long on a busy machine.
    assert set(load.why) <= {"UNAVAILABLE: too much memory is in use"}
    assert peak < limit * MIB
    fault.settle(f"{senders} senders, {peak // MIB} MiB", load, backend.ids)


@unsanitized("they take more memory than the limit leaves")
@pytest.mark.parametrize("mode", modes(batch=True))
async def test_overload(start: Start, fault: Fault, mode: str) -> None:
    """Three times what the backend takes: senders are held, and nothing is lost."""
    rate, rounds, seconds = fault.of((150, 2, 2), (300, 20, 30))
    limit = fault.of(170, 256)  # MiB, of which the gateway itself takes 63, more or less
    sizes = {"limit_mib": limit, "spike_limit_mib": limit * 3 // 5}
    limiter = {"memory_limiter": {"check_interval": "100ms", **sizes}}
    patient = options(mode, processors={**limiter, **BATCH}, timeout="30s")
    taken = []
    async with Backend(keep=False) as backend:
        backend.answer = Slow(rate)
        async with start(backend.endpoint, **patient) as gateway:
            endpoint = await gateway.address("grpc")
            # Each sends a request a second as long as it is answered at once.
            clients = 3 * rate // 10
            async with LargeSpans(endpoint, clients=clients, spans=10, pause=1) as load:
                for _ in range(rounds):
                    before, loop = backend.spans, asyncio.get_running_loop()
                    begun = loop.time()
                    await backend.wait_for_spans(before + seconds * rate, 600)
                    taken.append((backend.spans - before) / (loop.time() - begun))
            peak = peak_memory(gateway.process.pid)
            backend.answer = None
            samples = await gateway.at_rest(60)
            assert samples.sum("k8strace_spans_dropped_total") == 0
            assert await gateway.stop() == 0
    assert peak < limit * MIB
    if fault.is_long:
        assert min(taken[1:]) > 0.8 * taken[0], taken
    what = f"{rounds * seconds} s, {rate:,} spans/s, {peak // MIB} MiB"
    fault.settle(what, load, backend.ids)
