"""Real components with certificates in their environment send their spans over TLS."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from tests.end_to_end.kube.control_plane import ControlPlane
from tests.support.backend import Backend
from tests.support.certificates import Authority

pytestmark = [pytest.mark.control_plane, pytest.mark.slow, pytest.mark.timeout(180)]


def services(backend: Backend) -> set[str]:
    """Names of the services that spans came from."""
    return {
        attribute.value.string_value
        for request in backend.requests
        for resource in request.resource_spans
        for attribute in resource.resource.attributes
        if attribute.key == "service.name"
    }


async def test_certificates_of_the_environment(tmp_path: Path) -> None:
    """They show their own ones, too: a server that asks for them takes their spans."""
    authority = Authority(tmp_path, "gateway")
    server, client = authority.issue(), authority.issue("/CN=component")
    credentials = grpc.ssl_server_credentials(
        [(server.key.read_bytes(), server.cert.read_bytes())],
        root_certificates=authority.cert.read_bytes(),
        require_client_auth=True,
    )
    env = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(authority.cert),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(client.cert),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(client.key),
    }
    async with Backend(credentials=credentials) as backend:
        async with ControlPlane(tmp_path / "plane", backend.endpoint, env=env):
            async with asyncio.timeout(60):
                calls = 0
                while services(backend) != {"apiserver", "etcd"}:
                    calls += 1
                    await backend.wait_for_calls(calls)
