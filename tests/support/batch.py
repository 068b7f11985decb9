"""A batch processor between two edges, with a sink behind it."""

from __future__ import annotations

import asyncio
from typing import Any

from k8strace.budget import Budget
from k8strace.component import Context, Promise
from k8strace.edges import Edge
from k8strace.errors import PartlyRejectedError, RefusedError, RejectedError
from k8strace.metrics import Metrics
from k8strace.payload import Payload
from k8strace.processors.batch import Batch, Config
from k8strace.units import Duration
from tests.support.pipeline import MIB, Sink, assert_at_rest, context, edge_to, payload

NEVER = Duration(3600)  # a timeout that no test waits for


class ScriptedSink(Sink):
    """Does with payloads what `verdicts` say in turn, and takes them when none is left.

    "take", "wait" (suspend, then take), "refuse", "reject", "partly" (of several requests
    the first, with the payload's own sources, is rejected and the others are taken).
    """

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.verdicts: list[str] = []

    async def consume(self, payload: Payload) -> None:
        verdict = self.verdicts.pop(0) if self.verdicts else "take"
        if verdict == "wait":
            await asyncio.sleep(0)
        elif verdict == "refuse":
            self.failures.append(RefusedError("not now", 0.001))
        elif verdict == "reject":
            self.failures.append(RejectedError("never"))
        elif verdict == "partly" and payload.sources:
            bad, *good = payload.requests()
            self.payloads += good
            taken = sum(one.spans for one in good)
            self.ledger.sent += taken
            self.ledger.received += taken
            raise PartlyRejectedError("bad", "decode_error", bad.sources)
        await super().consume(payload)


class Rig:
    """`into` is the way in; `sink` is what stands behind the batch.

    Without a `timeout` batches go on when they are full, or at `stop`.
    """

    def __init__(
        self,
        promise: Promise = Promise.MEMORY,
        *,
        budget: int = 64 * MIB,
        timeout: float = NEVER,
        **config: Any,
    ) -> None:
        self.metrics = Metrics()
        self.budget = Budget(budget)
        self.sink = ScriptedSink(context("exporters", "sink", metrics=self.metrics))
        self.sink.promised = promise
        ctx = context("processors", "batch", metrics=self.metrics, budget=self.budget)
        settings = Config(timeout=Duration(timeout), **config)
        self.batch = Batch(settings, ctx, Edge(ctx.ledger, self.sink))
        self.ledger = self.batch.ledger
        self.into, self.source = edge_to(self.batch)

    def payload(self, spans: int = 1, **options: Any) -> Payload:
        return payload(spans, budget=self.budget, **options)

    async def stop(self, seconds: float = 10.0) -> None:
        await self.batch.stop(asyncio.get_running_loop().time() + seconds)

    @property
    def sizes(self) -> list[int]:
        """Spans of each payload that the sink has taken."""
        return [one.spans for one in self.sink.payloads]

    def metric(self, name: str) -> float:
        """The value of a counter or gauge of the batch."""
        for family in self.metrics.collect():
            for sample in family.samples:
                if sample.name == f"otelcol_processor_batch_{name}":
                    return float(sample.value)
        raise AssertionError(f"no series {name}")

    def assert_at_rest(self) -> None:
        """The sums hold, and nothing is held any more once the sink forgets what it has."""
        assert_at_rest(self.ledger)
        assert_at_rest(self.sink.ledger)
        assert self.batch._room.used == 0
        self.sink.payloads.clear()
        assert self.budget.used == 0
