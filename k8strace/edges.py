"""The ways between components, where what comes in and what is sent back is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from k8strace.background import ended
from k8strace.component import Blocked, Config, Consumer, Promise
from k8strace.driver import Rest, begin
from k8strace.errors import (
    MalformedPayloadError,
    PartlyRejectedError,
    RefusedError,
    RejectedError,
    is_passing,
    passing_refusal,
)
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
        ledger.receive(spans)
        try:
            await self._consume(payload)
        except RejectedError:
            ledger.rejected += spans
            raise
        except RefusedError:
            ledger.refused += spans
            raise
        except MalformedPayloadError as error:
            # Found by who read deeper than the receiver was told to.
            ledger.rejected += spans
            raise RejectedError(str(error), "decode_error") from error
        except Exception as error:
            lines = self.target.drops.lines
            if is_passing(error):
                ledger.refused += spans
                lines.fault("cannot take a payload of %d spans now", spans, error=error)
                raise passing_refusal(self.target.context.label, error) from None
            ledger.rejected += spans
            lines.defect("failed on a payload of %d spans", spans, error=error)
            raise RejectedError(
                f"internal error in {self.target.context.label}", "internal_error"
            ) from error
        except BaseException:
            ledger.refused += spans
            raise
        self._source.send(spans)

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
        while (found := self._first_blocked(payload)) is not None:
            edge, (room, amount) = found
            if not await room.wait(amount, payload.wait_until):
                raise RefusedError(
                    f"{edge.target.context.label} has no room", room.retry_after(amount)
                )
        taken = 0
        errors: list[Exception] = []
        late: list[asyncio.Task[None]] = []
        try:
            for edge in self.edges:
                try:
                    step = begin(edge(payload))
                except (RefusedError, RejectedError) as error:
                    errors.append(error)
                else:
                    if isinstance(step, Rest):
                        late.append(asyncio.get_running_loop().create_task(step.run()))
                    else:
                        taken += 1
            try:
                if late:
                    await _ended(late)
            finally:
                for task in late:
                    if (failure := _failure(task)) is None:
                        taken += 1
                    else:
                        errors.append(failure)
                    del failure, task
                if any(isinstance(error, RefusedError) for error in errors):
                    self._resent.add(payload.spans * taken)
            if errors:
                raise _first_refusal(errors)
        finally:
            # What was raised refers to this frame: it must not refer back.
            errors.clear()
            late.clear()
        self._source.send(payload.spans)

    def blocked_by(self, payload: Payload) -> Blocked | None:
        found = self._first_blocked(payload)
        return None if found is None else found[1]

    def _first_blocked(self, payload: Payload) -> tuple[Edge, Blocked] | None:
        for edge in self.edges:
            blocked = edge.blocked_by(payload)
            if blocked is not None:
                return edge, blocked
        return None


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all tasks; they are cancelled with whoever waits."""
    try:
        for task in tasks:
            await ended(task)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        for task in tasks:
            await ended(task)
        raise


def _failure(task: asyncio.Task[None]) -> Exception | None:
    """What a task raised, cancellation as a refusal; None: nothing."""
    if task.cancelled() or not task.done():
        return RefusedError("cancelled")
    error = task.exception()
    assert error is None or isinstance(error, Exception)
    return error


def _first_refusal(errors: Sequence[Exception]) -> Exception:
    """The error that the sender is told: to retry, where that can help any branch."""
    refusal = next((e for e in errors if isinstance(e, RefusedError)), None)
    if refusal is not None:
        return refusal
    partly = [e for e in errors if isinstance(e, PartlyRejectedError)]
    if len(partly) < len(errors):
        return next(e for e in errors if not isinstance(e, PartlyRejectedError))
    culprits = tuple(one for error in partly for one in error.culprits)
    return PartlyRejectedError(str(partly[0]), partly[0].reason, culprits)
