"""The middleware around a real application in a real server."""

from __future__ import annotations

import json
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from k8strace.kube.asgi import App, Receive, Scope, Send, TracingMiddleware, everybody

TRACE, SPAN = "5fb6492bc888b375ba25017109117d19", "917b9dcf74b1a57e"


TABLE: list[dict[str, Any]] = json.loads(Path("tests/data/traceparents.json").read_text())
PRIVILEGED = ("system:masters", "system:monitoring")


def shown(spans: Sequence[ReadableSpan]) -> list[dict[str, Any]]:
    """Spans as the table of recorded ones has them."""
    return [
        {
            "parent": span.parent and [*ids(span.parent)],
            "tracestate": span.context.trace_state.to_header() if span.context else "",
            "links": [
                [
                    *ids(link.context),
                    link.context.trace_flags.sampled,
                    link.context.trace_state.to_header(),
                ]
                for link in span.links
            ],
        }
        for span in spans
    ]


def ids(context: trace.SpanContext) -> tuple[str, str]:
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


class Recorded:
    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._spans))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()


def answering(status: int, seen: list[trace.Span] | None = None) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if seen is not None:
            seen.append(trace.get_current_span())
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


async def ask(app: App, *headers: tuple[str, str], method: str = "POST") -> list[Any]:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": "/validate",
        "scheme": "https",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    await app(scope, receive, send)
    return sent


async def test_a_request_is_a_span() -> None:
    recorded, seen = Recorded(), list[trace.Span]()
    app = TracingMiddleware(answering(200, seen), recorded.provider)
    sent = await ask(app)
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
    (span,) = recorded.spans
    assert span.name == "POST"
    assert span.kind is trace.SpanKind.SERVER
    assert span.parent is None
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "url.path": "/validate",
        "url.scheme": "https",
        "http.response.status_code": 200,
    }
    assert span.context is not None
    assert seen[0].get_span_context().span_id == span.context.span_id


@pytest.mark.parametrize("trusted", [True, False])
async def test_who_is_trusted_is_the_parent_and_others_are_linked(trusted: bool) -> None:
    recorded = Recorded()
    app = TracingMiddleware(
        answering(200),
        recorded.provider,
        trusts=everybody if trusted else lambda scope: scope["path"] == "/elsewhere",
    )
    await ask(app, ("traceparent", f"00-{TRACE}-{SPAN}-01"))
    (span,) = recorded.spans
    assert span.context is not None
    assert (span.context.trace_id == int(TRACE, 16)) == trusted
    assert [link.context.trace_id for link in span.links] == [int(TRACE, 16)] * (
        not trusted
    )


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['caller']}, {row['case']}")
async def test_callers_are_taken_as_a_kube_apiserver_takes_them(
    row: dict[str, Any],
) -> None:
    recorded = Recorded()
    app = TracingMiddleware(
        answering(200),
        recorded.provider,
        trusts=lambda _: row["caller"] in PRIVILEGED,
    )
    await ask(app, *row["sent"].items())
    assert shown(recorded.spans) == ([] if row["span"] is None else [row["span"]])


async def test_errors_are_on_the_span() -> None:
    recorded = Recorded()
    await ask(TracingMiddleware(answering(503), recorded.provider))

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await ask(TracingMiddleware(broken, recorded.provider))
    first, second = recorded.spans
    assert first.status.status_code is second.status.status_code is trace.StatusCode.ERROR
    assert second.events[0].name == "exception"


async def test_a_name_of_ones_own() -> None:
    recorded = Recorded()
    await ask(
        TracingMiddleware(answering(200), recorded.provider, name=lambda _: "validate")
    )
    assert recorded.spans[0].name == "validate"


async def test_other_scopes_pass() -> None:
    recorded, seen = Recorded(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def unused() -> Any:
        raise AssertionError

    middleware = TracingMiddleware(app, recorded.provider)
    await middleware({"type": "lifespan"}, unused, unused)  # type: ignore[arg-type]
    assert seen == ["lifespan"]
    assert recorded.spans == ()


async def lifespan(app: App) -> list[str]:
    """What a server sees of an application that it starts and ends."""
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": next(messages)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    return sent


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize("reads", [True, False])
async def test_the_end_is_told_where_the_application_has_no_lifespan(reads: bool) -> None:
    calls: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if reads:
            (await receive())["body"]
        raise NotImplementedError

    middleware = TracingMiddleware(
        app, Recorded().provider, at_end=lambda: calls.append("end")
    )
    assert await lifespan(middleware) == COMPLETE
    assert calls == ["end"]


async def test_the_end_is_told_where_the_application_has_one() -> None:
    calls: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for answer in COMPLETE:
            calls.append((await receive())["type"])
            await send({"type": answer})

    middleware = TracingMiddleware(
        app, Recorded().provider, at_end=lambda: calls.append("end")
    )
    assert await lifespan(middleware) == COMPLETE
    assert calls == ["lifespan.startup", "end", "lifespan.shutdown"]


async def test_a_start_that_fails_is_told() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.failed"})
        raise ValueError("no")

    middleware = TracingMiddleware(app, Recorded().provider, at_end=lambda: None)
    with pytest.raises(ValueError, match="no"):
        await lifespan(middleware)
