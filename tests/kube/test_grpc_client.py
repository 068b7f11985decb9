"""The interceptors of a real channel to a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from k8strace.kube.asgi import everybody
from k8strace.kube.grpc_client import client_interceptors
from k8strace.kube.propagation import incoming
from tests.kube.test_asgi import SPAN, TRACE, Recorded, ids
from tests.kube.test_grpc import served


@asynccontextmanager
async def calling(
    served_by: Recorded, provider: trace.TracerProvider
) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        served(served_by, trusts=everybody) as port,
        grpc.aio.insecure_channel(
            f"localhost:{port}", interceptors=client_interceptors(provider)
        ) as channel,
    ):
        yield channel


def context_of(span: ReadableSpan) -> trace.SpanContext:
    context: trace.SpanContext | None = span.context
    assert context is not None
    return context


async def test_each_kind_of_call_is_the_parent_of_the_servers() -> None:
    recorded, server = Recorded(), Recorded()

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x"

    async with calling(server, recorded.provider) as channel:
        with recorded.provider.get_tracer("test").start_as_current_span("root") as root:
            call: Any = channel.unary_unary("/a.B/Unary")
            assert await call(b"x", metadata=(("a", "b"),)) == b"x"
            call = channel.unary_stream("/a.B/Stream")
            assert [one async for one in call(b"x")] == [b"x"] * 3
            call = channel.stream_unary("/a.B/Sum")
            assert await call(requests()) == b"xxx"
            call = channel.stream_stream("/a.B/Echo")
            assert [one async for one in call(requests())] == [b"x"] * 3
    *clients, _ = recorded.spans
    assert [span.name for span in clients] == [
        *("a.B/Unary", "a.B/Stream", "a.B/Sum", "a.B/Echo")
    ]
    for client, span in zip(clients, server.spans, strict=True):
        assert client.kind is trace.SpanKind.CLIENT
        assert client.parent == root.get_span_context()
        assert dict(client.attributes or {}) == dict(span.attributes or {})
        assert span.parent is not None
        assert ids(span.parent) == ids(context_of(client))


async def test_errors_and_cancellations_are_on_the_span() -> None:
    recorded = Recorded()
    async with calling(Recorded(), recorded.provider) as channel:
        unary: Any = channel.unary_unary("/a.B/Unary")
        with pytest.raises(grpc.aio.AioRpcError):
            await unary(b"abort")
        stream: Any = channel.stream_stream("/a.B/Echo")()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        stream.cancel()
        assert await stream.code() is grpc.StatusCode.CANCELLED
    codes = [(span.attributes or {})["rpc.grpc.status_code"] for span in recorded.spans]
    assert codes == [5, 1]
    for span in recorded.spans:
        assert span.status.status_code is trace.StatusCode.ERROR


class Cache(grpc.aio.UnaryUnaryClientInterceptor):
    """Answers by itself."""

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return b"kept"


async def test_an_interceptor_behind_us_may_answer() -> None:
    recorded = Recorded()
    hooks = [*client_interceptors(recorded.provider), Cache()]
    async with grpc.aio.insecure_channel("localhost:1", interceptors=hooks) as channel:
        unary: Any = channel.unary_unary("/a.B/Unary")
        assert await unary(b"x") == b"kept"
    (span,) = recorded.spans
    assert (span.attributes or {})["rpc.grpc.status_code"] == 0


async def test_context_passes_where_there_are_no_spans() -> None:
    server = Recorded()
    found = incoming({"traceparent": f"00-{TRACE}-{SPAN}-01"}, is_trusted=True)
    async with calling(server, trace.NoOpTracerProvider()) as channel:
        with trace.use_span(trace.get_current_span(found.context)):
            unary: Any = channel.unary_unary("/a.B/Unary")
            await unary(b"x")
        await unary(b"x")
    with_parent, without = server.spans
    assert with_parent.parent is not None
    assert ids(with_parent.parent) == (TRACE, SPAN)
    assert without.parent is None
