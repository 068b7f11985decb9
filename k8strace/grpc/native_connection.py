"""A connection of the native server: one of nghttp2's sessions on a transport.

- A request runs inside the callback that brought its last byte; only one that has to wait
  becomes a task.
- A message's bytes are reserved when its length is here. Where there is no room, the
  client is not let send more than a window, until there is room or it is refused.
- What was announced and has not come never holds more than half of the budget, and of
  that no client's more than a half: others notice nothing of who announces and is silent.
- All else that a client makes us hold (its connection, streams, headers, what comes early,
  tasks) is in the budget's upkeep. Where that is used up, connections that never brought a
  request go first, the oldest before the others, then the one that holds most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from random import uniform
from typing import Any, cast

from k8strace._http2 import ProtocolError
from k8strace._http2_server import CANCELLED, REJECTED, WAITS, WHOLE, Request, ServerSession
from k8strace.driver import Done, Rest, begin
from k8strace.grpc import (
    Admission,
    Call,
    Handler,
    Reject,
    ServerSettings,
    hold_until,
)
from k8strace.grpc.compression import decompress
from k8strace.grpc.endpoints import (
    GRPC_PORT,
    end_writing,
    host_of,
    peer_of_socket,
    speaks_http1,
    speaks_http2,
)
from k8strace.grpc.native_announced import admit, reserve
from k8strace.grpc.status import REJECT_REASONS, Code, StatusError, status_of
from k8strace.net.connections import Connections
from k8strace.payload import Origin
from k8strace.tls.peers import NO_HTTP2, PLAINTEXT_PORT, speaks_tls, subject_of

log = logging.getLogger(__name__)

READ_SIZE = 256 * 1024  # bytes; one buffer serves all connections, one after the other
FIRST_READ = 64 * 1024  # bytes; of who sends anything but messages no more at once
MAX_STREAMS = 256  # of a connection at a time; nghttp2 remembers as many closed ones
MAX_HEADERS = 16 * 1024  # bytes; gRPC's own servers take as much
MAX_WAITING = 256  # messages that wait for room
# Bytes that a connection costs besides its streams: its session with the table of headers
# and the streams that it remembers, its transport; and with TLS.
CONNECTION_COST = 64 * 1024
TLS_COST = 152 * 1024
TASK_COST = 4 * 1024  # bytes of a request that waits, its coroutines among them
MIN_PING_INTERVAL = 300.0  # seconds; from here on defaults are those of gRPC's servers
PING_AFTER = 7200.0
PING_TIMEOUT = 20.0
HANDSHAKE_TIMEOUT = 20.0
# A client may compress after its headers are sent, as grpc-go does: seconds of its CPU.
BEGIN_TIMEOUT = 20.0
STALL_TIMEOUT = 60.0  # seconds in which a client has to take something of what it gets
LINGER = 2.0  # seconds in which a client has to close what has come to its end
NOTICE = 1.0  # seconds for an answer to the ping that goes with a GOAWAY


class Shared(Connections["Connection"]):
    """What the connections of a server have in common."""

    def __init__(
        self,
        settings: ServerSettings,
        handlers: Mapping[bytes, Handler],
        admission: Admission,
        on_reject: Reject,
    ) -> None:
        self.upkeep = upkeep = admission.budget.upkeep
        super().__init__(upkeep.take, upkeep, _now)
        self.settings = settings
        self.handlers = handlers
        self.admission = admission
        self.on_reject = on_reject
        self.buffer = bytearray(READ_SIZE)
        self.view = memoryview(self.buffer)  # asyncio's TLS takes slices to write into
        self.tasks: set[asyncio.Task[Any]] = set()
        self.waiting = 0
        self.is_draining = False
        self.changed = asyncio.Event()


def _now() -> float:
    return asyncio.get_running_loop().time()


class Running:
    """What goes on for a request that didn't end in the callback that brought it."""

    __slots__ = ("expired", "task", "timer")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.timer: asyncio.TimerHandle | None = None
        self.expired = False


