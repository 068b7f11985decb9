"""A control plane's life before a gateway and a backend, and what is known of it then."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.kube.callees import Called, Callees
from tests.end_to_end.kube.component import Exports
from tests.end_to_end.kube.control_plane import ControlPlane
from tests.end_to_end.kube.expectations import Evidence
from tests.end_to_end.kube.spans import read
from tests.end_to_end.kube.traffic import Traffic
from tests.support.backend import Backend
from tests.support.gateway import GatewayProcess, Samples, with_free_ports

CONFIG = Path(__file__).parent / "gateway.yaml"
# The burst at a kube-apiserver's start is two and a half queues; where it finds no CPU for
# sending, it drops of its own accord, and nobody could say what was there.
LARGE_QUEUE = {"OTEL_BSP_MAX_QUEUE_SIZE": "100000"}


class Run(NamedTuple):
    evidence: Evidence
    exports: dict[str, Exports]
    """Of each component, by its own word."""
    handled: dict[str, float]
    """The calls that etcd answered, by its own word."""
    samples: Samples
    """Of the gateway, at its end."""
    delivered: Counter[bytes]
    """How often the backend got which span."""
    called: list[Called]
    """What webhooks and the aggregated API were asked."""


def gateway_for(backend: Backend, folder: Path, *arguments: str) -> GatewayProcess:
    """One that sends to `backend`."""
    config = with_free_ports(
        CONFIG, **{"exporters.otlp.endpoint": f"http://{backend.endpoint}"}
    )
    return GatewayProcess(*config, *arguments, out=folder / "gateway.out")


async def run(folder: Path, rounds: int) -> Run:
    """All of the traffic, `rounds` times, at 100 %, until both programs have ended."""
    async with Backend() as backend, gateway_for(backend, folder) as gateway:
        endpoint = await gateway.address("grpc")
        async with ControlPlane(folder / "plane", endpoint, env=LARGE_QUEUE) as plane:
            async with (
                plane.client() as client,
                Callees(client, plane.serving_pair()) as callees,
            ):
                traffic = Traffic(client)
                await traffic.prepare(plane, callees)
                for number in range(rounds):
                    await traffic.round(f"round-{number}")
                await traffic.callers()
                handled = await plane.stop()
            exports = {one.name: one.exports for one in (plane.apiserver, plane.etcd)}
        samples = await gateway.at_rest()
        assert await gateway.stop() == 0
        own = plane.url.removeprefix("https://")
        evidence = Evidence(read(backend.requests), tuple(traffic.sent), own)
        return Run(evidence, exports, handled, samples, backend.ids, callees.called)
