"""Delivering a parcel: attempts and the time between them, and who it was that failed.

Nothing that was refused for good is sent again as it is: a parcel of several requests goes
out once more in groups of whole requests, and a group that is refused again in smaller
ones, down to the culprit. One that is too large is halved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, NamedTuple

from k8strace.background import ended
from k8strace.component import Context
from k8strace.driver import Done, Rest, begin
from k8strace.errors import (
    MalformedPayloadError,
    RefusedError,
    RejectedError,
    is_passing,
    passing_refusal,
)
from k8strace.exporters._outcome import Outcomes, Sent
from k8strace.exporters._parcel import CutParcel, Parcel
from k8strace.exporters._retry import Backoff, RetryConfig
from k8strace.metrics import EXPORTER_BATCH_SEND_SIZE, RETRIES
from k8strace.passes import Spare
from k8strace.payload import Payload
from k8strace.units import Duration

MAX_GROUPS = 64
"""A refused parcel is sent again in at most this many groups: three rounds find a culprit
among a quarter of a million requests, and no round is a flood of small requests."""

HURRIED_PAUSE = 0.5  # seconds between attempts at a stop, whatever the destination asks for


Work = list[Parcel | CutParcel]
"""What is left of a delivery; the last is what goes on."""


class TooLargeError(RejectedError):
    """The request is over the destination's limit; smaller ones may be taken."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "msg_too_large")


class Limits(NamedTuple):
    """What one request may have; 0 is no limit."""

    spans: int = 0
    bytes: int = 0


