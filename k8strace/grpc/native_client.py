"""The client of the native engine: connections to all addresses of a target.

- Each connection has its `Place`. `round_robin` has one place (or as many as asked for) an
  address; `pick_first` one that takes the first address that connects.
- Names are resolved again when a connection is lost or goes away, `RESOLVE_INTERVAL` apart,
  and every `REFRESH_INTERVAL`: in this time a new address is found.
- Calls fail at once while no place is connected and all have failed, unless they are told
  to wait.
- A message is compressed once, when there is a connection for it.
- A call of which nothing was sent, or of which a server says that it did not process it
  (GOAWAY, REFUSED_STREAM), is sent again. What a lost connection had is not.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import lru_cache
from math import ceil, inf
from typing import Any
from urllib.parse import unquote

from k8strace._http2_client import Call
from k8strace.background import keep_running
from k8strace.grpc import ClientSettings, Metadata, Packed, is_over
from k8strace.grpc.compression import ENCODINGS, compress, decompress
from k8strace.grpc.native_channel import Channel, error_name
from k8strace.grpc.native_place import Place, jittered, longer
from k8strace.grpc.native_target import MAX_ANSWER, Address, Target
from k8strace.grpc.status import (
    Code,
    StatusError,
    retry_after,
    retry_delay,
)
from k8strace.lines import printable

log = logging.getLogger(__name__)

MAX_REFUSALS = 4  # of a call by servers that did not process it
RESOLVE_INTERVAL = 5.0
REFRESH_INTERVAL = 30.0

_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    408: Code.UNAVAILABLE,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
"""What HTTP statuses mean where there is no grpc-status: gRPC's mapping, and two that only
proxies answer, of a request that came too slowly and of one that is too large."""

_STREAM_ERRORS = {
    7: Code.UNAVAILABLE,  # REFUSED_STREAM
    8: Code.CANCELLED,
    11: Code.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    12: Code.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}

_CODES = {b"%d" % code: code for code in Code}


class Client:
    """A channel to one target; `grpc.Client` says what its methods promise."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._encoding = ENCODINGS[settings.compression]
        self._target = Target(settings)
        self._places: list[Place] = []
        self._ready: list[Channel] = []
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._resolver: asyncio.Task[None] | None = None
        self._resolve_error: str | None = None
        self._is_stale = asyncio.Event()
        self._waiters: set[asyncio.Future[None]] = set()
        self._is_open = False

    async def start(self) -> None:
        await self._target.load()
        self._is_open = True

    async def stop(self) -> None:
        self._is_open = False
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        places, self._places = self._places, []
        for place in places:
            place.close("stopped")
        self._change()

    async def call(
        self,
        path: str,
        message: tuple[bytes, ...],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        packed: Packed | None = None,
    ) -> bytes:
        loop = asyncio.get_running_loop()
        deadline = inf if timeout is None else loop.time() + timeout
        encoding = self._encoding
        packed = packed or Packed()
        refusals = 0
        while True:
            channel = self._pick()
            if channel is None:
                channel = await self._wait(deadline)
                if timeout is not None:
                    timeout = max(deadline - loop.time(), 0.0)
            if encoding and packed.content is None:
                # Not before there is a connection: it would be for nothing.
                await packed.reserve(sum(map(len, message)))
                made = compress(encoding, message)
                packed.keep(made if isinstance(made, bytes) else await made)
                if channel.is_going:
                    continue
            future: asyncio.Future[bool] = loop.create_future()
            call = channel.request(
                future,
                path.encode(),
                message if packed.content is None else (packed.content,),
                encoding=encoding,
                timeout=None if timeout is None else grpc_timeout(timeout),
                metadata=metadata,
                deadline=deadline,
            )
            try:
                has_ended = await future
            except asyncio.CancelledError:
                channel.cancel(call)
                raise
            finally:
                call.future = None
            if not has_ended:
                raise self._failure(Code.DEADLINE_EXCEEDED, "the deadline is over")
            if call.status == b"0" and call.answer is not None:
                return await self._unpacked(call) if call.encoding else call.answer
            if call.is_refused and not call.is_unsent:
                refusals += 1
            elif not call.is_unsent:
                break
            if refusals > MAX_REFUSALS:
                break
            if timeout is not None:
                timeout = max(deadline - loop.time(), 0.0)
        if call.status is None and is_over(deadline, loop.time()):
            # The server gave the call up before this side's timer came to it.
            raise self._failure(Code.DEADLINE_EXCEEDED, "the deadline is over")
        raise self._status(call, channel.error)

    def _pick(self) -> Channel | None:
        """The channel whose turn it is; asks the other places to connect."""
        ready = self._ready
        if not ready:
            return None
        if len(ready) < len(self._places):
            self._connect()
        self._turn = (self._turn + 1) % len(ready)
        return ready[self._turn]

    async def _wait(self, deadline: float) -> Channel:
        """A channel as soon as there is one, or the reason why there is none."""
        loop = asyncio.get_running_loop()
        while self._is_open:
            self._connect()
            error = self._error()
            if error is not None and not self._settings.wait_for_ready:
                # Who tries again at once must not keep the loop from connecting.
                await asyncio.sleep(0)
                raise self._failure(Code.UNAVAILABLE, error)
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.add(waiter)
            try:
                async with asyncio.timeout_at(None if deadline == inf else deadline):
                    await waiter
            except TimeoutError:
                text = error or "not connected in time"
                raise self._failure(Code.DEADLINE_EXCEEDED, text) from None
            finally:
                self._waiters.discard(waiter)
            if (channel := self._pick()) is not None:
                return channel
        raise self._failure(Code.UNAVAILABLE, "stopped")

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _error(self) -> str | None:
        """Why no call can be made, if that is so."""
        errors = [place.error for place in self._places]
        if not errors:
            return self._resolve_error
        return errors[0] if None not in errors else None

    def _connect(self) -> None:
        target = self._settings.target
        if self._resolver is None:
            self._resolver = self._run(self._resolve, f"resolving {target}")
        for place in self._places:
            if place.is_idle:
                place.is_idle = False
                self._run(place.connect, f"connecting to {target}")

    def _run(
        self, work: Callable[[], Coroutine[Any, Any, None]], what: str
    ) -> asyncio.Task[None]:
        task = keep_running(work, what, log)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _resolve(self) -> None:
        backoff = 0.0
        while True:
            try:
                found = await self._target.resolve()
            except OSError as error:
                self._resolve_error = f"the name does not resolve: {error}"
                self._wake()
                backoff = longer(backoff)
                await asyncio.sleep(jittered(backoff))
                continue
            self._resolve_error = None
            backoff = 0.0
            self._use(found)
            if not self._target.is_name:
                return
            self._is_stale.clear()
            await asyncio.sleep(RESOLVE_INTERVAL)
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_INTERVAL - RESOLVE_INTERVAL):
                    await self._is_stale.wait()

    def _use(self, found: list[Address]) -> None:
        """Have places for these; those that are no more are left when they are done."""
        count = self._settings.connections
        if self._settings.balancer_name == "pick_first":
            if not self._places:
                self._places = [self._place(found) for _ in range(count)]
            for place in self._places:
                place.move(found)
        else:
            kept: dict[Address, list[Place]] = {}
            for place in self._places:
                kept.setdefault(place.addresses[0], []).append(place)
            # Neighbours in turn have different addresses.
            rows = [kept.pop(one, []) or self._several(one, count) for one in found]
            self._places = [place for column in zip(*rows, strict=True) for place in column]
            for places in kept.values():
                for place in places:
                    place.leave()
        self._change()
        self._connect()

    def _several(self, address: Address, count: int) -> list[Place]:
        return [self._place([address]) for _ in range(count)]

    def _place(self, addresses: list[Address]) -> Place:
        return Place(self._target, addresses, self._changed)

    def _changed(self) -> None:
        """A place has a channel, or has it no longer, or could not get one."""
        self._change()
        if len(self._ready) < len(self._places):
            self._is_stale.set()

    def _change(self) -> None:
        self._ready = [place.channel for place in self._places if place.channel is not None]
        self._wake()

    def _failure(self, code: Code, text: str, delay: float | None = None) -> StatusError:
        return StatusError(code, f"{self._settings.target}: {text}", delay)

    async def _unpacked(self, call: Call) -> bytes:
        try:
            answer = decompress(call.encoding, call.answer or b"", MAX_ANSWER, None)
            return answer if isinstance(answer, bytes) else await answer
        except StatusError as error:
            is_large = error.code is Code.RESOURCE_EXHAUSTED
            code = error.code if is_large else Code.INTERNAL
            raise self._failure(code, f"the answer: {error}") from None

    def _status(self, call: Call, lost: str | None) -> StatusError:
        if call.status is not None and call.status != b"0":
            code = _CODES.get(call.status, Code.UNKNOWN)
            delay = retry_delay(_binary(call.details)) if call.details else None
            return self._failure(code, unquote((call.text or b"").decode("latin-1")), delay)
        if call.problem is not None:
            is_large = call.problem.startswith("an answer of")
            code = Code.RESOURCE_EXHAUSTED if is_large else Code.INTERNAL
            return self._failure(code, call.problem)
        if call.status is None and call.http_status not in (0, 200):
            code = _HTTP.get(call.http_status, Code.UNKNOWN)
            delay = retry_after(call.retry_after) if code is Code.UNAVAILABLE else None
            return self._failure(code, f"HTTP status {call.http_status}", delay)
        if call.status is None and call.content_type is not None:
            kind = printable(call.content_type.decode("latin-1"), 128)
            return self._failure(
                Code.UNIMPLEMENTED,
                f"the response is {kind!r} and not gRPC: is this the port of OTLP/gRPC?",
            )
        if lost is not None:
            return self._failure(Code.UNAVAILABLE, lost)
        if call.error:
            code = _STREAM_ERRORS.get(call.error, Code.INTERNAL)
            text = f"the stream was reset with {error_name(call.error)}"
            return self._failure(code, text)
        return self._failure(Code.INTERNAL, "an answer without status or message")


@lru_cache(maxsize=64)
def grpc_timeout(seconds: float) -> bytes:
    """As a grpc-timeout, which has at most eight digits; never shorter."""
    milliseconds = ceil(seconds * 1000)
    if milliseconds < 10**8:
        return b"%dm" % milliseconds
    return b"%dS" % min(int(seconds), 10**8 - 1)


def _binary(value: bytes) -> bytes:
    """A `-bin` header's bytes; what isn't base64 counts as empty."""
    try:
        return b64decode(value + b"=" * (-len(value) % 4))
    except (Base64Error, ValueError):
        return b""
