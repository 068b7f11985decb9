"""What a component's test needs around it: a context, something behind it, the sums."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import pytest

from k8strace.budget import Budget
from k8strace.component import (
    Blocked,
    Component,
    ComponentID,
    Config,
    Consumer,
    Context,
    Promise,
)
from k8strace.driver import Done, begin
from k8strace.drops import Drops
from k8strace.edges import Edge
from k8strace.errors import RefusedError, RejectedError
from k8strace.metrics import Ledger, Metrics
from k8strace.payload import Origin, Payload
from tests.support.requests import parse, request, span_ids
from tests.support.wire import field, span

MIB = 1024 * 1024


def context(
    kind: str,
    name: str,
    *,
    metrics: Metrics | None = None,
    budget: Budget | None = None,
    pipeline: str = "",
) -> Context:
    metrics = metrics or Metrics()
    ledger = metrics.ledger(kind, name, pipeline)
    log = logging.LoggerAdapter(logging.getLogger("k8strace"), {"component": name})
    return Context(
        id=ComponentID.parse(name),
        kind=kind,
        metrics=metrics,
        ledger=ledger,
        budget=budget or Budget(64 * MIB),
        log=log,
        drops=Drops(kind, name, log, ledger, metrics.losses),
        pipeline=pipeline,
    )


def configured(component: type[Component[Any]], values: dict[str, Any]) -> Any:
    """The component's config from plain values, as config.py would make it."""
    from k8strace.config import decode

    return decode(component.config_type, values)


class Sink(Consumer[Config]):
    """Takes payloads and remembers them, or fails as it is told.

    `failures` are raised in turn, one for each payload, before anything is taken; while
    `gate` is set to an unset Event, `consume` waits for it.
    """

    kind = "exporters"
    type_name = "sink"

    def __init__(self, ctx: Context | None = None) -> None:
        super().__init__(Config(), ctx or context("exporters", "sink"))
        self.payloads: list[Payload] = []
        self.failures: list[Exception] = []
        self.gate: asyncio.Event | None = None
        self.blocked: Blocked | None = None
        self.promised = Promise.DELIVERED
        self.calls = 0

    @property
    def promise(self) -> Promise:
        return self.promised

    def blocked_by(self, payload: Payload) -> Blocked | None:
        return self.blocked

    async def consume(self, payload: Payload) -> None:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.payloads.append(payload)
        self.ledger.sent += payload.spans

    @property
    def spans(self) -> int:
        return sum(payload.spans for payload in self.payloads)

    def span_ids(self) -> list[bytes]:
        return [i for p in self.payloads for i in span_ids(parse(p.chunks))]


def edge_to(consumer: Consumer[Any]) -> tuple[Edge, Ledger]:
    """A way into `consumer` and the ledger of whoever stands before it."""
    source = Ledger()
    return Edge(source, consumer), source


def payload(
    spans: int = 1,
    *,
    peer: str = "10.0.0.1:1",
    budget: Budget | None = None,
    wait_until: float = 0.0,
    **options: Any,
) -> Payload:
    body = request(spans, **options).SerializeToString()
    lease = budget.lease(len(body), peer) if budget else None
    return Payload(
        (body,), spans, len(body), Origin(peer), lease=lease, wait_until=wait_until
    )


def unreadable(
    spans: int, *, peer: str = "10.0.0.9:1", budget: Budget | None = None
) -> Payload:
    """A request whose last span is announced and not there: who cuts it cannot go on."""
    inner = field(2, span()) * (spans - 1) + b"\x12\x7f"
    body = field(1, field(2, inner))
    lease = budget.lease(len(body), peer) if budget else None
    return Payload((body,), spans, len(body), Origin(peer), lease=lease)


def assert_at_rest(ledger: Ledger) -> None:
    """The accounting holds and nothing is under way in the component."""
    state = {
        name: getattr(ledger, name)
        for name in vars(Ledger)
        if not (name.startswith("_") or callable(getattr(Ledger, name)))
    }
    assert ledger.parked == 0, state
    assert ledger.in_flight == 0, state


def told(component: Component[Any], records: Iterable[logging.LogRecord]) -> dict[str, int]:
    """The spans that `component` says it lost, by reason: all lines added up."""
    component.drops.lines.flush()
    found: dict[str, int] = {}
    for record in records:
        line = record.__dict__
        if line.get("spans"):
            found[line["reason"]] = found.get(line["reason"], 0) + line["spans"]
    return found


Drive = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]


async def in_a_task(coro: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.create_task(coro)


async def without_a_task(coro: Coroutine[Any, Any, Any]) -> Any:
    """As receivers do: a task only goes on with what had to wait."""
    step = begin(coro)
    if isinstance(step, Done):
        return step.value
    return await asyncio.create_task(step.run())


both_drivers = pytest.mark.parametrize("drive", [in_a_task, without_a_task])


async def failure(awaitable: Awaitable[Any]) -> Exception:
    """The error that `awaitable` ends with, without the frames that hold payloads."""
    caught: Exception | None = None
    try:
        await awaitable
    except (RefusedError, RejectedError) as error:
        caught = error.with_traceback(None)
    assert caught is not None, "it did not fail"
    await asyncio.sleep(0)  # the loop holds the task that woke us until its next turn
    return caught


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel `task` and wait for its end, which must be that it was cancelled."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)  # the loop holds the task that woke us until its next turn


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Let the loop run until `condition` is true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- nobody sets an event for it
            await asyncio.sleep(0)


__all__ = [
    "Drive",
    "MIB",
    "Sink",
    "assert_at_rest",
    "both_drivers",
    "cancel",
    "configured",
    "context",
    "edge_to",
    "failure",
    "in_a_task",
    "payload",
    "told",
    "until",
    "without_a_task",
]
