"""A connection of HTTP/1 that comes in: for OTLP, and for what the gateway says of itself.

- A request whose bytes are here is answered inside the callback that brought them; only
  one that has to wait becomes a task.
- A head is read up to a bound. Of a body no more is read than its site has let in: one of
  known length into the buffer that becomes it, a chunked one as far as it is granted.
- Whatever is kept between two reads is reserved before. While a request waits, no more is
  read than `LOOKAHEAD` bytes, and these only to notice that its client goes away.
- While a response is not taken, nothing is read and no other request is begun.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from k8strace._http1 import Body, Chunks, HeadError, Request
from k8strace.driver import Done, Rest, begin
from k8strace.grpc.endpoints import HTTP_PORT, end_writing
from k8strace.net.messages import CONTINUE, HTTPError, Response, encode
from k8strace.net.site import STEP, Client, Shared
from k8strace.tls.peers import PLAINTEXT_PORT, speaks_tls

HEAD_COST = 4 * 1024  # bytes of a request's head that are in what a connection costs
LINGER = 2.0  # seconds for which the rest of a refused request is read
RETRY_AFTER = 1.0  # seconds after which one that was too slow comes again

# What a connection does. In the first three it reads requests.
HEAD, BODY, DISCARD, CLOSING, ADMITTING, ANSWERING, CLOSED = range(7)


class Connection(asyncio.BufferedProtocol):
    """A client."""

    def __init__(self, shared: Shared, loop: asyncio.AbstractEventLoop) -> None:
        self._shared = shared
        self._site = shared.site
        self._loop = loop
        self._transport = cast("asyncio.Transport", None)
        self._client = cast("Client", None)
        self._window = shared.view
        self._phase = HEAD
        self._since = self._started = self._wrote = loop.time()
        self._is_first = True  # no request has been here
        self._is_paused = False  # there is something that the client does not take
        self._reads = True
        self._kept = bytearray()
        self._scanned = 0  # of what is kept: there is no empty line in it
        self._upkeep = 0  # bytes that are reserved: for the connection,
        self._kept_cost = 0  # for what is kept,
        self._head_cost = 0  # and for a head that is larger than most
        self._request: Request | None = None
        self._body: Body | None = None
        self._chunks: Chunks | None = None
        self._left = 0  # of the body: bytes that are not read, -1 where nobody knows
        self._task: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self._shared
        self._transport = cast("asyncio.Transport", transport)
        # What the kernel does not take at once is a client's that does not read.
        # Not 0: TLS's transports take that for reached when nothing is left to be written.
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._client = client = Client(transport)
        cost = shared.limits.connection
        if not shared.take(cost, self):
            text = "there is no room for the connection"
            self._site.on_reject("memory", client.peer, text)
            self._phase = CLOSED
            self.abort()
            return
        self._upkeep = cost
        shared.add(self)
        if shared.is_draining:
            self.drain()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._phase in (BODY, ADMITTING):
            text = "the connection ended before its request was here"
            self._site.on_reject("incomplete", self._client.peer, text)
        self._end()

    def evict(self) -> None:
        """Make room for another."""
        text = "the connection was closed to make room: it brought no request, or was idle"
        self._site.on_reject("memory", self._client.peer, text)
        self._end()
        self.abort()

    def _end(self) -> None:
        """Let go of all that was held; a request that runs ends, as nobody waits for it."""
        shared = self._shared
        self._phase = CLOSED
        shared.forget(self)
        if self._task is not None:
            self._task.cancel()
        self._body = None
        self._end_request()
        self._drop_kept()
        shared.site.give(self._upkeep)
        self._upkeep = 0

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        body = self._body
        if body is None or self._chunks:
            return self._window
        return memoryview(cast("Any", body))

    def buffer_updated(self, nbytes: int) -> None:
        phase = self._phase
        if phase in (CLOSING, CLOSED):
            return
        body = self._body
        if body is not None and self._chunks is None:
            body.advance(nbytes)
            if not body.is_full:
                return
            self._left = 0
            cast("Request", self._request).body = body.take()
            self._body = body = None
            self._answer()
        elif self._kept:
            if self._reserve(len(self._kept) + nbytes):
                self._kept += self._window[:nbytes]
                self._consume(self._kept)
            else:
                self._refuse_kept()
        else:
            if phase == HEAD:
                self._started = self._loop.time()
            self._consume(bytes(self._window[:nbytes]))
        if self._phase != HEAD or self._is_paused:
            self._set_reading()
        elif nbytes == len(self._window):
            # There is more: the loop would read on for long, and let all others wait.
            self._transport.pause_reading()
            self._reads = False
            self._loop.call_soon(self._set_reading)

    def pause_writing(self) -> None:
        self._is_paused = True
        self._wrote = self._loop.time()
        self._shared.hold(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._is_paused = False
        self._shared.let_go(self)
        self._since = self._loop.time()
        self._go_on()

    @property
    def held(self) -> int:
        """Bytes of upkeep besides what each connection costs."""
        return self._kept_cost + self._head_cost

    @property
    def since(self) -> float:
        """The loop's time of its last response, or of its beginning."""
        return self._since

    @property
    def is_idle(self) -> bool:
        return self._phase not in (ADMITTING, ANSWERING)

    def drain(self) -> None:
        """Take no more requests; end as soon as none is here."""
        if self._phase == HEAD and not self._kept:
            self._close()

    def abort(self) -> None:
        self._transport.abort()

    def look_after(self, now: float) -> None:
        """Periodic housekeeping: each limit of time."""
        limits, phase = self._shared.limits, self._phase
        if self._is_paused:
            if limits.write_timeout and now - self._wrote > limits.write_timeout:
                self.abort()
        elif phase == HEAD:
            self._look_after_head(now)
        elif phase == BODY:
            waited = now - self._since - limits.slow_after
            body = cast("Body", self._body)
            received = 0 if body is None else body.size
            total = limits.read_timeout
            if waited > 0 and received < waited * limits.slow_rate:
                text = (
                    f"the body came slower than {limits.slow_rate} bytes a second after "
                    f"its first {limits.slow_after:g} s"
                )
            elif total and now - self._started > total:
                text = f"the request was not here after {total:g} s"
            else:
                return
            self._refuse(_slow(text))
            self._set_reading()
        elif phase == DISCARD and now - self._since > LINGER:
            self._close()
        elif phase == CLOSING and now - self._since > LINGER:
            self.abort()

    def _look_after_head(self, now: float) -> None:
        limits = self._shared.limits
        timeout = limits.read_header_timeout
        if self._kept:
            if timeout and now - self._started > timeout:
                text = f"the head of a request was not here after {timeout:g} s"
                self._site.on_reject("slow", self._client.peer, text)
                self.abort()
        elif self._is_first:
            if timeout and now - self._since > timeout:
                self.abort()
        elif limits.idle_timeout and now - self._since > limits.idle_timeout:
            self._close()

    # From bytes to requests

    def _consume(self, data: bytes | bytearray) -> None:
        """Take from `data` what can be taken now, and keep the rest."""
        at, end = 0, len(data)
        while at < end and not self._is_paused:
            phase, before = self._phase, at
            if phase == HEAD:
                at = self._take_head(data, at)
            elif phase == BODY:
                at = self._take_body(data, at)
            elif phase == DISCARD:
                at = self._discard(data, at)
            if at == before and phase == self._phase:
                break
        if self._phase == CLOSING or self._phase == CLOSED:
            self._drop_kept()
        elif at == end:
            if self._kept or self._kept_cost:
                self._drop_kept()
        elif data is self._kept:
            del self._kept[:at]
        elif self._reserve(end - at):
            self._kept += data[at:]
        else:
            self._refuse_kept()

    def _take_head(self, data: bytes | bytearray, at: int) -> int:
        """Begin a request whose head is here; returns where what was taken ends."""
        while data[at : at + 1] in (b"\r", b"\n"):  # RFC 9112, section 2.2
            at += 1
            self._scanned = 0
        unseen = at + max(self._scanned - 3, 0)
        end = data.find(b"\r\n\r\n", unseen) + 4
        limit = self._shared.limits.max_head
        if end < 4 or end - at > limit:
            if len(data) - at > limit:
                text = f"the head of the request is larger than {limit} bytes"
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self._request = request = Request()
                request.guess(bytes(data[at : at + limit]))
                self._refuse(HTTPError(status, "msg_too_large", text), closes=True)
            elif at < len(data):
                self._scanned = len(data) - at
                if wrong := wrong_protocol(data, at, unseen):
                    self._refuse(wrong, closes=True)
            return at
        self._scanned = 0
        self._request = request = Request()
        try:
            request.parse(bytes(data[at:end]))
        except HeadError as error:
            found = wrong_protocol(data, at, len(data))
            self._refuse(found or _refused(error), closes=True)
            return at
        if self._is_first:
            self._is_first = False
            self._shared.unserved.pop(self, None)
        self._left = request.length
        cost = request.cost - HEAD_COST
        if cost > 0:
            if not self._shared.take(cost, self):
                self._refuse_memory(cost)
                return end
            self._head_cost = cost
        request.here = len(data) - end
        try:
            step = begin(self._site.admit(request, self._client))
        except Exception as error:
            self._fail(error)
            return end
        if isinstance(step, Done):
            self._admitted(has_more=len(data) > end)
        else:
            self._suspend(ADMITTING, step)
        return end

    def _admitted(self, *, has_more: bool) -> None:
        request = cast("Request", self._request)
        if not self._left or request.lease is None:
            self._answer()
            return
        self._phase = BODY
        self._since = self._loop.time()
        if request.expects_continue:
            request.expects_continue = False
            if not has_more:
                self._transport.write(CONTINUE)
        if self._left < 0:
            self._chunks = Chunks()
            self._body = Body(min(STEP, max(self._site.max_body, 1)))

    def _take_body(self, data: bytes | bytearray, at: int) -> int:
        request = cast("Request", self._request)
        chunks, body = self._chunks, self._body
        if chunks is None:
            end = at + self._left
            if end <= len(data):
                request.body = bytes(data[at:end])
                self._left = 0
                self._answer()
                return end
            body = self._body = Body(self._left)
            body.fill(data, at, len(data))
            return len(data)
        assert body is not None
        try:
            at = chunks.decode(data, at, len(data), body)
        except HeadError as error:
            self._left = 0
            self._refuse(_refused(error), closes=True)
            return len(data)
        if chunks.is_complete:
            self._left = 0
            request.body = body.take()
            self._body = self._chunks = body = None
            self._answer()
        elif at < len(data):
            self._grow(request, body)
        return at

    def _grow(self, request: Request, body: Body) -> None:
        """Have room for more of a chunked body, or refuse it."""
        size, most = body.capacity, self._site.max_body
        if size >= most:
            text = f"message is larger than {most} bytes"
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            self._refuse(HTTPError(status, "msg_too_large", text))
            return
        for more in (max(size // 2, STEP), STEP):
            new = min(size + more, most)
            if self._site.grow(request, new - size):
                body.grow(new)
                return
        self._refuse_memory(STEP)

    def _discard(self, data: bytes | bytearray, at: int) -> int:
        """Pass over the body of a request that was answered without it."""
        if self._left >= 0:
            size = min(len(data) - at, self._left)
            self._left -= size
            at += size
        else:
            chunks = self._chunks = self._chunks or Chunks()
            try:
                at = chunks.decode(data, at, len(data), None)
            except HeadError:
                self._close()
                return len(data)
            if chunks.is_complete:
                self._left = 0
        if not self._left:
            self._chunks = None
            self._phase = HEAD
        return at

    # From requests to responses

    def _answer(self) -> None:
        request = cast("Request", self._request)
        try:
            step = begin(self._site.answer(request, self._client))
        except Exception as error:
            self._fail(error)
            return
        if isinstance(step, Done):
            self._respond(step.value)
        else:
            self._suspend(ANSWERING, step)

    def _suspend(self, phase: int, rest: Rest[Any]) -> None:
        self._phase = phase
        self._task = task = self._loop.create_task(rest.run())
        self._shared.tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._shared.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        phase = self._phase
        if task is self._task:
            self._task = None
            if task.cancelled():
                self.abort()
            elif error is not None:
                self._fail(error)
            elif phase == ADMITTING:
                self._admitted(has_more=bool(self._kept))
            elif phase == ANSWERING:
                self._respond(task.result())
            self._go_on()
        if error is not None:
            error.__traceback__ = None  # its frames hold the payload

    def _go_on(self) -> None:
        """Take what was kept, where something has ended for which it had to wait."""
        if self._kept and self._phase <= DISCARD and not self._is_paused:
            if self._phase == HEAD:
                self._started = self._loop.time()
            self._consume(self._kept)
        self._set_reading()

    def _fail(self, error: BaseException) -> None:
        if self._phase == CLOSED:
            return
        self._respond(self._site.failure(error, self._request))
        error.__traceback__ = None  # its frames hold the payload

    def _refuse(self, error: HTTPError, *, closes: bool = False) -> None:
        """Refuse a request; `closes` where nobody knows where it ends."""
        self._site.on_reject(error.reason, self._client.peer, str(error))
        self._respond(self._site.failure(error, self._request), closes=closes)

    def _refuse_memory(self, size: int, *, closes: bool = False) -> None:
        refusal = self._site.refusal(size, self._client)
        self._site.on_reject("memory", self._client.peer, str(refusal))
        self._respond(self._site.failure(refusal, self._request), closes=closes)

    def _refuse_kept(self) -> None:
        """There is no room for what was read and cannot be taken now."""
        task, self._task = self._task, None
        size = len(self._kept) + len(self._window)
        if self._phase == ANSWERING and task is not None:
            # That is of requests behind the one that runs.
            self._task = task
            cast("Request", self._request).keeps_alive = False
            refusal = self._site.refusal(size, self._client)
            self._site.on_reject("memory", self._client.peer, str(refusal))
            self._drop_kept()
            return
        if task is not None:
            task.cancel()
        self._refuse_memory(size, closes=True)

    def _respond(self, response: Response, *, closes: bool = False) -> None:
        request, body = self._request, self._body
        left = self._left
        if body is not None and self._chunks is None:
            left = body.capacity - body.size
        is_old = is_head = False
        if request is not None:
            is_old, is_head = request.is_old, request.method == b"HEAD"
            closes = (
                closes
                or not request.keeps_alive
                or (left != 0 and request.expects_continue)
            )
        shared = self._shared
        closes = closes or shared.is_draining or not shared.limits.keeps_alive
        self._body = None
        self._end_request()
        self._since = self._loop.time()
        self._transport.write(
            encode(response, closes=closes, is_old=is_old, is_head=is_head)
        )
        if closes:
            self._close()
            return
        self._left = left
        self._phase = DISCARD if left else HEAD

    def _end_request(self) -> None:
        self._request = None
        if self._head_cost:
            self._site.give(self._head_cost)
            self._head_cost = 0

    def _close(self) -> None:
        """Let the client close, and take nothing more of it."""
        transport = self._transport
        # Closed twice, asyncio's TLS forgets its connection, which then cannot be aborted.
        if self._phase == CLOSING or transport.is_closing():
            return
        self._phase = CLOSING
        self._since = self._loop.time()
        self._drop_kept()
        end_writing(transport)

    # What is kept, and reading

    def _set_reading(self) -> None:
        """Read where there is place for what comes."""
        phase = self._phase
        if phase == CLOSED:
            return
        if phase <= CLOSING:
            self._window = self._shared.view
            if self._kept_cost and not self._kept:
                self._drop_kept()
            reads = phase == CLOSING or not self._is_paused
        else:
            self._window = self._shared.lookahead
            reads = not self._kept and self._reserve(len(self._window))
        if reads == self._reads or self._transport.is_closing():
            return
        self._reads = reads
        if reads:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _reserve(self, size: int) -> bool:
        """Room for `size` bytes that are kept."""
        missing = size - self._kept_cost
        if missing > 0:
            if not self._shared.take(missing, self):
                return False
            self._kept_cost += missing
        return True

    def _drop_kept(self) -> None:
        self._kept = bytearray()
        self._scanned = 0
        if self._kept_cost:
            self._site.give(self._kept_cost)
            self._kept_cost = 0


def _refused(error: HeadError) -> HTTPError:
    reasons = {431: "msg_too_large", 501: "unsupported"}
    reason = reasons.get(error.status, "decode_error")
    return HTTPError(HTTPStatus(error.status), reason, str(error))


def _slow(text: str) -> HTTPError:
    return HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, "slow", text, RETRY_AFTER)


def wrong_protocol(data: bytes | bytearray, at: int, unseen: int) -> HTTPError | None:
    """What is said to a client whose bytes, from `at`, are not a head of HTTP/1.

    `unseen` is where those begin in which no two ends of lines were looked for yet.
    """
    if not 0x41 <= data[at] <= 0x5A:
        if data[at] in (0x15, 0x16) and len(data) == at + 1:
            return None
        if speaks_tls(data[at : at + 2]):
            return HTTPError(HTTPStatus.BAD_REQUEST, "tls", PLAINTEXT_PORT)
        text = "malformed request: it does not begin with a method"
        return HTTPError(HTTPStatus.BAD_REQUEST, "decode_error", text)
    if data.startswith(b"PRI * HTTP/2", at):
        return HTTPError(HTTPStatus.BAD_REQUEST, "decode_error", HTTP_PORT)
    if data.find(b"\n\n", unseen) >= 0:
        text = "malformed request: its lines end in LF, and not in CR LF"
        return HTTPError(HTTPStatus.BAD_REQUEST, "decode_error", text)
    return None
