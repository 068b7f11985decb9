"""A span for each call of a `grpc.aio` client, whose context goes with the call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import grpc

from k8strace.kube._extra import missing

try:
    from opentelemetry import trace
    from opentelemetry.propagators.textmap import Setter
    from opentelemetry.trace import Span, SpanKind, TracerProvider
except ImportError as error:
    raise missing(error) from error

from k8strace.kube.grpc import names, tell
from k8strace.kube.propagation import propagators

Result = TypeVar("Result")


def client_interceptors(provider: TracerProvider) -> Sequence[grpc.aio.ClientInterceptor]:
    """For `grpc.aio`'s channels: a CLIENT span of `provider` around each of their calls."""
    calls = _Calls(provider)
    return (
        _UnaryUnary(calls),
        _UnaryStream(calls),
        _StreamUnary(calls),
        _StreamStream(calls),
    )


class _Calls:
    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("k8strace.kube.grpc_client")

    async def begin(
        self, continuation: Callable[..., Any], details: Any, asked: Any
    ) -> Any:
        """The call of `continuation`, with a span that ends when it is over."""
        method = details.method
        method = method.decode() if isinstance(method, bytes) else str(method)
        span = self._tracer.start_span(
            method.lstrip("/"),
            kind=SpanKind.CLIENT,
            attributes={"rpc.system": "grpc", **names(method)},
        )
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        context = trace.set_span_in_context(span)
        propagators().inject(metadata, context, setter=_Metadata())
        try:
            call = await continuation(details._replace(metadata=metadata), asked)
        except BaseException:
            tell(span, grpc.StatusCode.UNKNOWN)
            span.end()
            raise
        try:
            call.add_done_callback(lambda done: _end(span, done))
        except NotImplementedError:  # an interceptor behind us has the answer already
            _end(span, call)
        return call


def _end(span: Span, call: Any) -> None:
    tell(span, _result(call.code()))
    span.end()


def _result(ready: Coroutine[Any, Any, Result]) -> Result:
    """Of a coroutine that has nothing to wait for: a call that is over knows its code."""
    try:
        ready.send(None)
    except StopIteration as stop:
        found: Result = stop.value
        return found
    ready.close()
    raise RuntimeError("a call that is over has no status")


class _Metadata(Setter[grpc.aio.Metadata]):
    def set(self, carrier: grpc.aio.Metadata, key: str, value: str) -> None:
        carrier[key] = value


class _Interceptor:
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls


class _UnaryUnary(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._calls.begin(continuation, client_call_details, request)


class _UnaryStream(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._calls.begin(continuation, client_call_details, request)


class _StreamUnary(_Interceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._calls.begin(continuation, client_call_details, request_iterator)


class _StreamStream(_Interceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._calls.begin(continuation, client_call_details, request_iterator)
