"""A span for each call of a `grpc.aio` server, whose callers are treated as ASGI's are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

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
        if handler.response_streaming:

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                with self._span(method, context) as span:
                    async for answer in inner(request, context):
                        yield answer
                    _tell(span, context.code())

            wrapped: Any = stream
        else:

            async def unary(request: Any, context: Any) -> Any:
                with self._span(method, context) as span:
                    answer = await inner(request, context)
                    _tell(span, context.code())
                    return answer

            wrapped = unary
        return make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

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
            attributes={"rpc.system": "grpc", **_names(method)},
            record_exception=False,
        ) as span:
            try:
                yield span
            except grpc.aio.AbortError:
                _tell(span, context.code())
                raise


def _kind_of(handler: Any) -> tuple[Any, Any]:
    """What makes a handler of this kind, and the function in it."""
    kinds = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    return kinds[handler.request_streaming, handler.response_streaming]


def _names(method: str) -> dict[str, str]:
    service, _, name = method.lstrip("/").rpartition("/")
    return {"rpc.service": service, "rpc.method": name}


def _tell(span: Span, code: Any) -> None:
    number = 0 if code in (None, 0) else code.value[0]
    span.set_attribute("rpc.grpc.status_code", number)
    if number:
        span.set_status(Status(StatusCode.ERROR))


class _Metadata(Getter[Metadata]):
    def get(self, carrier: Metadata, key: str) -> list[str] | None:
        found = [value for name, value in carrier if name == key and isinstance(value, str)]
        return found or None

    def keys(self, carrier: Metadata) -> list[str]:
        return [name for name, _ in carrier]
