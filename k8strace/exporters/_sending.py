"""What all exporters share: queue ▸ batch ▸ retry ▸ timeout ▸ send.

An exporter is a subclass of `SendingExporter` with a `send`. With a `sending_queue`,
`consume` parks the payload and returns; workers, as many as `num_consumers`, run while
something is ready and deliver it. Without one, or with `wait_for_result`, `consume`
returns when the outcome is known, and tells it: then nothing is dropped here that the
sender can try again.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import ClassVar, TypeVar

from k8strace.component import Blocked, Config, Context, Exporter, Promise
from k8strace.errors import RefusedError, RejectedError
from k8strace.exporters._delivery import Delivery, Limits, Sent, TooLargeError
from k8strace.exporters._parcel import Parcel, Ticket
from k8strace.exporters._queue import BatchConfig, Queue, QueueConfig
from k8strace.exporters._retry import RetryConfig
from k8strace.metrics import (
    EXPORTER_ENQUEUE_FAILED_SPANS,
    EXPORTER_IN_FLIGHT_REQUESTS,
    EXPORTER_QUEUE_CAPACITY,
    EXPORTER_QUEUE_SIZE,
    QUEUE_BYTES,
    QUEUE_OLDEST,
    SPANS_RESENT,
)
from k8strace.payload import Payload
from k8strace.units import Duration

FOREVER = float("inf")
TOO_LATE = "not sent before the end"


class SendingConfig(Config, frozen=True, kw_only=True):
    """The options that every exporter has. `timeout` is for one attempt; 0 is none."""

    timeout: Duration = Duration(5.0)
    sending_queue: QueueConfig = QueueConfig()
    retry_on_failure: RetryConfig = RetryConfig()

    def __post_init__(self) -> None:
        if self.timeout < 0:
            raise ValueError(f"`timeout` must be non-negative, found {self.timeout}")


C_co = TypeVar("C_co", bound=SendingConfig, covariant=True)


class SendingExporter(Exporter[C_co]):
    """Base of exporters: a subclass opens, sends and closes; the rest is here.

    `keeps` is what a destination that took a payload does with it: one that keeps nothing
    promises nothing, and is not worth holding a sender's answer for.
    """

    keeps: ClassVar[Promise] = Promise.DELIVERED

    def __init__(self, config: C_co, context: Context) -> None:
        super().__init__(config, context)
        options = config.sending_queue
        self._queue = Queue(options) if options.enabled else None
        self._most_workers = options.num_consumers
        self._workers: dict[asyncio.Task[None], list[Parcel]] = {}
        self._direct = 0
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._is_open = False
        self._is_stopping = False
        self._enqueue_failed = context.metrics.counter(
            EXPORTER_ENQUEUE_FAILED_SPANS, context.label
        )
        self._resent = context.metrics.counter(SPANS_RESENT, context.label)
        self._delivery = Delivery(
            context,
            self.destination,
            self.send,
            self._on_settled,
            timeout=config.timeout,
            retry=config.retry_on_failure,
            limits=self._limits(),
        )

    async def open(self) -> None:
        """Acquire what `send` needs. Raises OSError or ConfigError."""

    async def send(self, payload: Payload) -> Sent:
        """One attempt; raises RefusedError (with `retry_after`) or RejectedError.

        May be cancelled, when `timeout` is over.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Give back what `open` acquired; after the last `send`, also without `open`."""

    @property
    def destination(self) -> str:
        """Where spans go, for log lines."""
        return self.context.label

    @property
    def max_request_bytes(self) -> int:
        """The size above which a request is split; 0 is no limit."""
        return 0

    @property
    def promise(self) -> Promise:
        if self._queue is None or self.config.sending_queue.wait_for_result:
            return self.keeps
        return Promise.MEMORY

    def blocked_by(self, payload: Payload) -> Blocked | None:
        queue = self._queue
        # With block_on_overflow `consume` waits itself, for as long as it takes.
        if queue is None or self.config.sending_queue.block_on_overflow:
            return None
        amount = queue.amount(payload)
        if queue.room.fits(amount) or amount > queue.room.limit:
            return None
        self._press()
        return Blocked(queue.room, amount)

    async def start(self) -> None:
        await self.open()
        self._is_open = True
        metrics, labels = self.context.metrics, (self.context.label, "traces")
        delivery, queue = self._delivery, self._queue
        metrics.gauge(EXPORTER_IN_FLIGHT_REQUESTS, lambda: delivery.in_flight, *labels)
        if queue is not None:
            metrics.gauge(EXPORTER_QUEUE_SIZE, lambda: queue.room.used, *labels)
            metrics.gauge(EXPORTER_QUEUE_CAPACITY, lambda: queue.room.limit, *labels)
            metrics.gauge(QUEUE_BYTES, lambda: queue.bytes, self.context.label)
            metrics.gauge(QUEUE_OLDEST, self._oldest_age, self.context.label)

    async def stop(self, deadline: float) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        lost_before = self.ledger.dropped.get("shutdown", 0)
        self._delivery.hurry()
        try:
            if self._is_open:
                await self._drain(deadline)
        finally:
            self._is_open = False
            self._cancel_timer()
            await self._end_workers()
            if self._queue is not None:
                self._queue.drain()
                while (parcel := self._queue.take()) is not None:
                    self._delivery.give_up([parcel], RefusedError(TOO_LATE))
            lost = self.ledger.dropped.get("shutdown", 0) - lost_before
            if lost:
                self.log.error(
                    "%d spans were not delivered to %s before the end",
                    *(lost, self.destination),
                )
            await self.close()

    async def consume(self, payload: Payload) -> None:
        if self._is_stopping:
            raise RefusedError(f"{self.context.label} is shutting down")
        queue = self._queue
        if queue is None:
            await self._send_directly(payload)
            return
        amount = queue.amount(payload)
        await self._make_room(queue, payload, amount)
        if self.config.sending_queue.wait_for_result:
            await self._send_and_wait(queue, Ticket(payload, amount))
            return
        self.ledger.parked += payload.spans
        queue.put(Ticket(payload, amount, is_answered=True))
        self._pump()

    async def _make_room(self, queue: Queue, payload: Payload, amount: int) -> None:
        """Take room for `payload`, waiting for it as long as its sender can wait."""
        room = queue.room
        if amount > room.limit:
            self._enqueue_failed.add(payload.spans)
            raise RejectedError(
                f"a request of {amount} {self.config.sending_queue.sizer} can never fit "
                f"into the sending queue of {self.context.label} ({room.limit})",
                "queue_full",
            )
        blocks = self.config.sending_queue.block_on_overflow
        while not room.take(amount):
            self._press()
            if not await room.wait(amount, FOREVER if blocks else payload.wait_until):
                self._enqueue_failed.add(payload.spans)
                raise RefusedError(
                    f"the sending queue of {self.context.label} is full",
                    room.retry_after(amount),
                )
            if self._is_stopping:
                raise RefusedError(f"{self.context.label} is shutting down")

    async def _send_directly(self, payload: Payload) -> None:
        ticket = Ticket(payload)
        work = [ticket.parcel()]
        self._direct += 1
        try:
            await self._delivery.deliver(work)
        except BaseException:
            # Refused, as the edge counts it, and yet some of it went out.
            self.ledger.received += ticket.done
            self._resent.add(ticket.done)
            raise
        finally:
            self._direct -= 1
            self._changed.set()
        ticket.raise_error()

    async def _send_and_wait(self, queue: Queue, ticket: Ticket) -> None:
        ticket.waiter = asyncio.get_running_loop().create_future()
        queue.put(ticket)
        self._pump()
        try:
            await ticket.waiter
        except BaseException:
            if not queue.withdraw(ticket) and ticket.error is None:
                # Refused, as the edge counts it, and yet it is on its way or there.
                ticket.answered = True
                self.ledger.received += ticket.spans
            raise
        ticket.raise_error()

    def _limits(self) -> Limits:
        batching = self.config.sending_queue.batch
        spans, size = 0, self.max_request_bytes
        if self._queue is not None and batching is not None and batching.max_size:
            if batching.sizer == "items":
                spans = batching.max_size
            else:
                size = min(size or batching.max_size, batching.max_size)
        return Limits(spans, size)

    def _press(self) -> None:
        """Send what the batch stage has: its room is needed."""
        if self._queue is not None:
            self._queue.press()
            self._pump()

    def _pump(self) -> None:
        """Have workers for what is ready, and a timer for what will be."""
        queue = self._queue
        if queue is None or not self._is_open:
            return
        loop = asyncio.get_running_loop()
        while len(self._workers) < self._most_workers:
            parcel = queue.take()
            if parcel is None:
                self._set_timer(queue)
                return
            work = [parcel]
            task = loop.create_task(self._work(queue, work))
            self._workers[task] = work
            task.add_done_callback(self._on_worker_end)

    def _set_timer(self, queue: Queue) -> None:
        due = queue.due()
        if due is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(due - monotonic(), 0), self._on_timer)

    async def _work(self, queue: Queue, work: list[Parcel]) -> None:
        while work:
            await self._delivery.deliver(work)
            if (parcel := queue.take()) is not None:
                work.append(parcel)
            del parcel

    def _on_worker_end(self, task: asyncio.Task[None]) -> None:
        # Here, not in the worker: one that is cancelled before its first step runs nothing.
        left = self._workers.pop(task)
        if task.cancelled() or (error := task.exception()) is None:
            self._delivery.give_up(left, RefusedError(TOO_LATE))
        else:
            self.log.error("a worker failed", exc_info=error)
            self._delivery.give_up(left, RejectedError(repr(error), "internal_error"))
        self._pump()
        self._changed.set()

    async def _end_workers(self) -> None:
        for task in self._workers:
            task.cancel()
        while self._workers:
            self._changed.clear()
            await self._changed.wait()

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_settled(self, ticket: Ticket) -> None:
        if self._queue is not None:
            self._queue.settle(ticket)

    async def _drain(self, deadline: float) -> None:
        """Send all there is, at most until the loop's time `deadline`."""
        queue = self._queue
        if queue is not None:
            queue.drain()
            self._pump()
        try:
            async with asyncio.timeout_at(deadline):
                while (
                    self._workers or self._direct or not (queue is None or queue.is_empty)
                ):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def _oldest_age(self) -> float:
        """Seconds since the oldest payload came that isn't settled."""
        times = [work[0].tickets[0].since for work in self._workers.values() if work]
        if self._queue is not None and self._queue.oldest is not None:
            times.append(self._queue.oldest)
        return monotonic() - min(times) if times else 0.0


__all__ = [
    "BatchConfig",
    "QueueConfig",
    "RetryConfig",
    "SendingConfig",
    "SendingExporter",
    "Sent",
    "TooLargeError",
]