class Connection(asyncio.BufferedProtocol):
    """A client."""

    def __init__(self, shared: Shared, loop: asyncio.AbstractEventLoop) -> None:
        self._shared = shared
        self._loop = loop
        self._admission = shared.admission
        self._buffer = shared.buffer
        self._read = shared.view[:FIRST_READ]
        self._view = self._read
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._session: ServerSession | None = None
        self._peer = self._host = ""
        self._origin = Origin("")
        self._subject: str | None = None
        self._cost = 0
        self._is_served = False
        self._is_paused = False
        self._ends_at: float | None = None
        self._drained_at: float | None = None
        self._goaway_at: float | None = None
        self._pinged_at: float | None = None
        self._closed_at: float | None = None
        self._pongs = 0
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self._shared
        settings, keepalive = shared.settings, shared.settings.keepalive
        now = self._loop.time()
        self._transport = cast("asyncio.Transport", transport)
        self._peer = peer_of_socket(transport.get_extra_info("peername"))
        self._host = host_of(self._peer)
        self._reserve = partial(reserve, self._admission, self._host)
        if settings.tls is not None:
            self._subject = subject_of(transport)
        self._origin = Origin(self._peer, self._subject)
        self._begun = self._heard = self._active = self._wrote = self._since = now
        age = keepalive.max_connection_age
        self._old_at = now + age * uniform(0.9, 1.1) if age else None
        options = {
            "max_message": settings.max_message_size,
            "max_streams": settings.max_concurrent_streams or MAX_STREAMS,
            "max_headers": MAX_HEADERS,
            "metadata": settings.include_metadata,
            "ping_interval": keepalive.min_time or MIN_PING_INTERVAL,
            "permits_pings": keepalive.permit_without_stream,
            "afford": self._afford,
            "give": shared.upkeep.give,
        }
        cost = CONNECTION_COST if settings.tls is None else TLS_COST
        if not shared.take(cost):
            shared.on_reject("memory", self._peer, "there is no room for the connection")
            self._transport.abort()
            return
        self._cost = cost
        self._session = self._begin(now, options)
        shared.add(self)
        if not speaks_http2(transport):
            shared.on_reject("tls", self._peer, NO_HTTP2)
            self._transport.abort()
            return
        self._flush()
        if shared.is_draining:
            self.drain(0)

    def _begin(self, now: float, options: dict[str, Any]) -> ServerSession:
        return ServerSession(self._shared.handlers, self._reserve, now, **options)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._end_session()

    def _end_session(self) -> None:
        """Give back all that was held; requests end as where the client is gone."""
        session, self._session = self._session, None
        shared = self._shared
        shared.remove(self)
        shared.changed.set()
        if session is not None:
            self._handle(session, session.close())
        shared.upkeep.give(self._cost)
        self._cost = 0

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def held(self) -> int:
        """Bytes of upkeep besides what each connection costs."""
        session = self._session
        return session.upkeep if session is not None else 0

    @property
    def since(self) -> float:
        """When a whole request came last, or the connection."""
        return self._since

    @property
    def is_idle(self) -> bool:
        session = self._session
        return session is not None and all(one.task is None for one in session.requests)

    def evict(self) -> None:
        """Make room for others."""
        text = (
            "the connection was closed: there is no room for more, and it was the oldest "
        )
        text += "without a request, held most, or was idle for longest"
        self._shared.on_reject("memory", self._peer, text)
        self._end_session()
        self._transport.abort()

    def _afford(self, amount: int) -> bool:
        return self._shared.take(amount, self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        session = self._session
        if session is None or self._closed_at is not None:
            return
        self._heard = now = self._loop.time()
        try:
            events = session.receive(self._buffer, nbytes, now)
        except ProtocolError as error:
            if not session.is_up and speaks_tls(self._buffer):
                self._shared.on_reject("tls", self._peer, PLAINTEXT_PORT)
            elif not session.is_up and speaks_http1(self._buffer):
                self._shared.on_reject("decode_error", self._peer, GRPC_PORT)
            self._broken(error)
            return
        pause = 0.0
        if events:
            self._active = now
            self._handle(session, events)
            pause = self._admission.pace()
        is_full = nbytes == len(self._view)
        is_body = session.body_bytes - self._body_bytes > max(nbytes, FIRST_READ) // 2
        self._view = self._shared.view if is_body else self._read
        self._body_bytes = session.body_bytes
        if self._goaway_at is not None and session.pongs > self._pongs:
            self._goaway(session)
        self._flush()
        if (pause or is_full) and not self._is_paused:
            # After a full read there is more: the loop would read on for long, and let all
            # others wait, and what we send.
            self._transport.pause_reading()
            self._loop.call_later(pause, self._read_on)

    def _read_on(self) -> None:
        if not self._is_paused and self._session is not None:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._is_paused = True
        self._wrote = self._loop.time()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._transport.resume_reading()
        self._flush()

    def drain(self, grace: float) -> None:
        """Take no more requests; be over when those that run are answered, or cut off."""
        session = self._session
        if session is None or self._drained_at is not None:
            return
        now = self._loop.time()
        self._drained_at, self._ends_at = now, now + grace
        self._goaway_at = now + min(NOTICE, grace)
        self._pongs = session.pongs
        session.notice()
        self._flush()
        # Behind the notice: with its answer, the notice has come before.
        session.ping()
        self._flush()

    def end(self) -> None:
        """Refuse what still runs and close."""
        session = self._session
        if session is None:
            return
        for request in session.requests:
            if request.task is not None:
                request.task.task.cancel()
            session.fail(request, Code.UNAVAILABLE, "the server stops")
        self._goaway(session)
        self._flush()
        self._close()

    def abort(self) -> None:
        self._transport.abort()

    def look_after(self, now: float) -> None:
        """What time brings, apart from what is asked for."""
        session = self._session
        if session is None:
            return
        settings = self._shared.settings
        rate = settings.slow_rate
        late = session.late(now, BEGIN_TIMEOUT, settings.slow_after, rate)
        for request in late:
            text = f"the message came too late, or slower than {rate} bytes a second"
            self._shared.on_reject("slow", self._peer, text)
            session.fail(request, Code.DEADLINE_EXCEEDED, text)
        session.tidy()
        keepalive = self._shared.settings.keepalive
        if session.requests:
            self._active = now
        if self._goaway_at is not None and now >= self._goaway_at:
            self._goaway(session)
        if (
            (self._is_paused and now - self._wrote > STALL_TIMEOUT)
            or (not session.is_up and now - self._begun > HANDSHAKE_TIMEOUT)
            or (self._ends_at is not None and now >= self._ends_at)
            or (self._closed_at is not None and now - self._closed_at > LINGER)
            or self._is_dead(session, now)
        ):
            self._transport.abort()
            return
        idle = keepalive.max_connection_idle
        if (self._old_at is not None and now >= self._old_at) or (
            idle and now - self._active >= idle
        ):
            grace = keepalive.max_connection_age_grace
            self.drain(float("inf") if grace is None else grace)
        self._flush()

    def _is_dead(self, session: ServerSession, now: float) -> bool:
        """Keepalive: pings who was not heard of, says whether it didn't answer."""
        keepalive = self._shared.settings.keepalive
        if self._pinged_at is not None:
            # uvloop's time has milliseconds; an answer may come within one.
            if self._heard >= self._pinged_at:
                self._pinged_at = None
            else:
                return now - self._pinged_at > (keepalive.timeout or PING_TIMEOUT)
        if now - self._heard > (keepalive.time or PING_AFTER):
            self._pinged_at = now
            session.ping()
        return False

    def _goaway(self, session: ServerSession) -> None:
        self._goaway_at = None
        session.goaway()

    def _handle(self, session: ServerSession, events: list[tuple[int, Request]]) -> None:
        for kind, request in events:
            if kind == WHOLE:
                self._serve(session, request)
            elif kind == WAITS:
                self._wait(session, request)
            elif kind == REJECTED:
                self._reject(request)
                if request.task is not None:
                    request.task.task.cancel()
            elif kind == CANCELLED:
                running: Running | None = request.task
                if running is not None:
                    running.task.cancel()
                if request.reason is None:
                    continue
                if running is None:
                    self._reject(request)
                else:
                    running.task.add_done_callback(partial(self._reject, request))

    def _reject(self, request: Request, _ended: object = None) -> None:
        reason, text = cast("str", request.reason), cast("str", request.text)
        self._shared.on_reject(reason, self._peer, text)

    def _serve(self, session: ServerSession, request: Request) -> None:
        message, leases = request.take()
        if message is None:  # taken back in the same read
            text = "the call ended before it was served"
            self._shared.on_reject("incomplete", self._peer, text)
            return
        lease = leases[0] if isinstance(leases, tuple) else leases
        del leases
        self._since = self._heard
        if not self._is_served:
            self._is_served = True
            self._shared.unserved.pop(self, None)
        deadline = request.deadline
        wait_until = hold_until(self._heard, deadline)
        metadata = request.metadata
        origin = self._origin
        if metadata:
            if lease is not None and not lease.attach(request.kept):
                self._refuse(session, request)
                return
            origin = Origin(self._peer, origin.subject, metadata, origin.groups)
        call = Call(message, origin, lease, deadline, wait_until)
        is_packed = request.encoding
        del message, lease
        try:
            handler = self._shared.handlers[request.path]
            coro = self._unpack(request, handler, call) if is_packed else handler(call)
            del call
            step = begin(coro)
            del coro
        except Exception as error:
            fail(session, request, error)
            error.__traceback__ = None
            return
        if isinstance(step, Done):
            session.respond(request, step.value)
        else:
            self._suspend(session, request, step)

    async def _unpack(self, request: Request, handler: Handler, call: Call) -> bytes:
        """Decompress a call's message and serve it."""
        limit = self._shared.settings.max_message_size
        try:
            message = decompress(request.encoding, call.message, limit, call.lease)
            if not isinstance(message, bytes):
                message = await message
        except StatusError as error:
            self._shared.on_reject(REJECT_REASONS[error.code], self._peer, error.message)
            raise
        except asyncio.CancelledError:
            text = "the call ended before its message was decompressed"
            self._shared.on_reject("incomplete", self._peer, text)
            raise
        running = handler(
            Call(message, call.origin, call.lease, call.deadline, call.wait_until)
        )
        del message, call
        return await running

    def _suspend(self, session: ServerSession, request: Request, rest: Rest[bytes]) -> None:
        if not self._afford(TASK_COST):
            rest.close()
            self._refuse(session, request)
            return
        running = self._start(request, rest.run())
        running.task.add_done_callback(partial(self._finish, request, running))
        if request.deadline is not None:
            running.timer = self._loop.call_at(
                request.deadline, self._expire, request, running
            )

    def _start(self, request: Request, coro: Coroutine[Any, Any, Any]) -> Running:
        """A task, for which there is room."""
        task = self._loop.create_task(coro)
        self._shared.tasks.add(task)
        task.add_done_callback(self._ended)
        request.task = running = Running(task)
        return running

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._shared.tasks.discard(task)
        self._shared.upkeep.give(TASK_COST)

    def _expire(self, request: Request, running: Running) -> None:
        running.task.cancel()
        session = self._session
        if session is not None:
            session.fail(request, Code.DEADLINE_EXCEEDED, "the deadline is over")
            self._flush()

    def _finish(
        self, request: Request, running: Running, task: asyncio.Task[bytes]
    ) -> None:
        request.task = None
        if running.timer is not None:
            running.timer.cancel()
        error = None if task.cancelled() else task.exception()
        session = self._session
        if session is not None:
            if task.cancelled():
                session.fail(request, Code.CANCELLED, "cancelled")
            elif error is None:
                session.respond(request, task.result())
            else:
                fail(session, request, error)
            self._flush()
        if error is not None:
            error.__traceback__ = None

    def _wait(self, session: ServerSession, request: Request) -> None:
        shared = self._shared
        if shared.waiting >= MAX_WAITING or not self._afford(TASK_COST):
            self._refuse(session, request)
            return
        shared.waiting += 1
        running = self._start(request, self._admit(request))
        running.task.add_done_callback(self._waited)

    def _waited(self, task: asyncio.Task[None]) -> None:
        self._shared.waiting -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken(error)

    async def _admit(self, request: Request) -> None:
        until = hold_until(self._loop.time(), request.deadline)
        leases = await admit(self._admission, request.size, self._host, until)
        request.task = None
        session = self._session
        if session is None:
            return
        if leases is None:
            self._refuse(session, request)
        else:
            events = session.admitted(request, leases, self._loop.time())
            del leases
            self._handle(session, events)
        self._flush()

    def _refuse(self, session: ServerSession, request: Request) -> None:
        refusal = self._admission.refusal(request.size, self._host)
        self._shared.on_reject("memory", self._peer, str(refusal))
        fail(session, request, refusal)

    def _flush(self) -> None:
        session = self._session
        if session is None or self._closed_at is not None:
            return
        try:
            while not self._is_paused and (data := session.output()):
                self._transport.write(data)
        except ProtocolError as error:
            self._broken(error)
            return
        if session.is_over:
            self._close()

    def _close(self) -> None:
        """Let the client close, and take nothing more of it."""
        transport = self._transport
        # Closed twice, asyncio's TLS forgets its connection, which then cannot be aborted.
        if self._closed_at is not None or transport.is_closing():
            return
        self._closed_at = self._loop.time()
        if end_writing(transport):
            transport.resume_reading()

    def _broken(self, error: BaseException) -> None:
        if isinstance(error, ProtocolError):
            log.debug("%s: %s", self._peer, error)
            if error.reason is not None:
                self._shared.on_reject(error.reason, self._peer, str(error))
        else:
            log.error("the connection of %s failed", self._peer, exc_info=error)
        self._transport.abort()


def fail(session: ServerSession, request: Request, error: BaseException) -> None:
    """Answer with the status that says what `error` is."""
    status = status_of(error)
    if status.code is Code.INTERNAL and not isinstance(error, StatusError):
        log.error("the handler of a call failed", exc_info=error)
    session.fail(request, status.code, status.message, status.details())
