"""An exporter whose destination does what a test tells it, and the sums around it."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

from msgspec import structs

from k8strace.auth import Authenticator
from k8strace.budget import Budget
from k8strace.component import ComponentID, Context
from k8strace.exporters._sending import SendingConfig, SendingExporter, Sent
from k8strace.metrics import Ledger, Metrics
from k8strace.payload import Payload
from tests.support.auth import named_by
from tests.support.pipeline import (
    MIB,
    assert_at_rest,
    configured,
    context,
    edge_to,
    payload,
    until,
)
from tests.support.requests import parse, span_ids

FAST_RETRY = {"initial_interval": "1ms", "max_interval": "1ms", "max_elapsed_time": "20s"}
BRIEF_RETRY = {**FAST_RETRY, "max_elapsed_time": "100ms"}

Answer = Callable[[Payload], Awaitable[Sent | None]]


class Scripted(SendingExporter[SendingConfig]):
    """Takes everything, unless `answer` raises or `failures` has an error left to raise.

    While `gate` is closed, `send` waits for it. `attempts` has the span ids of each
    request that it was given, `taken` those of the requests that it took.
    """

    type_name = "scripted"
    config_type = SendingConfig
    request_limit = 0

    def __init__(self, config: SendingConfig, ctx: Context) -> None:
        super().__init__(config, ctx)
        self.attempts: list[list[bytes]] = []
        self.taken: Counter[bytes] = Counter()
        self.failures: list[Exception] = []
        self.answer: Answer | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0
        self.opened = 0
        self.closed = 0

    @property
    def destination(self) -> str:
        return "backend:4317"

    @property
    def max_request_bytes(self) -> int:
        return self.request_limit

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    async def attempted(self, count: int) -> None:
        """Until it was given `count` requests to send."""
        await until(lambda: len(self.attempts) >= count)

    async def send(self, payload: Payload) -> Sent:
        ids = span_ids(parse(payload.chunks))
        assert len(ids) == payload.spans
        assert sum(map(len, payload.chunks)) == payload.size
        self.attempts.append(ids)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
            sent = await self.answer(payload) if self.answer is not None else None
        finally:
            self.at_once -= 1
        self.taken.update(ids)
        return sent or Sent()


class Small(Scripted):
    """An exporter that wants no large requests."""

    request_limit = 2000


E = TypeVar("E", bound=SendingExporter[Any])


class Rig(Generic[E]):
    """An exporter, the way into it, and what surrounds it."""

    def __init__(
        self,
        exporter: type[E],
        values: dict[str, Any],
        authenticator: Authenticator[Any] | None = None,
        extensions: Mapping[ComponentID, Any] | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.budget = Budget(64 * MIB)
        self.context = context(
            "exporters", exporter.type_name, metrics=self.metrics, budget=self.budget
        )
        if authenticator is not None:
            self.context = named_by(authenticator, self.context)
        if extensions:
            self.context = structs.replace(self.context, extensions=extensions)
        self.exporter = exporter(configured(exporter, values), self.context)
        self.edge, self.source = edge_to(self.exporter)
        self.ledger: Ledger = self.exporter.ledger
        self._peers = 0

    def payload(self, spans: int = 1, **options: Any) -> Payload:
        self._peers += 1
        peer = f"10.0.0.{self._peers}:1"
        return payload(spans, peer=peer, budget=self.budget, **options)

    async def send(self, spans: int = 1, **options: Any) -> None:
        await self.edge(self.payload(spans, **options))

    def sender(self, spans: int = 1, **options: Any) -> asyncio.Task[None]:
        """`send` in a task of its own."""
        return asyncio.create_task(self.send(spans, **options))

    async def settled(self) -> None:
        """Until nothing waits or is under way any more."""
        await until(lambda: self.ledger.parked == 0 and self.ledger.in_flight == 0)

    async def stop(self, seconds: float = 10.0) -> None:
        await self.exporter.stop(asyncio.get_running_loop().time() + seconds)

    def value(self, name: str, **labels: str) -> float:
        """The sample of the series `name` whose labels include `labels`."""
        values = [
            sample.value
            for metric in self.metrics.collect()
            for sample in metric.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(values) == 1, (name, labels, values)
        return values[0]


@asynccontextmanager
async def running_as(
    exporter: type[E], authenticator: Authenticator[Any] | None = None, /, **values: Any
) -> AsyncIterator[Rig[E]]:
    """A started rig; at its end all is settled and every byte was given back.

    Without the garbage collector: bytes must go back when the last payload goes.
    """
    values.setdefault("retry_on_failure", FAST_RETRY)
    rig = Rig(exporter, values, authenticator)
    gc.collect()
    gc.disable()
    try:
        await rig.exporter.start()
        try:
            yield rig
        finally:
            await rig.stop()
        assert_at_rest(rig.ledger)
        await asyncio.sleep(0)  # the loop still holds the task that it woke this one for
        assert rig.budget.used == 0
        assert rig.budget.held("10.0.0.1:1") == 0
    finally:
        gc.enable()


def running(**values: Any) -> AbstractAsyncContextManager[Rig[Scripted]]:
    """`running_as` of a scripted exporter."""
    return running_as(Scripted, **values)


def scripted(values: dict[str, Any]) -> Rig[Scripted]:
    """A rig that isn't started."""
    return Rig(Scripted, values)


FULL = {"num_consumers": 1, "queue_size": 2}


async def fill(rig: Rig[Scripted]) -> None:
    """Two requests of three spans, which the destination holds: with FULL no more fits."""
    rig.exporter.gate.clear()
    for _ in range(2):
        await rig.send(3)
    await rig.exporter.attempted(1)


def direct(**values: Any) -> dict[str, Any]:
    """Options without a queue."""
    return {"sending_queue": {"enabled": False}, **values}


__all__ = [
    "BRIEF_RETRY",
    "FAST_RETRY",
    "FULL",
    "Rig",
    "Scripted",
    "Small",
    "direct",
    "fill",
    "running",
    "running_as",
    "scripted",
]
