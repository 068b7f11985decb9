"""The trace configuration of a real session that asks a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from k8strace.kube.aiohttp_client import trace_config
from k8strace.kube.propagation import incoming
from tests.kube.test_asgi import SPAN, TRACE, Recorded, ids


@asynccontextmanager
async def asking(
    provider: trace.TracerProvider, seen: list[dict[str, str]]
) -> AsyncIterator[aiohttp.ClientSession]:
    async def answer(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.Response(status=int(request.query.get("status", "200")))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession(
            server.make_url("/"), trace_configs=[trace_config(provider)]
        ) as session,
    ):
        yield session


async def test_a_request_is_a_span_and_carries_its_context() -> None:
    recorded, seen = Recorded(), list[dict[str, str]]()
    token = attach(baggage.set_baggage("tier", "gold"))
    async with asking(recorded.provider, seen) as session:
        with recorded.provider.get_tracer("test").start_as_current_span("root") as root:
            async with session.post("api/v1/pods?limit=5", headers={"a": "b"}) as response:
                url = response.url
    detach(token)
    span, _ = recorded.spans
    assert (span.name, span.kind) == ("HTTP POST", trace.SpanKind.CLIENT)
    assert span.parent == root.get_span_context()
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "url.full": str(url),
        "server.address": "127.0.0.1",
        "server.port": url.port,
        "http.response.status_code": 200,
    }
    assert span.context is not None
    (headers,) = seen
    assert headers["traceparent"] == "00-{}-{}-01".format(*ids(span.context))
    assert (headers["baggage"], headers["a"]) == ("tier=gold", "b")


@pytest.mark.parametrize("status", [404, 503])
async def test_answers_from_400_up_are_errors(status: int) -> None:
    recorded = Recorded()
    async with asking(recorded.provider, []) as session:
        await session.get(f"?status={status}")
    (span,) = recorded.spans
    assert span.status.status_code is trace.StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == str(status)


async def test_a_server_that_is_not_there_and_a_secret_in_its_address() -> None:
    recorded = Recorded()
    async with aiohttp.ClientSession(
        trace_configs=[trace_config(recorded.provider)]
    ) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("http://user:secret@127.0.0.1:1/x")
    (span,) = recorded.spans
    assert span.status.status_code is trace.StatusCode.ERROR
    attributes = dict(span.attributes or {})
    assert attributes["error.type"] == "ClientConnectorError"
    assert attributes["url.full"] == "http://127.0.0.1:1/x"


async def test_who_is_not_sampled_says_so() -> None:
    seen = list[dict[str, str]]()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    async with asking(provider, seen) as session:
        await session.get("")
    assert seen[0]["traceparent"].endswith("-00")


async def test_context_passes_where_there_are_no_spans() -> None:
    seen = list[dict[str, str]]()
    found = incoming({"traceparent": f"00-{TRACE}-{SPAN}-01"}, is_trusted=True)
    async with asking(trace.NoOpTracerProvider(), seen) as session:
        with trace.use_span(trace.get_current_span(found.context)):
            await session.get("")
        await session.get("")
    assert seen[0]["traceparent"] == f"00-{TRACE}-{SPAN}-01"
    assert "traceparent" not in seen[1]
