"""A whole gateway asks who sends, and keeps what they showed to itself."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.end_to_end.conftest import Start
from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.requests import request

CALLERS = """
extensions:
  bearertokenauth: {tokens: [hunter2, hunter3]}
  headers_setter: {headers: [{key: x-sender, value: hunter4}]}
receivers:
  otlp: {protocols: {grpc: {auth: {authenticator: bearertokenauth}}}}
exporters:
  otlp: {auth: {authenticator: headers_setter}}
service: {extensions: [health_check, bearertokenauth, headers_setter]}
"""


async def test_only_who_is_known_sends(start: Start, tmp_path: Path) -> None:
    callers = tmp_path / "callers.yaml"
    callers.write_text(CALLERS)
    more = ("--config", str(callers), "--workers", "2")
    async with Backend() as backend, start(backend.endpoint, *more) as gateway:
        async with Client(await gateway.address("grpc")) as client:
            for token in ("hunter2", "hunter3"):
                pair = ("authorization", f"Bearer {token}")
                await client.send(request(3), metadata=[pair])
            for wrong in ([], [("authorization", "Bearer hunter")]):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.send(request(3), metadata=wrong)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await backend.wait_for_spans(6)
        samples = await gateway.wait_for_metric(
            "k8strace_requests_rejected_total", 2, reason="unauthenticated"
        )
        samples = await gateway.wait_for_metric("otelcol_exporter_sent_spans_total", 6)
        samples.assert_balanced()
        assert "hunter" not in samples.text
        assert await gateway.stop() == 0
        assert "hunter" not in "\n".join(gateway.log)
    assert {each["x-sender"] for each in backend.metadata} == {"hunter4"}
