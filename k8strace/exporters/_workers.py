"""Workers: tasks that deliver what a queue has ready, as long as it has something."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from k8strace.errors import RefusedError, RejectedError, is_passing
from k8strace.exporters._delivery import Delivery, Work
from k8strace.exporters._queue import Queue

TOO_LATE = "not sent before the end"


class Workers:
    """At most `most` tasks, which exist while there is something for them to do."""

    def __init__(
        self,
        queue: Queue,
        delivery: Delivery,
        most: int,
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._queue = queue
        self._delivery = delivery
        self._most = most
        self._log = log
        self._tasks: dict[asyncio.Task[None], Work] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._is_open = False

    def open(self) -> None:
        """Begin to take from the queue."""
        self._is_open = True
        self.pump()

    def pump(self) -> None:
        """Have tasks for what is ready and a timer for what will be."""
        if not self._is_open:
            return
        loop = asyncio.get_running_loop()
        while len(self._tasks) < self._most:
            parcel = self._queue.take()
            if parcel is None:
                self._set_timer(loop)
                return
            work: Work = [parcel]
            task = loop.create_task(self._work(work))
            self._tasks[task] = work
            task.add_done_callback(self._on_end)

    async def drain(self) -> None:
        """Wait until all is delivered; a batch that isn't full waits no more."""
        self._queue.drain()
        self.pump()
        while self._tasks:
            self._ended.clear()
            await self._ended.wait()

    async def end(self) -> None:
        """Cancel what goes on and give up what is left."""
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            self._ended.clear()
            await self._ended.wait()
        self._queue.drain()
        while (parcel := self._queue.take()) is not None:
            self._delivery.give_up([parcel], RefusedError(TOO_LATE))
            await asyncio.sleep(0)  # there may be very many

    def oldest_age(self) -> float:
        """Seconds since the oldest payload came that isn't settled."""
        times = [work[0].tickets[0].since for work in self._tasks.values() if work]
        if self._queue.oldest is not None:
            times.append(self._queue.oldest)
        return monotonic() - min(times) if times else 0.0

    async def _work(self, work: Work) -> None:
        while work:
            await self._delivery.deliver(work)
            if (parcel := self._queue.take()) is not None:
                work.append(parcel)
            del parcel

    def _on_end(self, task: asyncio.Task[None]) -> None:
        # Here, not in the task: one that is cancelled before its first step runs nothing.
        left = self._tasks.pop(task)
        if task.cancelled() or (error := task.exception()) is None:
            self._delivery.give_up(left, RefusedError(TOO_LATE))
        else:
            self._log.error("a worker failed", exc_info=error)
            failure: RefusedError | RejectedError = RejectedError(
                repr(error), "internal_error"
            )
            if is_passing(error):
                failure = RefusedError(repr(error))
            self._delivery.give_up(left, failure)
        self.pump()
        self._ended.set()

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        due = self._queue.due()
        if due is not None and self._timer is None:
            self._timer = loop.call_later(max(due - monotonic(), 0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.pump()
