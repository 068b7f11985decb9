"""The interceptor in a real server, called by a real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opentelemetry import trace

from k8strace.kube.asgi import nobody
from k8strace.kube.grpc import ServerInterceptor, Trusts
from tests.kube.test_asgi import PRIVILEGED, SPAN, TABLE, TRACE, Recorded, shown

TRACED = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)


async def _unary(request: bytes, context: Any) -> bytes:
    if request == b"set":
        context.set_code(grpc.StatusCode.NOT_FOUND)
    if request == b"abort":
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing")
    if request == b"raise":
        raise ValueError("broken")
    return request


async def _stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(3):
        yield request
        if request == b"hang":
            await asyncio.Event().wait()


async def _sum(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([one async for one in requests])


async def _echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for one in requests:
        yield one


async def _written(request: bytes, context: Any) -> None:
    for _ in range(3):
        await context.write(request)
        if request == b"hang":
            await asyncio.Event().wait()


def _threaded(request: bytes, context: Any) -> bytes:
    if request == b"abort":
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing")
    return b"in a span" if trace.get_current_span().is_recording() else b"in none"


def _threaded_stream(request: bytes, context: Any) -> Iterator[bytes]:
    for _ in range(3):
        yield request


@asynccontextmanager
async def served(
    recorded: Recorded, service: str = "a.B", *, trusts: Trusts = nobody
) -> AsyncIterator[int]:
    """The port of a server with the interceptor."""
    pool = ThreadPoolExecutor(1)
    server = grpc.aio.server(
        pool, interceptors=[ServerInterceptor(recorded.provider, trusts=trusts)]
    )
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "Check": grpc.unary_unary_rpc_method_handler(_unary),
        "Stream": grpc.unary_stream_rpc_method_handler(_stream),
        "Sum": grpc.stream_unary_rpc_method_handler(_sum),
        "Echo": grpc.stream_stream_rpc_method_handler(_echo),
        "Written": grpc.unary_stream_rpc_method_handler(_written),
        "Threaded": grpc.unary_unary_rpc_method_handler(_threaded),
        "ThreadedStream": grpc.unary_stream_rpc_method_handler(_threaded_stream),
    }
    handler = grpc.method_handlers_generic_handler(service, handlers)
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("localhost:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
        pool.shutdown()


@asynccontextmanager
async def serving(recorded: Recorded, *, trusts: Trusts = nobody) -> AsyncIterator[Any]:
    """A channel to such a server."""
    async with (
        served(recorded, trusts=trusts) as port,
        grpc.aio.insecure_channel(f"localhost:{port}") as channel,
    ):
        yield channel


async def test_each_kind_of_call_is_a_span() -> None:
    recorded = Recorded()

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x"

    async with serving(recorded) as channel:
        assert await channel.unary_unary("/a.B/Unary")(b"x") == b"x"
        assert [one async for one in channel.unary_stream("/a.B/Stream")(b"x")] == [
            b"x"
        ] * 3
        assert await channel.stream_unary("/a.B/Sum")(requests()) == b"xxx"
        assert [one async for one in channel.stream_stream("/a.B/Echo")(requests())] == [
            b"x"
        ] * 3
    assert [span.name for span in recorded.spans] == [
        *("a.B/Unary", "a.B/Stream", "a.B/Sum", "a.B/Echo")
    ]
    for span in recorded.spans:
        assert span.kind is trace.SpanKind.SERVER
        assert dict(span.attributes or {}) == {
            "rpc.system": "grpc",
            "rpc.service": "a.B",
            "rpc.method": span.name.partition("/")[2],
            "rpc.grpc.status_code": 0,
        }


@pytest.mark.parametrize("trusted", [True, False])
async def test_who_is_trusted_is_the_parent_and_others_are_linked(trusted: bool) -> None:
    recorded = Recorded()
    async with serving(recorded, trusts=lambda _: trusted) as channel:
        await channel.unary_unary("/a.B/Unary")(b"x", metadata=TRACED)
    (span,) = recorded.spans
    assert span.context is not None
    assert (span.context.trace_id == int(TRACE, 16)) == trusted
    assert [link.context.trace_id for link in span.links] == [int(TRACE, 16)] * (
        not trusted
    )


async def test_errors_are_on_the_span() -> None:
    recorded = Recorded()
    async with serving(recorded) as channel:
        for request, code in ((b"abort", 5), (b"set", 5), (b"raise", 2)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/a.B/Unary")(request)
            assert caught.value.code().value[0] == code
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/a.B/Other")(b"")
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/a.B/Threaded")(b"abort")
    for span in recorded.spans:
        assert span.status.status_code is trace.StatusCode.ERROR
    codes = [(span.attributes or {})["rpc.grpc.status_code"] for span in recorded.spans]
    assert codes == [5, 5, 2, 5]


async def test_calls_that_are_given_up_say_so() -> None:
    recorded = Recorded()
    async with serving(recorded) as channel:
        for name in ("Written", "Stream"):
            call = channel.unary_stream(f"/a.B/{name}")(b"hang")
            assert await call.read() == b"hang"
            call.cancel()
        async with asyncio.timeout(60):
            while len(recorded.spans) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    for span in recorded.spans:
        assert (span.attributes or {})["rpc.grpc.status_code"] == 1
        assert span.status.status_code is trace.StatusCode.ERROR


async def test_each_form_of_handler_is_served() -> None:
    recorded = Recorded()
    async with serving(recorded) as channel:
        assert await channel.unary_unary("/a.B/Threaded")(b"x") == b"in a span"
        for name in ("Written", "ThreadedStream"):
            call = channel.unary_stream(f"/a.B/{name}")(b"x")
            assert [one async for one in call] == [b"x"] * 3
    assert [span.name for span in recorded.spans] == [
        *("a.B/Threaded", "a.B/Written", "a.B/ThreadedStream")
    ]


async def test_callers_are_taken_as_a_kube_apiserver_takes_them() -> None:
    recorded = Recorded()

    def trusts(context: Any) -> bool:
        return dict(context.invocation_metadata())["caller"] in PRIVILEGED

    async with serving(recorded, trusts=trusts) as channel:
        for row in TABLE:
            sent = (*row["sent"].items(), ("caller", row["caller"]))
            await channel.unary_unary("/a.B/Unary")(b"x", metadata=sent)
    assert shown(recorded.spans) == [row["span"] for row in TABLE if row["span"]]
