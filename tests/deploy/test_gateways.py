"""The gateways that the manifests start: they take spans, answer the probes, drain."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.gateway import GatewayProcess, run_gateway
from tests.support.manifests import (
    VARIANTS,
    committed,
    configuration,
    container_of,
    pod_of,
    started,
)
from tests.support.requests import request


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
async def test_it_takes_spans_answers_its_probes_and_drains(
    variant: str, tmp_path: Path
) -> None:
    objects = committed(variant)
    container = container_of(pod_of(objects))
    liveness, readiness = (
        container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")
    )
    is_released = asyncio.Event()

    async def late(_: object) -> None:
        await is_released.wait()

    async with Backend() as backend:
        backend.answer = late
        arguments = started(objects, tmp_path).with_free_ports(
            f"http://{backend.endpoint}", tmp_path
        )
        async with GatewayProcess(*arguments, out=tmp_path / "out") as gateway:
            health = f"http://{await gateway.address('health')}"
            assert (await gateway.get(health + liveness))[0] == 200
            assert (await gateway.get(health + readiness))[0] == 200
            grpc = await gateway.address("grpc")
            targets = [grpc]
            if variant == "daemonset":
                targets.append(f"unix:{tmp_path / 'otlp.sock'}")
            for target in targets:
                async with Client(target) as client:
                    await client.send(request(10))
            while not backend.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            stopping = asyncio.ensure_future(gateway.stop())
            await gateway.wait_for_log("draining")
            # Not ready, and alive, as long as the backend has not answered.
            while (await gateway.get(health + readiness))[0] != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert (await gateway.get(health + liveness))[0] == 200
            is_released.set()
            assert await stopping == 0
    assert backend.spans == 10 * len(targets)
    assert any(re.search("drained; everything", line) for line in gateway.log)


@pytest.mark.slow
async def test_the_command_validate_takes_the_configurations(tmp_path: Path) -> None:
    for variant in VARIANTS:
        path = tmp_path / f"{variant}.yaml"
        path.write_text(configuration(committed(variant)))
        status, out, err = await run_gateway("validate", "--config", str(path))
        assert (status, err) == (0, "")
        promise = "stored" if variant == "statefulset" else "in memory"
        assert f"pipeline traces: {promise}" in out
