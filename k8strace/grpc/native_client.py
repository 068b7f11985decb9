"""The client of the native engine: connections to all addresses of a target.

- Each address is a `Place`. It connects when a call needs it, and again when a call needs
  it after its connection was lost; after a failure by itself, when its backoff is over.
- Calls fail at once while no place is connected and all have failed, unless they are told
  to wait.
- A call of which a server says that it did not process it (GOAWAY, REFUSED_STREAM) is
  sent again. What a lost connection had is not.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Coroutine
from math import ceil
from random import uniform
from typing import Any
from urllib.parse import unquote

from k8strace._http2_client import Call
from k8strace.grpc import ClientSettings, Metadata
from k8strace.grpc.compression import ENCODINGS, compress, decompress
from k8strace.grpc.native_channel import MAX_ANSWER, Address, Channel, Target, show
from k8strace.grpc.status import Code, StatusError, retry_delay

MAX_TRIES = 5  # of a call that servers did not process
FIRST_BACKOFF = 0.2  # seconds; gRPC's own, 1 s to 2 min, would outlast a restart
MAX_BACKOFF = 5.0
BACKOFF_FACTOR = 1.6
RESOLVE_INTERVAL = 5.0

_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
"""What HTTP statuses mean where there is no grpc-status (gRPC's mapping)."""

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
        self._target = Target(settings)
        self._places: dict[Address, Place] = {}
        self._ready: list[Channel] = []
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_resolving = False
        self._resolved_at = float("-inf")
        self._resolve_error: str | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._is_open = False

    async def start(self) -> None:
        self._target.load()
        self._is_open = True

    async def stop(self) -> None:
        self._is_open = False
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for place in self._places.values():
            place.close("stopped")
        self._places.clear()
        self._wake()

    async def call(
        self,
        path: str,
        message: tuple[bytes, ...],
        *,
        timeout: float | None,
        metadata: Metadata = (),
    ) -> bytes:
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        encoding = ENCODINGS[self._settings.compression]
        if encoding:
            packed = compress(encoding, message)
            message = (packed if isinstance(packed, bytes) else await packed,)
        for _ in range(MAX_TRIES):
            channel = self._pick() or await self._wait(deadline)
            left = None if deadline is None else max(deadline - loop.time(), 0.0)
            future: asyncio.Future[bool] = loop.create_future()
            call = channel.request(
                future,
                path.encode(),
                message,
                encoding=encoding,
                timeout=None if left is None else grpc_timeout(left),
                metadata=metadata,
            )
            timer = None if left is None else loop.call_later(left, _expire, future)
            try:
                is_over = await future
            except asyncio.CancelledError:
                channel.cancel(call)
                raise
            finally:
                if timer is not None:
                    timer.cancel()
                call.future = None
            if not is_over:
                channel.cancel(call)
                raise self._failure(Code.DEADLINE_EXCEEDED, "the deadline is over")
            if call.status == b"0" and call.answer is not None:
                return await self._unpacked(call) if call.encoding else call.answer
            if not call.is_refused:
                break
        if call.status is None and deadline is not None and loop.time() >= deadline:
            # The server gave the call up before this side's timer came to it.
            raise self._failure(Code.DEADLINE_EXCEEDED, "the deadline is over")
        raise self._status(call, channel.error)

    def _pick(self) -> Channel | None:
        """The channel whose turn it is; asks the other places to connect."""
        ready = self._ready
        if not ready:
            return None
        if self._settings.balancer_name == "pick_first":
            return ready[0]
        if len(ready) < len(self._places):
            self._connect()
        self._turn = (self._turn + 1) % len(ready)
        return ready[self._turn]

    async def _wait(self, deadline: float | None) -> Channel:
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
                async with asyncio.timeout_at(deadline):
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
        errors = [place.error for place in self._places.values()]
        if not errors:
            return self._resolve_error
        return errors[0] if None not in errors else None

    def _connect(self) -> None:
        now = asyncio.get_running_loop().time()
        is_due = self._target.is_name and now - self._resolved_at >= RESOLVE_INTERVAL
        if not self._is_resolving and (is_due or not self._places):
            self._is_resolving = True
            self._run(self._resolve())
        for place in self._places.values():
            if place.is_idle:
                place.is_idle = False
                self._run(place.connect())

    def _run(self, coro: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self) -> None:
        """Find places; those that are no more are left when their calls are over."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                found = await self._target.resolve()
                break
            except OSError as error:
                self._resolve_error = f"the name does not resolve: {error}"
                self._wake()
            await asyncio.sleep(backoff * uniform(0.8, 1.2))
            backoff = min(backoff * BACKOFF_FACTOR, MAX_BACKOFF)
        self._is_resolving = False
        self._resolve_error = None
        self._resolved_at = asyncio.get_running_loop().time()
        if self._settings.balancer_name == "pick_first":
            found = found[:1] if not self._places else list(self._places)
        places = {
            address: self._places.get(address) or Place(self._target, address, self._change)
            for address in found
        }
        for address, place in self._places.items():
            if address not in places:
                place.leave()
        self._places = places
        self._connect()

    def _change(self) -> None:
        """A place has a channel, or has it no longer, or could not get one."""
        self._ready = [
            place.channel for place in self._places.values() if place.channel is not None
        ]
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
            return self._failure(code, f"HTTP status {call.http_status}")
        if lost is not None:
            return self._failure(Code.UNAVAILABLE, lost)
        if call.error:
            code = _STREAM_ERRORS.get(call.error, Code.INTERNAL)
            return self._failure(code, f"the stream was reset with error {call.error}")
        return self._failure(Code.INTERNAL, "an answer without status or message")


class Place:
    """An address, with the channel to it where there is one.

    `error` is why the last try to connect failed, None while that isn't known.
    """

    def __init__(self, target: Target, address: Address, on_change: Any) -> None:
        self.is_idle = True
        self.error: str | None = None
        self.channel: Channel | None = None
        self._target = target
        self._address = address
        self._on_change = on_change
        self._channels: set[Channel] = set()
        self._is_left = False

    async def connect(self) -> None:
        """Until there is a channel."""
        backoff = FIRST_BACKOFF
        while not self._is_left:
            try:
                channel = await self._target.connect(self._address, self._changed)
            except (OSError, ValueError) as error:
                text = str(error) or type(error).__name__
                self.error = f"cannot connect to {show(self._address)}: {text}"
                self._on_change()
            else:
                self._channels.add(channel)
                self.error = None
                self.channel = channel
                if channel.is_going:
                    self._changed(channel)
                self._on_change()
                return
            await asyncio.sleep(backoff * uniform(0.8, 1.2))
            backoff = min(backoff * BACKOFF_FACTOR, MAX_BACKOFF)

    def leave(self) -> None:
        """Connect no more; channels are closed when their calls are over."""
        self._is_left = True
        self.channel = None
        for channel in tuple(self._channels):
            channel.leave()

    def close(self, why: str) -> None:
        self._is_left = True
        for channel in tuple(self._channels):
            channel.close(why)

    def _changed(self, channel: Channel) -> None:
        """It takes no more requests, or is lost."""
        if channel.error is not None:
            self._channels.discard(channel)
        if channel is self.channel:
            self.channel = None
            self.is_idle = True
            self._on_change()


def grpc_timeout(seconds: float) -> bytes:
    """As a grpc-timeout, which has at most eight digits; never shorter."""
    milliseconds = ceil(seconds * 1000)
    if milliseconds < 10**8:
        return b"%dm" % milliseconds
    return b"%dS" % min(int(seconds), 10**8 - 1)


def _expire(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


def _binary(value: bytes) -> bytes:
    """A `-bin` header's bytes; what isn't base64 counts as empty."""
    try:
        return b64decode(value + b"=" * (-len(value) % 4))
    except (Base64Error, ValueError):
        return b""
