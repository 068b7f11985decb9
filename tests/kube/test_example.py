"""The examples of docs/components.md, as their readers run them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import REGISTRY

from k8strace.kube.asgi import everybody
from k8strace.kube.provider import tracer_provider
from k8strace.kube.tracing_config import TracingConfiguration, parse
from tests.kube.test_asgi import SPAN, TRACE, Recorded
from tests.kube.test_grpc import served
from tests.support.backend import Backend
from tests.support.certificates import Authority

PAGE = Path("docs/components.md").read_text()
CONFIG, *_ = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
WEBHOOK, CLIENTS, METRICS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMAND, *_ = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
LARGE = 200_000  # bytes; ASGI servers hand it on in several messages


@asynccontextmanager
async def webhook(folder: Path, authority: Authority, endpoint: str) -> AsyncIterator[str]:
    """The page's webhook in its server; its address. Ends as a Pod ends it, by SIGTERM."""
    config = folder / "tracing.yaml"
    rate = parse(CONFIG).sampling_rate_per_million
    assert rate == 10_000
    config.write_text(CONFIG.replace("k8strace.observability:4317", endpoint))
    code = WEBHOOK.replace("/etc/webhook/tracing.yaml", str(config))
    (folder / "webhook.py").write_text(code)
    pair = authority.issue()
    command = COMMAND.replace("8443", "0")
    command = command.replace("tls.crt", str(pair.cert)).replace("tls.key", str(pair.key))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command.split()[1:]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    log = ""
    try:
        async with asyncio.timeout(60):
            while not (found := re.search(r"running on (\S+)", log)):
                line = await process.stderr.readline()
                assert line, log
                log += line.decode()
            # Not on loopback, where no kube-apiserver reaches a Pod.
            assert "//0.0.0.0:" in found[1]
            yield found[1].replace("0.0.0.0", "127.0.0.1")
            process.send_signal(signal.SIGTERM)
            log += (await process.stderr.read()).decode()
        assert "Traceback" not in log, log
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.slow
async def test_the_webhook_shows_up_inside_the_callers_trace(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusted = ssl.create_default_context(cafile=authority.cert)
    review: dict[str, Any] = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "7", "object": {"data": {"x": "y" * LARGE}}},
    }
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    async with Backend() as backend:
        async with (
            webhook(tmp_path, authority, backend.endpoint) as address,
            aiohttp.ClientSession() as session,
            session.post(
                f"{address}/validate", json=review, headers=headers, ssl=trusted
            ) as response,
        ):
            assert response.content_type == "application/json"
            answer = await response.json()
        await backend.wait_for_spans(1)
    assert answer == {**review, "response": {"uid": "7", "allowed": True}}
    ((span,),) = [
        scope_spans.spans
        for request in backend.requests
        for resource in request.resource_spans
        for scope_spans in resource.scope_spans
    ]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)


async def test_clients_carry_the_trace_on_and_metrics_tell_of_it() -> None:
    server, seen = Recorded(), list[str]()

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["traceparent"])
        return web.Response()

    app = web.Application()
    app.router.add_get("/", answer)
    async with Backend() as backend:
        config = TracingConfiguration(
            endpoint=backend.endpoint, sampling_rate_per_million=1_000_000
        )
        tracing = tracer_provider(config, "example")
        module: dict[str, Any] = {"tracing": tracing}
        exec(CLIENTS, module)
        exec(METRICS, module)
        try:
            async with (
                TestServer(app) as http,
                served(server, "grpc.health.v1.Health", trusts=everybody) as port,
            ):
                await module["ask"](http.make_url("/"), f"localhost:{port}")
            await asyncio.to_thread(tracing.shut_down)
            sent = REGISTRY.get_sample_value(
                "k8strace_component_spans_total", {"outcome": "sent"}
            )
        finally:
            REGISTRY.unregister(tracing)
        assert sent == backend.spans == 2
    sent_ids = {span_id.hex() for span_id in backend.ids}
    (span,) = server.spans
    assert span.parent is not None
    assert sent_ids == {seen[0].split("-")[2], f"{span.parent.span_id:016x}"}
