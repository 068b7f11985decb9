"""A sending queue on disk, of which the first payloads are in memory, too.

A payload is in the queue when it is committed. As long as all before it are in memory and
there is room in the window, it stays there; what comes after that is read back when it is
its turn. So memory is bounded, and the order kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from time import monotonic

import msgspec

from k8strace.background import ended, keep_running, spawn
from k8strace.budget import MAX_RETRY_AFTER, Lease
from k8strace.component import Context, Storage
from k8strace.errors import RefusedError
from k8strace.exporters._parcel import Parcel, Ticket
from k8strace.exporters._queue import Queue, QueueConfig
from k8strace.metrics import (
    STORE_BYTES,
    STORE_COMMIT_SECONDS,
    STORE_COMMITTED_RECORDS,
    STORE_CORRUPT_RECORDS,
    STORE_FAILED_RECORDS,
    STORE_RECORDS,
    STORE_RECOVERED_SPANS,
)
from k8strace.payload import Origin, Payload, Source
from k8strace.segments import Place, Totals
from k8strace.store import READ_SIZE, Store, Stored

WINDOW = 16 * 1024 * 1024  # bytes of waiting payloads that are kept in memory, at the most
WINDOW_SHARE = 8  # or this part of the budget
READ_SHARE = 8  # of the window: small records take so much more in memory than on disk
LEAST_READ = 64 * 1024  # bytes that are read at once, unless it is more
READ_AGAIN = 1.0  # seconds after reading has failed on something unexpected
LOOK_EVERY = 1.0  # seconds between two looks at the folder, and at what others still hold

SCHEMA = 1
"""The version of what is stored of a payload besides its spans: the first byte of it.

Bytes without a version (k8strace 0.1) begin with 0x92, MessagePack's array of two. What is
appended to `Facts`, `Origin` and `Source`, with a default, needs no other version.
"""
_UNVERSIONED = 0x92


class Facts(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a payload is besides its spans, as it is stored."""

    origin: Origin | None
    sources: tuple[Source, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Facts)


def encode_facts(facts: Facts) -> bytes:
    """The bytes to store; text that is not Unicode (lone surrogates) is escaped."""
    try:
        return b"%c%b" % (SCHEMA, _encoder.encode(facts))
    except UnicodeEncodeError:
        sources = tuple(
            Source(one.spans, one.size, _safe(one.origin)) for one in facts.sources
        )
        return b"%c%b" % (SCHEMA, _encoder.encode(Facts(_safe(facts.origin), sources)))


def decode_facts(data: bytes, spans: int, size: int) -> Facts:
    """The inverse of `encode_facts`, for a payload of so many spans and bytes.

    Raises ValueError that says what is wrong.
    """
    schema = data[0] if data else 0
    if schema not in (SCHEMA, _UNVERSIONED):
        raise ValueError(
            f"its metadata has version {schema}, and this k8strace reads {SCHEMA}"
        )
    facts = _decoder.decode(data if schema == _UNVERSIONED else memoryview(data)[1:])
    sources = facts.sources
    if sources and (
        min(min(one.spans, one.size) for one in sources) < 0
        or sum(one.spans for one in sources) != spans
        or sum(one.size for one in sources) != size
    ):
        raise ValueError("its metadata tells of other requests than it has")
    return facts


def _safe(origin: Origin | None) -> Origin | None:
    if origin is None:
        return None
    subject = origin.subject
    return Origin(
        _safe_text(origin.peer),
        None if subject is None else _safe_text(subject),
        tuple((_safe_text(name), _safe_text(value)) for name, value in origin.metadata),
        tuple(map(_safe_text, origin.groups)),
    )


