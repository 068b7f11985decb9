"""A span for each request of an aiohttp client, whose context goes with the request."""

from __future__ import annotations

from types import SimpleNamespace

import aiohttp

from k8strace.kube._extra import missing

try:
    from opentelemetry import trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise missing(error) from error

from k8strace.kube.propagation import propagators


def trace_config(provider: TracerProvider) -> aiohttp.TraceConfig:
    """For `aiohttp.ClientSession(trace_configs=[…])`: CLIENT spans of `provider`.

    Names and attributes are those of Kubernetes' own clients; answers from 400 up are
    errors. Of the address, user and password are left out.
    """
    tracer = provider.get_tracer("k8strace.kube.aiohttp_client")

    async def started(
        _: aiohttp.ClientSession,
        request: SimpleNamespace,
        told: aiohttp.TraceRequestStartParams,
    ) -> None:
        span = tracer.start_span(
            f"HTTP {told.method}",
            kind=SpanKind.CLIENT,
            attributes={
                "http.request.method": told.method,
                "url.full": str(told.url.with_user(None)),
                "server.address": told.url.host or "",
                "server.port": told.url.port or 0,
            },
        )
        request.span = span
        propagators().inject(told.headers, trace.set_span_in_context(span))

    async def answered(
        _: aiohttp.ClientSession,
        request: SimpleNamespace,
        told: aiohttp.TraceRequestEndParams,
    ) -> None:
        status = told.response.status
        span: Span = request.span
        span.set_attribute("http.response.status_code", status)
        if status >= 400:
            span.set_attribute("error.type", str(status))
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    async def failed(
        _: aiohttp.ClientSession,
        request: SimpleNamespace,
        told: aiohttp.TraceRequestExceptionParams,
    ) -> None:
        span: Span = request.span
        span.set_attribute("error.type", type(told.exception).__qualname__)
        span.set_status(Status(StatusCode.ERROR, str(told.exception)))
        span.end()

    config = aiohttp.TraceConfig()
    config.on_request_start.append(started)
    config.on_request_end.append(answered)
    config.on_request_exception.append(failed)
    return config
