"""The options of `sending_queue`, and the queue: bounded, and joined when it is read.

There is one line of payloads. A batch is not kept apart while it grows: payloads stay in
the line until together they are large enough or the first has waited long enough, so that
what waits is counted, bounded and flushed in one place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from time import monotonic
from typing import Annotated, ClassVar, Literal

import msgspec

from k8strace.budget import Budget, Room
from k8strace.component import STORAGE, ComponentID, Config
from k8strace.exporters._parcel import Parcel, Ticket
from k8strace.payload import MOST_JOINED, Payload
from k8strace.units import Duration


class BatchConfig(Config, frozen=True, kw_only=True):
    """`sending_queue.batch`: sizes are in spans or bytes, as `sizer` says.

    `sizer` follows the queue's where it isn't given, and counts items where the queue
    counts requests.
    """

    not_available: ClassVar[Mapping[str, str]] = {
        "partition": "use the processor batch with metadata_keys",
    }

    flush_timeout: Duration = Duration(0.2)
    min_size: int = 8192
    max_size: int = 0
    sizer: Literal["items", "bytes"] | None = None

    def __post_init__(self) -> None:
        if self.flush_timeout <= 0:
            raise ValueError(
                f"`flush_timeout` must be positive, found {self.flush_timeout}"
            )
        for name in ("min_size", "max_size"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"`{name}` must be non-negative, found {getattr(self, name)}"
                )
        if 0 < self.max_size < self.min_size:
            raise ValueError(
                f"`max_size` ({self.max_size}) must be greater than or equal to "
                f"`min_size` ({self.min_size})"
            )


class QueueConfig(Config, frozen=True, kw_only=True):
    """`sending_queue`. `batch` is off unless it is given, be it empty (`batch:`).

    `storage` is the extension that keeps on disk what waits.
    """

    enabled: bool = True
    num_consumers: int = 10
    queue_size: int = 1000
    sizer: Literal["requests", "items", "bytes"] = "requests"
    block_on_overflow: bool = False
    wait_for_result: bool = False
    storage: Annotated[ComponentID, STORAGE] | None = None
    batch: BatchConfig | None = None

    def __post_init__(self) -> None:
        batch = self.batch
        if batch is not None and batch.sizer is None:
            sizer = "items" if self.sizer == "requests" else self.sizer
            batch = msgspec.structs.replace(batch, sizer=sizer)
            msgspec.structs.force_setattr(self, "batch", batch)
        if not self.enabled:
            return
        if self.storage is not None and self.wait_for_result:
            raise ValueError("`wait_for_result` and `storage` cannot be used together")
        for name in ("num_consumers", "queue_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, found {getattr(self, name)}")
        if (
            batch is not None
            and batch.sizer == self.sizer
            and batch.min_size > self.queue_size
        ):
            raise ValueError(
                f"`min_size` ({batch.min_size}) must be less than or equal to "
                f"`queue_size` ({self.queue_size})"
            )


class Queue:
    """Payloads that wait to be sent, in order of arrival.

    Its room is taken by `put`'s caller, counts in the unit of `sizer` and is given back
    when a payload is settled, so that what is being sent is within the bound too.
    """

    def __init__(self, config: QueueConfig, budget: Budget) -> None:
        self.room = Room(config.queue_size)
        self.bytes = 0
        self._budget = budget
        self._sizer = config.sizer
        self._batching = config.batch
        self._line: OrderedDict[Ticket, None] = OrderedDict()
        self._waiting = 0  # what the line holds, in the unit of the batch's sizer
        self._requests = 0  # of the line
        self._pressed = False
        self._draining = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._line

    def amount(self, payload: Payload) -> int:
        """The room that `payload` takes."""
        if self._sizer == "requests":
            return 1
        return payload.spans if self._sizer == "items" else payload.size

    def put(self, ticket: Ticket) -> None:
        """Append a ticket whose room has been taken."""
        self._count(ticket.size)
        self._enter(ticket)

    def withdraw(self, ticket: Ticket) -> bool:
        """Take a ticket out again; False when it isn't waiting any more."""
        if ticket not in self._line:
            return False
        del self._line[ticket]
        self._leave(ticket)
        ticket.payload = None
        self.settle(ticket)
        return True

    def settle(self, ticket: Ticket) -> None:
        """Give back the room of a ticket that isn't waiting any more."""
        self._count(-ticket.size)
        self.room.give(ticket.amount)

    def press(self) -> None:
        """Make what waits ready: somebody needs its room."""
        self._pressed = bool(self._line)

    def drain(self) -> None:
        """Make what waits ready, from now on."""
        self._draining = True

    @property
    def oldest(self) -> float | None:
        """When the first that waits came (monotonic seconds)."""
        return next(iter(self._line)).since if self._line else None

    def due(self) -> float | None:
        """When the first that waits has waited long enough; None where nothing does."""
        oldest = self.oldest
        if oldest is None or self._batching is None:
            return oldest
        return oldest + self._batching.flush_timeout

    def take(self) -> Parcel | None:
        """The next parcel to send, None where nothing is ready."""
        if not self._is_ready():
            return None
        self._pressed = False
        batching = self._batching
        if batching is None:
            return Parcel.of([self._pop()])
        most = batching.max_size or float("inf")
        tickets: list[Ticket] = []
        size = requests = 0
        while self._line and (not tickets or size < batching.min_size):
            following = next(iter(self._line))
            size += self._size(following)
            requests += following.requests
            # Whole requests only: one that was cut could not be told from its batch.
            if tickets and (size > most or requests > MOST_JOINED):
                break
            tickets.append(self._pop())
        return Parcel.of(tickets)

    def _count(self, size: int) -> None:
        self.bytes += size
        self._budget.backlog += size

    def _enter(self, ticket: Ticket) -> None:
        self._line[ticket] = None
        self._waiting += self._size(ticket)
        self._requests += ticket.requests

    def _leave(self, ticket: Ticket) -> None:
        self._waiting -= self._size(ticket)
        self._requests -= ticket.requests

    def _is_ready(self) -> bool:
        if not self._line:
            return False
        if self._batching is None or self._draining or self._pressed:
            return True
        if self._waiting >= self._batching.min_size or self._requests >= MOST_JOINED:
            return True
        due = self.due()
        return due is not None and due <= monotonic()

    def _pop(self) -> Ticket:
        ticket, _ = self._line.popitem(last=False)
        self._leave(ticket)
        return ticket

    def _size(self, ticket: Ticket) -> int:
        batching = self._batching
        if batching is None:
            return 0
        return ticket.spans if batching.sizer == "items" else ticket.size