def _safe_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class StoredQueue(Queue):
    """`ready` is called when there is something to take."""

    def __init__(
        self, config: QueueConfig, context: Context, store: Store, ready: Callable[[], None]
    ) -> None:
        super().__init__(config, context.budget)
        self._store = store
        self._ready = ready
        self._window = min(WINDOW, max(1, context.budget.limit // WINDOW_SHARE))
        self._read_size = min(READ_SIZE, max(LEAST_READ, self._window // READ_SHARE))
        self._held = 0  # bytes of payloads that wait in memory, with their objects
        self._ledger = context.ledger
        self._log = context.log
        self._label = context.label
        self._drops = context.drops
        self._lines = context.drops.lines
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        metrics, label = context.metrics, context.label
        self._metrics = metrics
        self._committed_records = metrics.counter(STORE_COMMITTED_RECORDS, label)
        self._failed_records = metrics.counter(STORE_FAILED_RECORDS, label)
        self._corrupt_records = metrics.counter(STORE_CORRUPT_RECORDS, label)
        self._recovered_spans = metrics.counter(STORE_RECOVERED_SPANS, label)

    @staticmethod
    def store_of(config: QueueConfig, context: Context) -> Store:
        """The store that `config` names. Raises ValueError where there is none."""
        known = {
            i: one for i, one in context.extensions.items() if isinstance(one, Storage)
        }
        extension = known.get(config.storage) if config.storage else None
        if extension is None:
            raise ValueError(
                f"sending_queue::storage: {config.storage} is not a storage extension that "
                f"service::extensions lists (found: {', '.join(map(str, known)) or 'none'})"
            )
        seconds = context.metrics.histogram(STORE_COMMIT_SECONDS, context.label)
        return Store(
            extension.place(context.id),
            context.log,
            slot=context.worker.slot,
            workers=context.worker.workers,
            on_commit=seconds.observe,
        )

    async def open(self) -> None:
        """Find what is stored, and begin to read it. Raises OSError."""
        store = self._store
        self._recover(await store.open())
        self._metrics.gauge(STORE_RECORDS, lambda: store.records, self._label)
        self._metrics.gauge(STORE_BYTES, lambda: store.size, self._label)
        self._keeper = keep_running(self._keep, "looking after what is stored", self._log)

    async def commit(self, payload: Payload, amount: int) -> None:
        """Return when `payload`, whose room has been taken, is stored.

        Raises RefusedError when it can't be.
        """
        ticket = Ticket(payload, amount, is_answered=True)
        waiter = asyncio.get_running_loop().create_future()
        meta = encode_facts(Facts(payload.origin, payload.sources))
        lease = payload.any_lease
        if lease is not None:
            lease = Lease(lease.budget, len(meta), lease.peer, 0)

        def committed(stored: Place | OSError, is_next: bool) -> bool:
            nonlocal lease
            lease = None  # the metadata are written
            return self._on_committed(ticket, waiter, stored, is_next)

        self._store.put(meta, payload.chunks, payload.spans, committed)
        del payload
        try:
            error = await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.result() is None:
                # Refused, as the edge counts it, and yet it is stored.
                self._ledger.received += ticket.spans
            raise
        if error is not None:
            raise RefusedError(error, MAX_RETRY_AFTER)

    def put(self, ticket: Ticket) -> None:
        """Append a ticket that is stored, and has its payload in memory."""
        self._enter(ticket)  # it counts since it was stored
        ticket.held = self._cost(ticket)
        self._held += ticket.held

    def _cost(self, ticket: Ticket) -> int:
        """Bytes that it takes as long as its payload is in memory."""
        payload = ticket.payload
        return 0 if payload is None else max(payload.held(self._budget), payload.size)

    def settle(self, ticket: Ticket) -> None:
        """Have done with a ticket, unless it stays stored."""
        if not ticket.stays:
            super().settle(ticket)
            assert ticket.place is not None
            self._store.finish(ticket.place)

    def take(self) -> Parcel | None:
        if not self._has_room() and self._store.has_unread:
            self.press()  # a batch that doesn't fit into memory is as large as it gets
        parcel = super().take()
        if parcel is not None or not self._line:
            self._read_soon()
        return parcel

    async def stop_reading(self) -> None:
        """Leave on disk what isn't in memory."""
        self._draining = True
        for task in (self._reader, self._keeper):
            if task is not None:
                if task is self._keeper:
                    task.cancel()
                await ended(task)

    async def flush(self) -> None:
        """Return when nothing waits to be stored."""
        await self._store.flush()

    async def close(self) -> None:
        """Let go of the store; what is parked stays there."""
        await self.stop_reading()
        lost = min((await self._store.close()).spans, self._ledger.parked)
        self._line.clear()
        left, self._ledger.parked = self._ledger.parked - lost, 0
        self._drops.spans(lost, "shutdown", "the files that had them were removed")
        self._ledger.stored += left
        if left:
            self._log.info("%d spans stay stored", left)

    def _on_committed(
        self,
        ticket: Ticket,
        waiter: asyncio.Future[str | None],
        stored: Place | OSError,
        is_next: bool,
    ) -> bool:
        payload = ticket.payload
        if isinstance(stored, OSError):
            self.room.give(ticket.amount)
            self._failed_records.add(1)
            text = f"the store of {self._label} cannot take it: {stored.strerror}"
            self._lines.write(
                "failed",
                logging.ERROR,
                "cannot store in %s: %s",
                *_place_and_reason(stored),
            )
            if not waiter.done():
                waiter.set_result(text)
            return False
        ticket.place = stored
        self._count(ticket.size)
        self._committed_records.add(1)
        self._ledger.park(ticket.spans)
        if waiter.done():
            # Its sender is gone and counts as refused; its spans are here.
            self._ledger.received += ticket.spans
        else:
            waiter.set_result(None)
        fits = not self._line or self._held + self._cost(ticket) <= self._window
        asyncio.get_running_loop().call_soon(self._ready)
        if is_next and fits and payload is not None:
            self.put(ticket)
            return True
        ticket.payload = None
        self._read_soon()
        return False

    def _count(self, size: int) -> None:
        self.bytes += size  # a backlog on disk is no reason to slow anybody down

    def _recover(self, found: Totals) -> None:
        self._corrupt_records.add(self._store.damaged)
        self._store.damaged = 0
        if not found.records:
            return
        amounts = {"requests": found.records, "items": found.spans, "bytes": found.size}
        self.room.force(amounts[self._sizer])
        self._count(found.size)
        self._ledger.recovered += found.spans
        self._ledger.park(found.spans)
        self._recovered_spans.add(found.spans)
        self._log.info(
            "recovered %d requests of %d spans from %s",
            *(found.records, found.spans, self._store.base),
        )
        self._read_soon()

    async def _keep(self) -> None:
        """Look after the store, also when nothing is stored."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                self._recover(await self._store.look_after())
            except OSError as error:
                self._lines.write(
                    "keep", logging.ERROR, "cannot use %s: %s", *_place_and_reason(error)
                )
            except Exception as error:
                self._lines.defect("cannot look after the store", error=error)

    def _has_room(self) -> bool:
        """Whether more is to be read: half of the window is free, or nothing waits."""
        return self._held < self._window // 2 or not self._line

    def _read_soon(self) -> None:
        if self._reader is not None or self._draining:
            return
        if self._has_room() and self._store.has_unread:
            self._reader = spawn(
                self._read(), "reading what is stored", self._log, self._tasks
            )

    async def _read(self) -> None:
        try:
            while self._held < self._window and not self._draining:
                records = await self._store.read(self._read_size)
                if not records:
                    return
                for record in records:
                    await self._line_up(record)
                del records, record
                self._ready()
        except Exception:
            # Nobody may ask for more: what is in memory may be all that there is.
            asyncio.get_running_loop().call_later(READ_AGAIN, self._read_soon)
            raise
        finally:
            self._reader = None

    async def _line_up(self, record: Stored) -> None:
        """Put what was read in the line, or count it as lost."""
        if not record.intact:
            if not record.is_kept:
                self._lose(record, f"a record of {record.size} bytes is damaged")
            return
        try:
            facts = decode_facts(record.meta, record.spans, record.size)
        except (ValueError, RecursionError) as error:
            # Otherwise it would stop all that is behind it, at each start again.
            if await self._store.quarantine(record, str(error)):
                self._lose(record, f"a record of {record.size} bytes cannot be used")
            return
        peer = facts.origin.peer if facts.origin is not None else ""
        requests = facts.sources or (Source(record.spans, record.size, facts.origin),)
        beside = sum(
            self._budget.per_lease + (0 if one.origin is None else one.origin.cost)
            for one in requests
        )
        payload = Payload(
            (record.body,),
            record.spans,
            record.size,
            facts.origin,
            facts.sources,
            Lease(self._budget, record.size, peer, beside),
        )
        ticket = Ticket(payload, self.amount(payload), is_answered=True)
        ticket.since = monotonic() - max(0.0, time.time() - record.time)
        ticket.place = record.place
        self.put(ticket)

    def _lose(self, record: Stored, text: str) -> None:
        """Count a record that was set aside, and be done with it."""
        self._corrupt_records.add(1)
        amounts = {"requests": 1, "items": record.spans, "bytes": record.size}
        self.room.give(amounts[self._sizer])
        self._count(-record.size)
        self._ledger.park(-record.spans)
        self._drops.spans(record.spans, "corrupt", f"{text}: {self._store.base}")
        self._store.finish(record.place)

    def _pop(self) -> Ticket:
        ticket = super()._pop()
        self._held -= ticket.held
        return ticket


def _place_and_reason(error: OSError) -> tuple[str, str]:
    return str(error.filename), error.strerror or str(error)
