"""A span for each request to an ASGI application: a webhook, an extension API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from k8strace.kube._extra import missing

try:
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise missing(error) from error

from k8strace.kube.propagation import incoming

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Trusts = Callable[[Scope], bool]


def nobody(_: object) -> bool:
    """Trusts no caller: what a public endpoint does."""
    return False


def everybody(_: object) -> bool:
    """Trusts all callers: for what only Kubernetes itself can reach."""
    return True


class TracingMiddleware:
    """`app`, with a SERVER span of `provider` around each request.

    A request belongs to its caller's trace where `trusts` says so of its scope; other
    callers' traces are linked. `name` names the span; by default it is the method alone,
    since paths have ids in them. `at_end`, for `Tracing.shut_down`, is called in a thread
    when the server ends, whether or not `app` knows of ASGI's lifespan.
    """

    def __init__(
        self,
        app: App,
        provider: TracerProvider,
        *,
        trusts: Trusts = nobody,
        name: Callable[[Scope], str] | None = None,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._tracer = provider.get_tracer("k8strace.kube.asgi")
        self._trusts = trusts
        self._name = name
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and self._at_end is not None:
            await self._live(scope, receive, send, self._at_end)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = incoming(scope, is_trusted=self._trusts(scope), getter=_Headers())
        with self._tracer.start_as_current_span(
            self._name(scope) if self._name else scope["method"],
            context=found.context,
            kind=SpanKind.SERVER,
            links=found.links,
            attributes={
                "http.request.method": scope["method"],
                "url.path": scope["path"],
                "url.scheme": scope.get("scheme", "http"),
            },
        ) as span:

            async def told(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, told)

    async def _live(
        self, scope: Scope, receive: Receive, send: Send, at_end: Callable[[], None]
    ) -> None:
        has_answered = False

        async def asked() -> MutableMapping[str, Any]:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await asyncio.to_thread(at_end)
            return message

        async def told(message: MutableMapping[str, Any]) -> None:
            nonlocal has_answered
            has_answered = True
            await send(message)

        try:
            await self._app(scope, asked, told)
        except Exception:
            if has_answered:
                raise
        if has_answered:
            return
        # An application that has no lifespan: by ASGI's rules it raises.
        await send({"type": "lifespan.startup.complete"})
        while (await asked())["type"] != "lifespan.shutdown":
            pass
        await send({"type": "lifespan.shutdown.complete"})


class _Headers(Getter[Scope]):
    """Reads a scope's headers, whose names ASGI gives in small letters."""

    def get(self, carrier: Scope, key: str) -> list[str] | None:
        wanted = key.encode("latin-1")
        found = [
            value.decode("latin-1") for name, value in _headers(carrier) if name == wanted
        ]
        return found or None

    def keys(self, carrier: Scope) -> list[str]:
        return [name.decode("latin-1") for name, _ in _headers(carrier)]


def _headers(scope: Scope) -> Sequence[tuple[bytes, bytes]]:
    return tuple(scope.get("headers") or ())
