"""Beside a kube-apiserver on its node, the gateway listens at a Unix socket."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.end_to_end.kube import manifests
from tests.end_to_end.kube.control_plane import ControlPlane
from tests.end_to_end.kube.run import LARGE_QUEUE, gateway_for
from tests.support.backend import Backend

pytestmark = [pytest.mark.control_plane, pytest.mark.slow, pytest.mark.timeout(300)]


async def test_all_spans_come_through_the_socket(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as short
    ):  # a socket's path has 107 bytes at the most
        socket = f"{short}/otlp.sock"
        arguments = (
            *("--set", f"receivers.otlp.protocols.grpc.endpoint={socket}"),
            *("--set", "receivers.otlp.protocols.grpc.transport=unix"),
        )
        async with Backend() as backend:
            async with gateway_for(backend, tmp_path, *arguments) as gateway:
                endpoint = f"unix://{socket}"
                folder = tmp_path / "plane"
                async with ControlPlane(folder, endpoint, env=LARGE_QUEUE) as plane:
                    async with plane.client() as client:
                        await client.apply(manifests.config_map("one"))
                    await plane.stop()
                samples = await gateway.at_rest()
                assert await gateway.stop() == 0
    exported = {one.name: one.exports for one in (plane.apiserver, plane.etcd)}
    assert all(one.sent for one in exported.values()), exported
    sent = sum(one.sent for one in exported.values())
    assert samples.sum("otelcol_receiver_accepted_spans_total") == sent
    assert len(backend.ids) == backend.spans == sent
