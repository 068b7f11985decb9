"""The ways between components, where what comes in and what is sent back is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from k8strace.component import Blocked, Config, Consumer, Promise
from k8strace.driver import Rest, begin
from k8strace.errors import RefusedError, RejectedError
from k8strace.metrics import Ledger, Value
from k8strace.payload import Payload


class Edge:
    """The way from one component to the next; `source` is the sender's ledger."""

    __slots__ = ("_consume", "_ledger", "_source", "promise", "target")

    def __init__(self, source: Ledger, target: Consumer[Config]) -> None:
        self.target = target
        self.promise = target.promise
        self._consume = target.consume
        self._ledger = target.ledger
        self._source = source

    async def __call__(self, payload: Payload) -> None:
        spans = payload.spans
        ledger = self._ledger
        ledger.received += spans
        try:
            await self._consume(payload)
        except RejectedError:
            ledger.rejected += spans
            raise
        except (RefusedError, asyncio.CancelledError):
            ledger.refused += spans
            raise
        except Exception as error:
            ledger.rejected += spans
            self.target.log.exception("failed on a payload of %d spans", spans)
            raise RejectedError(
                f"internal error in {self.target.context.label}", "internal_error"
            ) from error
        self._source.sent += spans

    def blocked_by(self, payload: Payload) -> Blocked | None:
        return self.target.blocked_by(payload)


class FanOut:
    """The way to several components: all have room, or none is asked to take anything.

    Every branch is always tried. Branches are begun one after the other without
    suspending in between, so that the room they were asked for is still there.
    """

    __slots__ = ("_resent", "_source", "edges", "promise")

    def __init__(self, source: Ledger, edges: Sequence[Edge], resent: Value) -> None:
        self.edges = tuple(edges)
        self.promise: Promise = min(edge.promise for edge in edges)
        self._source = source
        self._resent = resent

    async def __call__(self, payload: Payload) -> None:
        while (blocked := self.blocked_by(payload)) is not None:
            room, amount = blocked
            if not await room.wait(amount, payload.wait_until):
                raise RefusedError(
                    "a destination of this pipeline has no room",
                    room.retry_after(amount),
                )
        outcomes: list[Rest[None] | BaseException | None] = []
        for edge in self.edges:
            try:
                step = begin(edge(payload))
            except (RefusedError, RejectedError) as error:
                outcomes.append(error)
            else:
                outcomes.append(step if isinstance(step, Rest) else None)
        waiting = [step.run() for step in outcomes if isinstance(step, Rest)]
        late = await asyncio.gather(*waiting, return_exceptions=True) if waiting else []
        failures = [one for one in outcomes if isinstance(one, BaseException)]
        failures += [one for one in late if isinstance(one, BaseException)]
        if failures:
            refusal = next((e for e in failures if isinstance(e, RefusedError)), None)
            if refusal is not None:
                self._resent.add(payload.spans * (len(self.edges) - len(failures)))
                raise refusal
            raise failures[0]
        self._source.sent += payload.spans

    def blocked_by(self, payload: Payload) -> Blocked | None:
        for edge in self.edges:
            blocked = edge.blocked_by(payload)
            if blocked is not None:
                return blocked
        return None
