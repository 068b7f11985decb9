"""A gateway that is not there yet, goes away and comes back: the cluster doesn't notice."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest

from tests.end_to_end.kube import manifests
from tests.end_to_end.kube.client import Client
from tests.end_to_end.kube.component import Component
from tests.end_to_end.kube.control_plane import ControlPlane
from tests.end_to_end.kube.run import gateway_for
from tests.end_to_end.kube.spans import read
from tests.end_to_end.kube.traffic import CONFIG_MAPS
from tests.faults.processes import at
from tests.support.backend import Backend
from tests.support.ports import free_port

pytestmark = [pytest.mark.control_plane, pytest.mark.slow, pytest.mark.timeout(900)]
REQUESTS = 600  # whose spans are more than two queues of an exporter
CLIENTS = 4
LONGEST = 10.0  # seconds that an export to nobody takes: who waits for one takes longer
DELIVERED = ("--set", "exporters.otlp.sending_queue.wait_for_result=true")


async def test_a_gateway_that_goes_away(tmp_path: Path, tables: list[str]) -> None:
    port = free_port()
    arguments = (*at(port), *DELIVERED)
    async with Backend() as backend:
        async with ControlPlane(tmp_path / "plane", f"127.0.0.1:{port}") as plane:
            async with plane.client() as client:
                await client.apply(manifests.config_map("one"))
                await _load(client)  # while the kube-apiserver still starts this and that
                absent = await _load(client)
                async with gateway_for(backend, tmp_path, *arguments) as gateway:
                    await _sends_again(plane, backend)
                    present = await _load(client)
                    gateway.signal(signal.SIGKILL)
                    assert await gateway.wait() == -signal.SIGKILL
                gone = await _load(client)
                async with gateway_for(backend, tmp_path, *arguments) as gateway:
                    await _sends_again(plane, backend)
                    back = await _load(client)
                    handled = await plane.stop()
                    samples = await gateway.at_rest()
                    assert await gateway.stop() == 0
    components = (plane.apiserver, plane.etcd)
    phases = {
        "not there yet": absent,
        "there": present,
        "gone": gone,
        "back": back,
    }
    tables.append(_table(phases, components))

    # What was acknowledged was delivered, also by a gateway that was killed.
    delivered = {span.id: span.service for span in read(backend.requests)}
    counts = Counter(delivered.values())
    for component, service in ((plane.apiserver, "apiserver"), (plane.etcd, "etcd")):
        exports = component.exports
        assert exports.sent <= counts[service] <= exports.sent + exports.failed
    # What was not is no mystery: etcd counts its calls apart from its spans.
    made = plane.etcd.exports
    assert made.sent + made.failed + made.dropped == sum(handled.values())
    assert plane.apiserver.exports.dropped > 0
    assert samples.sum("k8strace_spans_dropped_total") == 0

    for times in phases.values():
        assert max(times) < LONGEST
    for times in (absent, gone):
        assert median(times) < 3 * max(median(present), median(back))


async def _load(client: Client) -> list[float]:
    """How long each of many requests took, in seconds."""
    times = []

    async def ask() -> None:
        for _ in range(REQUESTS // CLIENTS):
            start = perf_counter()
            answer = await client.request("GET", f"{CONFIG_MAPS}/one")
            times.append(perf_counter() - start)
            assert answer.status == 200

    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    return times


async def _sends_again(plane: ControlPlane, backend: Backend) -> None:
    """Until spans of both programs arrive, whose clients connect again by and by."""
    seen = len(backend.requests)
    async with asyncio.timeout(180):
        while {span.service for span in read(backend.requests[seen:])} != {
            "apiserver",
            "etcd",
        }:
            plane.apiserver.assert_running()
            await asyncio.sleep(0.2)


def _table(phases: dict[str, list[float]], components: tuple[Component, ...]) -> str:
    lines = [
        f"{REQUESTS} requests each while the gateway is …",
        f"{'median':>51}{'longest':>14}",
    ]
    for name, times in phases.items():
        lines.append(
            f"  {name:<40}{median(times) * 1e3:>6.1f} ms{max(times) * 1e3:>11.1f} ms"
        )
    for one in components:
        sent, failed, dropped = one.exports
        lines.append(
            f"  {one.name}: {sent:,} spans sent, {failed:,} given up, {dropped:,} without "
            "room in its queue"
        )
    return "\n".join(lines) + "\n"
