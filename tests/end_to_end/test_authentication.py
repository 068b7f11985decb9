"""A whole gateway asks who sends, and keeps what they showed to itself."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest
from aiohttp import web

from tests.end_to_end.conftest import Start
from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.pipeline import cancel, until
from tests.support.remote import Got, HTTPPeer, json
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


REVIEWED = """
extensions:
  k8s_token_review: {{endpoint: "{url}", timeout: 60s}}
receivers:
  otlp:
    protocols:
      grpc: {{engine: {engine}, auth: {{authenticator: k8s_token_review}}}}
service: {{extensions: [health_check, k8s_token_review]}}
"""
STRANGERS = 50


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_strangers_in_a_hurry_keep_nobody_out(
    start: Start, tmp_path: Path, engine: str
) -> None:
    """The API server hangs on their tokens, which are many, and knows one other."""

    async def review(got: Got) -> web.Response:
        token = msgspec.json.decode(got.body)["spec"]["token"]
        if token != "honest":
            await asyncio.Event().wait()
        return json({"status": {"authenticated": True, "user": {"username": "ann"}}})

    tokens = (f"stranger-{number}" + "x" * 4000 for number in itertools.count())
    called = 0

    async def strange(client: Client) -> None:
        nonlocal called
        while True:
            pair = ("authorization", f"Bearer {next(tokens)}")
            with pytest.raises(grpc.aio.AioRpcError):
                await client.send(request(1), metadata=[pair], timeout=0.05)
            called += 1

    reviewed = tmp_path / "reviewed.yaml"
    async with HTTPPeer(review) as peer, Backend() as backend:
        reviewed.write_text(REVIEWED.format(url=peer.url, engine=engine))
        async with start(backend.endpoint, "--config", str(reviewed)) as gateway:
            address = await gateway.address("grpc")
            async with Client(address) as crowd, Client(address) as honest:
                strangers = [asyncio.create_task(strange(crowd)) for _ in range(STRANGERS)]
                await until(lambda: called > 4 * STRANGERS)
                pair = ("authorization", "Bearer honest")
                await honest.send(request(3), metadata=[pair], timeout=20)
                for task in strangers:
                    await cancel(task)
            await backend.wait_for_spans(3)
            assert await gateway.stop() == 0
