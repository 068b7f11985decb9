"""The webhook of docs/components.md, called by a real kube-apiserver, is in its trace."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.end_to_end.kube import manifests
from tests.end_to_end.kube.client import ADMIN, USER
from tests.end_to_end.kube.component import Component
from tests.end_to_end.kube.control_plane import ControlPlane
from tests.end_to_end.kube.expectations import Sent
from tests.end_to_end.kube.run import gateway_for
from tests.end_to_end.kube.spans import CLIENT, SERVER, Span, Spans, read
from tests.end_to_end.kube.traffic import Traffic, context
from tests.support.backend import Backend
from tests.support.certificates import Pair
from tests.support.ports import free_port

pytestmark = [pytest.mark.control_plane, pytest.mark.slow, pytest.mark.timeout(300)]
PAGE = Path("docs/components.md").read_text()
SERVICE = "my-webhook"
LARGE = 500_000  # bytes of an object, which come in many pieces


@asynccontextmanager
async def webhook(folder: Path, endpoint: str, pair: Pair) -> AsyncIterator[int]:
    """The page's example in a process of its own, behind uvicorn with TLS; its port."""
    config, code, *_ = re.findall(r"```(?:yaml|python)\n(.*?)```", PAGE, re.DOTALL)
    tracing = folder / "tracing.yaml"
    tracing.write_text(config.replace("k8strace.observability:4317", endpoint))
    module = folder / "webhook.py"
    module.write_text(code.replace("/etc/webhook/tracing.yaml", str(tracing)))
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "webhook:app", f"--app-dir={folder}"]
    command += ["--host=127.0.0.1", f"--port={port}"]
    command += [f"--ssl-certfile={pair.cert}", f"--ssl-keyfile={pair.key}"]
    server = Component("uvicorn", command, folder / "uvicorn.log", {})
    await server.start()
    try:
        async with asyncio.timeout(60):
            while not await _is_listening(port):
                server.assert_running()
                await asyncio.sleep(0.1)
        yield port
        await server.stop()
    finally:
        await server.kill()


async def test_a_webhook_written_from_the_docs(tmp_path: Path) -> None:
    async with Backend() as backend, gateway_for(backend, tmp_path) as gateway:
        endpoint = await gateway.address("grpc")
        async with ControlPlane(tmp_path / "plane", endpoint) as plane:
            pair = plane.serving_pair()
            async with (
                webhook(tmp_path, endpoint, pair) as port,
                plane.client() as client,
            ):
                await client.apply(manifests.everything_for("devs"))
                await client.apply(manifests.namespace("checked"))
                hook = manifests.webhook(
                    "checked", f"https://127.0.0.1:{port}/", plane.authority.cert
                )
                await client.apply(manifests.webhooks("Validating", "python", hook))
                traffic = Traffic(client)
                create = "/api/v1/namespaces/checked/configmaps"
                await _called(traffic, backend, create)
                for user in (ADMIN, USER):
                    for name, size in (("small", 64), ("large", LARGE)):
                        body = manifests.config_map(f"{name}-{user}", size)
                        await traffic.ask("POST", create, body, user=user, status=201)
                body = manifests.config_map("told")
                told = {**context("01", more=True)}
                await traffic.ask("POST", create, body, status=201, headers=told)
                await _arrived(backend, traffic)
                await plane.stop()
        await gateway.at_rest()
        assert await gateway.stop() == 0
    spans = read(backend.requests)
    for span in _of_the_webhook(spans):
        assert (span.kind, span.name, span.links) == (SERVER, "POST", ())
        call, admission = list(spans.ancestors(span))[:2]
        assert (call.service, call.kind, call.name) == ("apiserver", CLIENT, "HTTP POST")
        assert admission.name == "Call validating webhook"
        assert {one.trace for one in spans.ancestors(span)} == {span.trace}
        assert span.text("http.response.status_code") == "200"
    # Each of the test's requests has one; the last stands in the trace of its caller.
    for one in traffic.sent:
        inside = _inside(spans, one)
        assert len(inside) == 1, one
    (_, trace_id, _, _) = told["traceparent"].split("-")
    assert inside[0].trace == trace_id
    assert inside[0].trace_state == told["tracestate"]


async def _called(traffic: Traffic, backend: Backend, create: str) -> None:
    """Create until the kube-apiserver has heard of the webhook; that is forgotten."""
    number = 0
    async with asyncio.timeout(60):
        while not _of_the_webhook(read(backend.requests)):
            name = manifests.config_map(f"probe-{number}")
            await traffic.ask("POST", create, name, status=201)
            await asyncio.sleep(0.5)
            number += 1
    traffic.sent.clear()


async def _arrived(backend: Backend, traffic: Traffic) -> None:
    """Until each request is there with the webhook's part of it."""
    async with asyncio.timeout(60):
        while True:
            spans = read(backend.requests)
            if all(_inside(spans, one) for one in traffic.sent):
                return
            await asyncio.sleep(0.2)


def _inside(spans: Spans, one: Sent) -> list[Span]:
    """The webhook's spans below that of a request."""
    below = (s for served in spans.served(one.audit_id) for s in spans.below(served))
    return [span for span in below if span.service == SERVICE]


def _of_the_webhook(spans: Spans) -> list[Span]:
    return [span for span in spans if span.service == SERVICE]


async def _is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
