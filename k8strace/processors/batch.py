"""batch: join small requests into larger ones.

How it answers depends on what stands behind it:

- Where spans are only taken into memory, `consume` returns as soon as they are parked. A
  batch that is refused is kept and sent again until it is taken, in order; what is parked
  is bounded in bytes, and when that is used up, `consume` waits and then refuses.
- In front of an exporter that stores or waits for its backend, `consume` returns or raises
  when the outcome of its own spans is known. Nothing is kept after a refusal: the senders
  try again.

A batch is handed on inside the call that fills it; only where it has to wait does a task of
the component go on with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Annotated

from msgspec import Meta

from k8strace import component
from k8strace.addresses import host_of
from k8strace.background import spawn
from k8strace.budget import Room
from k8strace.component import Blocked, Context, Outlet, Promise
from k8strace.driver import Rest, begin
from k8strace.errors import RefusedError
from k8strace.metrics import (
    BATCH_METADATA_CARDINALITY,
    BATCH_SIZE_TRIGGER_SEND,
    BATCH_TIMEOUT_TRIGGER_SEND,
    Value,
)
from k8strace.payload import MOST_JOINED, Payload
from k8strace.processors._outgoing import (
    GIVEN_UP,
    Answering,
    Held,
    Keeping,
    Outgoing,
    Parcel,
    same,
)
from k8strace.units import Duration

PARKED_SHARE = 4  # a quarter of the process's budget may be parked here

_UINT32 = Meta(ge=0, le=2**32 - 1)


class Config(component.Config, frozen=True, kw_only=True):
    timeout: Duration = Duration(0.2)
    send_batch_size: Annotated[int, _UINT32] = 8192
    send_batch_max_size: Annotated[int, _UINT32] = 0
    metadata_keys: tuple[str, ...] = ()
    metadata_cardinality_limit: Annotated[int, _UINT32] = 1000

    def __post_init__(self) -> None:
        if self.timeout < 0:
            raise ValueError(f"timeout must not be negative: {self.timeout}")
        if 0 < self.send_batch_max_size < self.send_batch_size:
            raise ValueError(
                f"send_batch_max_size ({self.send_batch_max_size}) must not be smaller "
                f"than send_batch_size ({self.send_batch_size})"
            )
        seen: set[str] = set()
        for key in self.metadata_keys:
            if key.lower() in seen:
                raise ValueError(
                    f"metadata_keys has {key!r} twice (upper and lower case are the same)"
                )
            seen.add(key.lower())


_Key = tuple[tuple[str, ...], ...]


class _Group:
    """The batches of one combination of metadata values.

    `open` takes payloads, `ready` wait for their turn, `sending` are on their way. `host`
    is whose payload was the first.
    """

    __slots__ = ("host", "key", "open", "ready", "sending", "timer")

    def __init__(self, key: _Key, host: str) -> None:
        self.key = key
        self.host = host
        self.open: Parcel | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.ready: deque[Parcel] = deque()
        self.sending = 0


class Batch(component.Processor[Config]):
    type_name = "batch"
    config_type = Config
    joins = True

    def __init__(self, config: Config, context: Context, downstream: Outlet) -> None:
        super().__init__(config, context, downstream)
        self._at_once = not config.timeout or not config.send_batch_size
        self._keys = tuple(key.lower() for key in config.metadata_keys)
        self._budget = context.budget
        self._room = Room(self._budget.limit // PARKED_SHARE)
        self._answering: Answering | None = None
        self._outgoing: Outgoing
        way = (context, downstream, self._room, config.send_batch_max_size)
        if downstream.promise > Promise.MEMORY:
            self._outgoing = self._answering = Answering(*way)
        else:
            self._outgoing = Keeping(*way)
        context.ledger.holds_answers = self._answering is not None
        self._groups: dict[_Key, _Group] = {}
        self._groups_of: dict[str, dict[_Key, _Group]] = {}  # by their hosts
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._over = False
        metrics, label = context.metrics, context.label
        self._by_size = metrics.counter(BATCH_SIZE_TRIGGER_SEND, label)
        self._by_timeout = metrics.counter(BATCH_TIMEOUT_TRIGGER_SEND, label)
        metrics.gauge(BATCH_METADATA_CARDINALITY, lambda: len(self._groups), label)

    @property
    def needs_origin(self) -> bool:
        return bool(self._keys)

    @property
    def reads_metadata(self) -> tuple[str, ...]:
        return self._keys

    async def consume(self, payload: Payload) -> None:
        if not payload.spans:
            return
        room = self._room
        room.limit = self._budget.limit // PARKED_SHARE
        if self._draining or not room.take(payload.size):
            await self._wait_for_room(payload)
        key = self._key(payload) if self._keys else ()
        group = self._groups.get(key) or self._new_group(key, payload)
        if self._answering is None:
            self._park(group, payload, None)
            return
        held = Held(payload, asyncio.get_running_loop().create_future())
        self._park(group, payload, held)
        if not held.settled:
            try:
                await held.waiter
            except GIVEN_UP:
                self._answering.leave(held)
                self._close_if_empty(group)
                raise
        if held.error is not None:
            self.ledger.received += held.taken
            raise same(held.error)

    def blocked_by(self, payload: Payload) -> Blocked | None:
        room = self._room
        room.limit = self._budget.limit // PARKED_SHARE
        if room.fits(payload.size) or not room.used:
            return None
        return Blocked(room, min(payload.size, room.limit))

    async def stop(self, deadline: float) -> None:
        """Send what is parked until `deadline`; the rest is dropped, or refused to senders
        that still wait.
        """
        self._draining = True
        loop = asyncio.get_running_loop()
        self._outgoing.hurry()
        for group in list(self._groups.values()):
            self._close(group, self._by_timeout)
            self._forget_if_idle(group)
        while self._tasks and not self._over:
            left = deadline - loop.time()
            self._over = left <= 0
            await asyncio.wait(tuple(self._tasks), timeout=max(0.0, left))
        self._over = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        for group in list(self._groups.values()):
            while group.ready:
                self._outgoing.give_up(group.ready.popleft())
                await asyncio.sleep(0)  # each may be of thousands of requests
            self._forget_if_idle(group)

    # What comes in

    async def _wait_for_room(self, payload: Payload) -> None:
        """Take room for `payload`, or raise RefusedError.

        A payload that is larger than the whole room gets it when nothing else is in it.
        """
        room, size = self._room, payload.size
        while True:
            if self._draining:
                raise self._outgoing.shutting_down()
            if room.take(size):
                return
            if not room.used:
                room.force(size)
                return
            amount = min(size, room.limit)
            if not await room.wait(amount, payload.wait_until):
                raise RefusedError(
                    f"{self.context.label} has no room", room.retry_after(amount)
                )

    def _key(self, payload: Payload) -> _Key:
        values: dict[str, list[str]] = {key: [] for key in self._keys}
        if payload.origin is not None:
            for name, value in payload.origin.metadata:
                found = values.get(name.lower())
                if found is not None:
                    found.append(value)
        return tuple(map(tuple, values.values()))

    def _new_group(self, key: _Key, payload: Payload) -> _Group:
        limit = self.config.metadata_cardinality_limit
        host = "" if payload.origin is None else host_of(payload.origin.peer)
        if self._keys and limit and len(self._groups) >= limit:
            self._send_early(host)
        if self._keys and limit and len(self._groups) >= limit:
            self._room.give(payload.size)
            # One of them is free again when its batches have gone.
            raise RefusedError(
                f"{self.context.label}: more than {limit} combinations of the values of "
                f"{', '.join(self.config.metadata_keys)}",
                self.config.timeout,
            )
        group = self._groups[key] = _Group(key, host)
        if self._keys:
            self._groups_of.setdefault(host, {})[key] = group
        return group

    def _send_early(self, host: str) -> None:
        """Send the oldest batch of who has the most combinations, if `host` has fewer.

        So one sender of ever new values has its batches sent early, and others have theirs.
        """
        most = max(self._groups_of.values(), key=len)
        if len(most) > len(self._groups_of.get(host, ())) + 1:
            oldest = next((one for one in most.values() if one.open is not None), None)
            if oldest is not None:
                self._expire(oldest)

    def _park(self, group: _Group, payload: Payload, held: Held | None) -> None:
        limit = self.config.send_batch_max_size
        parcel = group.open
        requests = payload.request_count
        if parcel is not None and (
            (limit and parcel.spans + payload.spans > limit)
            or parcel.requests + requests > MOST_JOINED
        ):
            self._close(group, self._by_size)
            parcel = None
        if parcel is None:
            parcel = group.open = Parcel()
        if held is None:
            parcel.payloads.append(payload)
        else:
            held.parcel = parcel
            parcel.held[held] = None
        parcel.spans += payload.spans
        parcel.size += payload.size
        parcel.requests += requests
        self.ledger.park(payload.spans)
        if (
            self._at_once
            or parcel.spans >= self.config.send_batch_size
            or parcel.requests >= MOST_JOINED
        ):
            self._close(group, self._by_size)
            self._forget_if_idle(group)
        elif group.timer is None:
            loop = asyncio.get_running_loop()
            group.timer = loop.call_later(self.config.timeout, self._expire, group)

    # What goes on

    def _expire(self, group: _Group) -> None:
        self._close(group, self._by_timeout)
        self._forget_if_idle(group)

    def _close(self, group: _Group, trigger: Value) -> None:
        """Let the open batch go, at once where its turn has come."""
        if group.timer is not None:
            group.timer.cancel()
            group.timer = None
        parcel, group.open = group.open, None
        if parcel is not None and not parcel.is_empty:
            trigger.add(1)
            group.ready.append(parcel)
            self._pump(group)

    def _close_if_empty(self, group: _Group) -> None:
        """After a payload was taken out of the open batch."""
        if group.open is not None and group.open.is_empty:
            self._expire(group)

    def _pump(self, group: _Group) -> None:
        while group.ready and group.sending < self._outgoing.at_once and not self._over:
            parcel = group.ready.popleft()
            if parcel.is_empty:
                continue
            parcel.started = True
            step = begin(self._outgoing.send(parcel))
            if isinstance(step, Rest):
                group.sending += 1
                spawn(self._go_on(group, step), "sending a batch", self.log, self._tasks)

    async def _go_on(self, group: _Group, step: Rest[None]) -> None:
        try:
            await step
        finally:
            group.sending -= 1
            self._pump(group)
            self._forget_if_idle(group)

    def _forget_if_idle(self, group: _Group) -> None:
        if group.open is None and not group.ready and not group.sending:
            self._groups.pop(group.key, None)
            theirs = self._groups_of.get(group.host)
            if theirs is not None:
                theirs.pop(group.key, None)
                if not theirs:
                    del self._groups_of[group.host]
