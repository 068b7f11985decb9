"""What all exporters share: queue ▸ batch ▸ retry ▸ timeout ▸ send.

An exporter is a subclass of `SendingExporter` with a `send`. With a `sending_queue`,
`consume` parks the payload and returns; workers, as many as `num_consumers`, run while
something is ready and deliver it. Without one, or with `wait_for_result`, `consume`
returns when the outcome is known, and tells it: then nothing is dropped here that the
sender can try again.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, TypeVar

from k8strace.component import Blocked, Config, Context, Exporter, Promise
from k8strace.errors import RefusedError, RejectedError
from k8strace.exporters._delivery import Delivery, Limits, TooLargeError, Work
from k8strace.exporters._outcome import Outcomes, Sent
from k8strace.exporters._parcel import Parcel, Ticket
from k8strace.exporters._queue import BatchConfig, Queue, QueueConfig
from k8strace.exporters._retry import RetryConfig
from k8strace.exporters._stored_queue import StoredQueue
from k8strace.exporters._workers import Workers
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
        self._direct = 0
        self._direct_ended = asyncio.Event()
        self._is_open = False
        self._is_stopping = False
        self._enqueue_failed = context.metrics.counter(
            EXPORTER_ENQUEUE_FAILED_SPANS, context.label
        )
        self._resent = context.metrics.counter(SPANS_RESENT, context.kind, context.label)
        self._queue: Queue | None = None
        self._stored: StoredQueue | None = None
        self._workers: Workers | None = None
        self.ledger.parks_on_disk = bool(
            config.sending_queue.enabled and config.sending_queue.storage
        )
        self._delivery = Delivery(
            context,
            Outcomes(context, self.destination, self._on_settled),
            self.send,
            done_with=self.done_with,
            timeout=config.timeout,
            retry=config.retry_on_failure,
            limits=self._limits(),
        )
        options = config.sending_queue
        if options.enabled:
            if options.storage is None:
                self._queue = Queue(options, context.budget)
            else:
                store = StoredQueue.store_of(options, context)
                self._queue = self._stored = StoredQueue(
                    options, context, store, self._pump
                )
            self._workers = Workers(
                self._queue, self._delivery, options.num_consumers, self.log
            )

    async def open(self) -> None:
        """Acquire what `send` needs. Raises OSError or ConfigError."""

    async def send(self, payload: Payload) -> Sent:
        """One attempt; raises RefusedError (with `retry_after`) or RejectedError.

        May be cancelled, when `timeout` is over.
        """
        raise NotImplementedError

    def done_with(self, payload: Payload) -> None:
        """Let go of what `send` keeps for another attempt at `payload`: there is none."""

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
    def max_request_spans(self) -> int:
        """The number of spans above which a request is split; 0 is no limit."""
        return 0

    @property
    def promise(self) -> Promise:
        if self._queue is None or self.config.sending_queue.wait_for_result:
            return self.keeps
        return Promise.MEMORY if self._stored is None else min(self.keeps, Promise.STORED)

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
        if self._stored is not None:
            await self._stored.open()
        metrics, labels = self.context.metrics, (self.context.label, "traces")
        delivery, queue, workers = self._delivery, self._queue, self._workers
        metrics.gauge(EXPORTER_IN_FLIGHT_REQUESTS, lambda: delivery.in_flight, *labels)
        if queue is not None and workers is not None:
            metrics.gauge(EXPORTER_QUEUE_SIZE, lambda: queue.room.used, *labels)
            metrics.gauge(EXPORTER_QUEUE_CAPACITY, lambda: queue.room.limit, *labels)
            metrics.gauge(QUEUE_BYTES, lambda: queue.bytes, self.context.label)
            metrics.gauge(QUEUE_OLDEST, workers.oldest_age, self.context.label)
            workers.open()

    async def stop(self, deadline: float) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        # What is stored needs no second attempt now: it is sent after the next start.
        self._delivery.hurry(retries=self._stored is None)
        try:
            if self._is_open:
                await self._drain(deadline)
        finally:
            if self._workers is not None:
                await self._workers.end()
            if self._stored is not None:
                await self._stored.close()
            await self.close()

    async def consume(self, payload: Payload) -> None:
        if self._is_stopping:
            raise RefusedError(f"{self.context.label} is shutting down")
        queue, workers = self._queue, self._workers
        if queue is None or workers is None:
            await self._send_directly(payload)
            return
        amount = queue.amount(payload)
        await self._make_room(queue, payload, amount)
        if self._stored is not None:
            await self._stored.commit(payload, amount)
            return
        if self.config.sending_queue.wait_for_result:
            await self._send_and_wait(queue, workers, Ticket(payload, amount))
            return
        self.ledger.park(payload.spans)
        queue.put(Ticket(payload, amount, is_answered=True))
        workers.pump()

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
        work: Work = [Parcel.of([ticket])]
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
            self._direct_ended.set()
        ticket.raise_error()

    async def _send_and_wait(self, queue: Queue, workers: Workers, ticket: Ticket) -> None:
        ticket.waiter = asyncio.get_running_loop().create_future()
        queue.put(ticket)
        workers.pump()
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
        spans, size = self.max_request_spans, self.max_request_bytes
        if self.config.sending_queue.enabled and batching is not None and batching.max_size:
            if batching.sizer == "items":
                spans = min(spans or batching.max_size, batching.max_size)
            else:
                size = min(size or batching.max_size, batching.max_size)
        return Limits(spans, size)

    def _pump(self) -> None:
        if self._workers is not None:
            self._workers.pump()

    def _press(self) -> None:
        """Send what the batch stage has: its room is needed."""
        if self._queue is not None and self._workers is not None:
            self._queue.press()
            self._workers.pump()

    def _on_settled(self, ticket: Ticket) -> None:
        if self._queue is not None:
            self._queue.settle(ticket)

    async def _drain(self, deadline: float) -> None:
        """Send all there is, at most until the loop's time `deadline`."""
        try:
            async with asyncio.timeout_at(deadline):
                if self._stored is not None:
                    await self._stored.flush()
                    await self._stored.stop_reading()
                if self._workers is not None:
                    await self._workers.drain()
                while self._direct:
                    self._direct_ended.clear()
                    await self._direct_ended.wait()
        except TimeoutError:
            return


__all__ = [
    "BatchConfig",
    "QueueConfig",
    "RetryConfig",
    "SendingConfig",
    "SendingExporter",
    "Sent",
    "TooLargeError",
]
