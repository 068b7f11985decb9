"""The webhook of docs/components.md, called as a kube-apiserver calls it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from tests.kube.test_asgi import SPAN, TRACE
from tests.support.backend import Backend

PAGE = Path("docs/components.md").read_text()


async def test_the_webhook_shows_up_inside_the_callers_trace(tmp_path: Path) -> None:
    config, code = re.findall(r"```(?:yaml|python)\n(.*?)```", PAGE, re.DOTALL)
    async with Backend() as backend:
        path = tmp_path / "tracing.yaml"
        path.write_text(config.replace("k8strace.observability:4317", backend.endpoint))
        module: dict[str, Any] = {}
        exec(code.replace("/etc/webhook/tracing.yaml", str(path)), module)
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b'{"request": {"uid": "7"}}'}

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "headers": [(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())],
        }
        await module["app"](scope, receive, send)
        assert json.loads(sent[1]["body"])["response"] == {"uid": "7", "allowed": True}
        await asyncio.to_thread(module["tracing"].shut_down)
        await backend.wait_for_spans(1)
        (span,) = [
            span
            for request in backend.requests
            for resource in request.resource_spans
            for scope_spans in resource.scope_spans
            for span in scope_spans.spans
        ]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
