"""A span for each call of a `grpc.aio` server, whose callers are treated as ASGI's are."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from k8strace.kube._extra import missing

try:
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise missing(error) from error

from k8strace.kube.asgi import nobody
from k8strace.kube.propagation import incoming

Metadata = Sequence[tuple[str, str | bytes]]
Trusts = Callable[[grpc.aio.ServicerContext[Any, Any]], bool]

_TRACER = "k8strace.kube.grpc"


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """A SERVER span of `provider` around each call, named by its method.

    A call belongs to its caller's trace where `trusts` says so of its context (which has
    the peer and, with TLS, who it is); other callers' traces are linked.
    """

    def __init__(self, provider: TracerProvider, *, trusts: Trusts = nobody) -> None:
        self._tracer = provider.get_tracer(_TRACER)
        self._trusts = trusts

    async def intercept_service(  # type: ignore[override]
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        make, inner = _kind_of(handler)
        return make(
            self._wrapped(method, inner, is_stream=handler.response_streaming),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _wrapped(self, method: str, inner: Any, *, is_stream: bool) -> Any:
        """`inner` in a span: of the same form, for gRPC runs each of them differently."""

        async def generator(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._span(method, context):
                async for answer in inner(request, context):
                    yield answer

        async def coroutine(request: Any, context: Any) -> Any:
            with self._span(method, context):
                return await inner(request, context)

        def threaded_generator(request: Any, context: Any) -> Iterator[Any]:
            known = _Threaded(context)
            with self._span(method, known):
                yield from inner(request, known)

        def threaded(request: Any, context: Any) -> Any:
            known = _Threaded(context)
            with self._span(method, known):
                return inner(request, known)

        if inspect.isasyncgenfunction(inner):
            return generator
        if inspect.iscoroutinefunction(inner):
            return coroutine
        return threaded_generator if is_stream else threaded

    @contextmanager
    def _span(self, method: str, context: Any) -> Iterator[Span]:
        found = incoming(
            context.invocation_metadata() or (),
            is_trusted=self._trusts(context),
            getter=_Metadata(),
        )
        with self._tracer.start_as_current_span(
            method.lstrip("/"),
            context=found.context,
            kind=SpanKind.SERVER,
            links=found.links,
            attributes={"rpc.system": "grpc", **names(method)},
            record_exception=False,
        ) as span:
            try:
                yield span
            except (asyncio.CancelledError, GeneratorExit):  # of a call that is given up
                tell(span, grpc.StatusCode.CANCELLED)
                raise
            except Exception:
                tell(span, context.code() or grpc.StatusCode.UNKNOWN)
                raise
            tell(span, context.code())


class _Threaded:
    """The context of a handler that runs in a thread; grpcio's cannot tell its code."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._code: grpc.StatusCode | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code
        self._context.set_code(code)

    def abort(self, code: grpc.StatusCode, *arguments: Any, **more: Any) -> None:
        self._code = code
        self._context.abort(code, *arguments, **more)


def _kind_of(handler: Any) -> tuple[Any, Any]:
    """What makes a handler of this kind, and the function in it."""
    kinds = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    return kinds[handler.request_streaming, handler.response_streaming]


def names(method: str) -> dict[str, str]:
    """The attributes that a call's method gives a span."""
    service, _, name = method.lstrip("/").rpartition("/")
    return {"rpc.service": service, "rpc.method": name}


def tell(span: Span, code: Any) -> None:
    """Put a call's status on its span: a StatusCode, its number, or None for OK."""
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code or 0
    span.set_attribute("rpc.grpc.status_code", number)
    if number:
        span.set_status(Status(StatusCode.ERROR))


class _Metadata(Getter[Metadata]):
    def get(self, carrier: Metadata, key: str) -> list[str] | None:
        found = [value for name, value in carrier if name == key and isinstance(value, str)]
        return found or None

    def keys(self, carrier: Metadata) -> list[str]:
        return [name for name, _ in carrier]