class Delivery:
    """Sends parcels for one exporter; what becomes of them it tells `outcomes`.

    `done_with` is told of each payload that was given to `send` and is not again.
    """

    def __init__(
        self,
        context: Context,
        outcomes: Outcomes,
        send: Callable[[Payload], Coroutine[Any, Any, Sent]],
        *,
        done_with: Callable[[Payload], None],
        timeout: Duration,
        retry: RetryConfig,
        limits: Limits,
    ) -> None:
        self.in_flight = 0
        self._outcomes = outcomes
        self._destination = outcomes.destination
        self._lines = outcomes.lines
        self._send = send
        self._done_with = done_with
        self._timeout = timeout
        self._retry = retry
        self._limits = limits
        self._spare = Spare(context.budget)
        self._hurried = False
        self._retries_at_the_end = True
        self._pauses: set[asyncio.Future[None]] = set()
        metrics, label = context.metrics, context.label
        self._retries = metrics.counter(RETRIES, label)
        self._sizes = metrics.histogram(EXPORTER_BATCH_SEND_SIZE, label)

    def hurry(self, *, retries: bool = True) -> None:
        """From now on nobody waits long: who ends this soon has only so much time.

        Without `retries` what is refused is given up at once.
        """
        self._hurried = True
        self._retries_at_the_end = retries
        self._outcomes.hurried = True
        for pause in self._pauses:
            _wake(pause)

    async def deliver(self, work: Work) -> None:
        """Send all of `work`, from the last to the first; it is empty when all is settled.

        Only cancellation comes out, and leaves in `work` what isn't settled.
        """
        course = _Course(asyncio.get_running_loop().time())
        while work:
            if isinstance(work[-1], CutParcel):
                await self._go_on_cutting(work[-1], work, course)
                continue
            smaller = await self._step(work[-1], course)
            del work[-1]
            if smaller is not None:
                work.append(smaller)

    def give_up(self, work: Work, error: RefusedError | RejectedError) -> None:
        """Settle what a `deliver` that was cancelled left, as failed with `error`."""
        while work:
            last = work.pop()
            for parcel in last.rest() if isinstance(last, CutParcel) else [last]:
                self._outcomes.fail(parcel, error)

    async def _go_on_cutting(self, cut: CutParcel, work: Work, course: _Course) -> None:
        """Put the next piece of `cut`, which is the last of `work`, behind it."""
        try:
            piece = await cut.next()
        except MalformedPayloadError as error:
            text = f"it has to be cut, and cannot be read: {error}"
            failure = RejectedError(text, "decode_error")
            self._outcomes.fail(cut.unreadable(), failure, was_offered=False)
            await asyncio.sleep(0)  # there may be many
        except MemoryError as error:
            refusal = passing_refusal(self._destination, error)
            delay = self._delay(cut.spans, refusal, course)
            if delay is None:
                work.pop()
                self.give_up([cut], refusal)
            else:
                await self._pause(delay)
        else:
            if piece is None:
                work.pop()
            else:
                work.append(piece)
                await asyncio.sleep(0)  # sending many may be Python's work, and no waiting

    async def _step(self, parcel: Parcel, course: _Course) -> CutParcel | None:
        """Send and settle `parcel`, or return what is to go in its place."""
        if not parcel.is_smallest and not parcel.payload.fits(*self._limits):
            return CutParcel(parcel, self._spare, *self._limits)
        payload = parcel.payload
        try:
            sent = await self._persist(payload, course)
        except RejectedError as error:
            smaller = self._smaller(parcel, error)
            if smaller is None:
                self._outcomes.fail(parcel, error)
            return smaller
        except RefusedError as error:
            self._outcomes.fail(parcel, error)
        else:
            self._outcomes.succeed(parcel, sent)
        finally:
            self._done_with(payload)
        return None

    def _smaller(self, parcel: Parcel, error: RejectedError) -> CutParcel | None:
        """What to send in place of a parcel that was refused for good; None: give it up."""
        if isinstance(error, TooLargeError):
            if parcel.is_smallest:
                return None
            half = max(1, parcel.payload.size // 2)
            return CutParcel(parcel, self._spare, max_bytes=half)
        if error.about_data and len(parcel.tickets) > 1:
            each = -(-len(parcel.tickets) // MAX_GROUPS)
            return CutParcel(parcel, self._spare, max_requests=each)
        return None

    async def _persist(self, payload: Payload, course: _Course) -> Sent:
        """Attempt until it is taken or there is no sense in another attempt."""
        self._sizes.observe(payload.spans)
        while True:
            try:
                sent = await self._attempt(payload)
            except RefusedError as error:
                delay = self._delay(payload.spans, error, course)
                if delay is None:
                    raise
            else:
                if course.backoff is not None:
                    course.backoff.reset()
                return sent
            await self._pause(delay)
            self._retries.add(1)

    def _delay(self, spans: int, error: RefusedError, course: _Course) -> float | None:
        """Seconds until the next attempt after `error`; None where there is to be none."""
        now = asyncio.get_running_loop().time()
        if course.backoff is None:
            course.backoff = Backoff(self._retry, course.start)
        longest = HURRIED_PAUSE if self._hurried else inf
        delay = course.backoff.delay(now, error.retry_after, longest)
        if delay is None or (self._hurried and not self._retries_at_the_end):
            return None
        self._lines.write(
            ("retry", error.reason),
            logging.WARNING,
            "%s did not take %d spans, next attempt in %.3g s: %s",
            *(self._destination, spans, delay, str(error)),
        )
        return delay

    async def _attempt(self, payload: Payload) -> Sent:
        self.in_flight += 1
        try:
            if not self._timeout:
                return await self._guarded(payload)
            step = begin(self._guarded(payload))
            return step.value if isinstance(step, Done) else await self._timed(step)
        finally:
            self.in_flight -= 1

    async def _guarded(self, payload: Payload) -> Sent:
        try:
            return await self._send(payload)
        except (RefusedError, RejectedError):
            raise
        except Exception as error:
            if is_passing(error):
                raise passing_refusal(self._destination, error) from None
            self._lines.defect(
                "failed on a request of %d spans", payload.spans, error=error
            )
            raise RejectedError(f"internal error: {error!r}", "internal_error") from error

    async def _timed(self, step: Rest[Sent]) -> Sent:
        """What `step` returns, within the timeout; in a task, so that it can be ended."""
        task = asyncio.get_running_loop().create_task(step.run())
        try:
            await ended(task, self._timeout)
            if not task.done():
                task.cancel()
                await ended(task)
            if task.cancelled():
                raise RefusedError(f"no answer within {self._timeout}")
            return task.result()
        except asyncio.CancelledError:
            task.cancel()
            await ended(task)
            if not task.cancelled():
                task.exception()
            raise
        finally:
            task.cancel()
            # Its exception would otherwise refer to this frame, and so to itself.
            del task

    async def _pause(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        pause = loop.create_future()
        timer = loop.call_later(delay, _wake, pause)
        self._pauses.add(pause)
        try:
            await pause
        finally:
            timer.cancel()
            self._pauses.discard(pause)


class _Course:
    """What one delivery, begun at the loop's time `start`, has learned so far."""

    __slots__ = ("backoff", "start")

    def __init__(self, start: float) -> None:
        self.start = start
        self.backoff: Backoff | None = None  # made by the first failure


def _wake(pause: asyncio.Future[None]) -> None:
    if not pause.done():
        pause.set_result(None)
