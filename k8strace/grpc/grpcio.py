"""The engine on grpcio: `grpc.aio`, messages as raw bytes.

- A call's handler is asked before its message is read, so that nobody's body is read while
  the budget has no room at all. How long a message is, core tells only with the message
  itself; so its reservation is made when it is here, and core's own buffers (a message of
  each running call) are on top of the budget.
- Core hands compressed messages over as they are. Which encoding they have it keeps to
  itself, but it lets only gzip in, and a gzip message is known by its first bytes.
- Core ends a call by itself when the declared length is over the limit. That is seen here
  as the end of a call that has lost its peer.
- Core takes any content type, and as empty a message whose flags it doesn't know.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import grpc
import grpc.aio

from k8strace._codec import GZIP
from k8strace.addresses import join_address, listen_address
from k8strace.auth import NOBODY, Gate, Verdict
from k8strace.background import in_thread
from k8strace.errors import (
    ConfigError,
    K8sTraceError,
    RefusedError,
    UnauthenticatedError,
)
from k8strace.grpc import (
    Admission,
    Call,
    ClientSettings,
    Handler,
    Metadata,
    Packed,
    Reject,
    ServerSettings,
    hold_until,
    is_over,
)
from k8strace.grpc.compression import MAGIC, decompress
from k8strace.grpc.endpoints import (
    cannot_listen,
    check_free,
    claim_unix,
    host_of,
    peer_of_grpc,
    show_unix,
    unix_path,
)
from k8strace.grpc.grpcio_tls import (
    channel_credentials,
    contexts,
    server_credentials,
    subject_of_call,
)
from k8strace.grpc.status import (
    REJECT_REASONS,
    Code,
    StatusError,
    retry_delay,
    status_of,
)
from k8strace.payload import Origin
from k8strace.units import Duration

log = logging.getLogger(__name__)


def _is_ours(record: logging.LogRecord) -> bool:
    """Core's wrapper writes a traceback for each header that is not UTF-8, and reads it as
    Latin-1: one sender could fill the log."""
    return not record.getMessage().startswith("Invalid encoding on ")


logging.getLogger("grpc._cython.cygrpc").addFilter(_is_ours)

MAX_RESPONSE = 4 * 1024 * 1024  # bytes; no OTLP answer is larger
_CANCEL_TIMEOUT = 1.0  # seconds for handlers that clean up
_INT_MAX = 2**31 - 1
_GZIP_AND_NONE = 1 << 0 | 1 << 2  # bits of grpc_compression_algorithm
_NO_MESSAGE = "the call ended before its message was here"
_DETAILS = "grpc-status-details-bin"
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

Options = list[tuple[str, Any]]


class Server:
    """A `grpc.aio` server; `grpc.Server` says what its methods promise."""

    def __init__(
        self,
        settings: ServerSettings,
        handlers: Mapping[str, Handler],
        admission: Admission,
        on_reject: Reject,
    ) -> None:
        if settings.sockets:
            # Core has no way to adopt them; several of its servers share a TCP port by
            # `reuse_port`.
            raise ConfigError(
                ["engine grpcio cannot listen on given sockets: set `engine: native`"]
            )
        self._tls = None if settings.tls is None else contexts(settings.tls)
        self._settings = settings
        self._admission = admission
        self._on_reject = on_reject
        auth = settings.authenticator
        self._gate = None if auth is None else Gate(auth, admission)
        self._limit = settings.max_message_size
        rate = settings.slow_rate
        self._read_timeout = settings.slow_after + self._limit / rate if rate else None
        self._methods = _Methods(
            {path: partial(self._serve, handler) for path, handler in handlers.items()},
            self._unknown,
        )
        self._server: grpc.aio.Server | None = None
        self._running: set[asyncio.Task[Any] | None] = set()
        self._stopped = False

    async def start(self) -> str:
        settings = self._settings
        if settings.transport == "unix":
            path = unix_path(settings.endpoint)
            claim_unix(path)
            target = where = show_unix(path)
        else:
            host, port = listen_address(settings.endpoint)
            if port and not settings.reuse_port:
                await check_free(host, port)
            where = join_address(host, port)
            target = join_address(host or "::", port)
        credentials = None
        if self._tls is not None:
            credentials = await in_thread(server_credentials, self._tls)
        server = grpc.aio.server(
            handlers=(self._methods,), options=_server_options(settings)
        )
        try:
            if credentials is None:
                bound = server.add_insecure_port(target)
            else:
                bound = server.add_secure_port(target, credentials)
        except RuntimeError as error:
            raise cannot_listen(where, None) from error
        await server.start()
        self._server = server
        return where if settings.transport == "unix" else join_address(host, bound)

    async def stop(self, grace: float) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        await server.stop(max(grace, 0.0))
        self._stopped = True
        late = [task for task in self._running if task is not None]
        for task in late:
            # One that core has cancelled is cleaning up, and is let do so.
            if not task.cancelling():
                task.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCEL_TIMEOUT)

    async def _serve(self, handler: Handler, _requests: object, context: Any) -> bytes:
        task = asyncio.current_task()
        self._running.add(task)
        try:
            return await self._respond(handler, context)
        finally:
            self._running.discard(task)
            # The task keeps its cancellation, whose frames hold the payload.
            del task

    async def _respond(self, handler: Handler, context: Any) -> bytes:
        try:
            return await self._answer(handler, context)
        except K8sTraceError as error:
            failure = _failure(status_of(error))
            # An error caught on its way may be held by a frame that its traceback holds;
            # with it go the payload and its bytes in the budget.
            error.__traceback__ = None
        except grpc.aio.BaseError:
            raise  # the server has stopped: core takes nothing any more
        except Exception as error:
            log.exception("the handler of a call failed")
            failure = _failure(status_of(error))
            error.__traceback__ = None
        if self._stopped:
            raise asyncio.CancelledError
        # Outside of `except`: the context keeps the exception that it raises, with all its
        # frames, until the garbage collector comes.
        return await _abort(context, failure)

    async def _answer(self, handler: Handler, context: Any) -> bytes:
        peer = peer_of_grpc(context.peer())
        try:
            caller = NOBODY
            if self._gate is not None:
                caller = await self._authenticate(self._gate, context, peer)
            call = await self._admit(context, peer, caller)
        except (asyncio.CancelledError, grpc.aio.BaseError):
            self._on_reject("incomplete", peer, _NO_MESSAGE)
            raise
        return await handler(call)

    async def _authenticate(self, gate: Gate, context: Any, peer: str) -> Verdict:
        """Who calls; raises UnauthenticatedError or RefusedError."""
        remaining = context.time_remaining()
        now = asyncio.get_running_loop().time()
        try:
            return await gate.admit(
                _first(context, gate.header),
                None if remaining is None else now + remaining,
                peer,
            )
        except UnauthenticatedError as error:
            self._on_reject("unauthenticated", peer, str(error))
            raise
        except RefusedError as error:
            self._on_reject("auth_unavailable", peer, str(error))
            raise

    async def _admit(self, context: Any, peer: str, caller: Verdict) -> Call:
        """The call, when its message is here and has its room."""
        admission = self._admission
        now = asyncio.get_running_loop().time()
        remaining = context.time_remaining()
        deadline = None if remaining is None else now + remaining
        wait_until = hold_until(now, deadline)
        if not admission.fits(1) and not await admission.wait(1, wait_until):
            raise self._refusal(1, peer)
        if pause := admission.pace():
            await asyncio.sleep(pause)
        message = await self._read(context, peer)
        lease = await admission.admit(len(message), host_of(peer), wait_until)
        if lease is None:
            raise self._refusal(len(message), peer)
        if message.startswith(MAGIC):
            try:
                inflated = decompress(GZIP, message, self._limit, lease)
                message = inflated if isinstance(inflated, bytes) else await inflated
            except StatusError as error:
                self._on_reject(REJECT_REASONS[error.code], peer, error.message)
                raise
        metadata: Metadata = ()
        if self._settings.include_metadata:
            metadata = _metadata(context, None if self._gate is None else self._gate.header)
        subject = caller.subject
        if subject is None and self._tls is not None:
            subject = subject_of_call(context)
        origin = Origin(peer, subject, metadata, caller.groups)
        if metadata and not lease.attach(origin.cost):
            raise self._refusal(origin.cost, peer)
        return Call(message, origin, lease, deadline, wait_until)

    async def _read(self, context: Any, peer: str) -> bytes:
        try:
            async with asyncio.timeout(self._read_timeout):
                message = await context.read()
        except TimeoutError:
            text = f"the message took longer than {self._read_timeout:.0f} s"
            self._on_reject("slow", peer, text)
            raise StatusError(Code.DEADLINE_EXCEEDED, text) from None
        if message is not grpc.aio.EOF:
            body: bytes = message
            return body
        if context.peer():
            self._on_reject("incomplete", peer, _NO_MESSAGE)
            raise StatusError(Code.INVALID_ARGUMENT, _NO_MESSAGE)
        text = f"message is larger than {self._limit} bytes"
        self._on_reject("msg_too_large", peer, text)
        raise StatusError(Code.RESOURCE_EXHAUSTED, text)

    async def _unknown(self, method: str, _requests: object, context: Any) -> bytes:
        text = f"unknown method {method[:200]!r}"
        self._on_reject("unknown_method", peer_of_grpc(context.peer()), text)
        return await _abort(context, _failure(StatusError(Code.UNIMPLEMENTED, text)))

    def _refusal(self, amount: int, peer: str) -> K8sTraceError:
        refusal = self._admission.refusal(amount, host_of(peer))
        self._on_reject("memory", peer, str(refusal))
        return refusal


class _Methods(grpc.GenericRpcHandler):
    """Finds the handler of a method. All are streaming ones to core, which then leaves
    reading the message to them."""

    def __init__(self, methods: Mapping[str, Any], unknown: Any) -> None:
        self._methods: dict[str, Any] = {
            path: grpc.stream_unary_rpc_method_handler(method)
            for path, method in methods.items()
        }
        self._unknown = unknown

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        found = self._methods.get(method)
        if found is not None:
            return found
        return grpc.stream_unary_rpc_method_handler(partial(self._unknown, method))


_Failure = tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]


def _failure(status: StatusError) -> _Failure:
    details = status.details()
    pairs = ((_DETAILS, details),) if details else ()
    return _CODES[status.code], status.message, pairs


async def _abort(context: Any, failure: _Failure) -> bytes:
    await context.abort(*failure)
    raise AssertionError("abort returned")


def _metadata(context: Any, without: str | None) -> Metadata:
    return tuple(
        (key, value)
        for key, value in context.invocation_metadata() or ()
        if isinstance(value, str) and key != without
    )


def _first(context: Any, name: str) -> bytes | None:
    """What the first header of this name has."""
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, bytes) else str(value).encode()
    return None


def _server_options(settings: ServerSettings) -> Options:
    keepalive = settings.keepalive
    options: Options = [
        ("grpc.so_reuseport", int(settings.reuse_port)),
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", _GZIP_AND_NONE),
        ("grpc.max_receive_message_length", min(settings.max_message_size, _INT_MAX)),
        ("grpc.keepalive_permit_without_calls", int(keepalive.permit_without_stream)),
    ]
    if settings.max_concurrent_streams:
        options.append(("grpc.max_concurrent_streams", settings.max_concurrent_streams))
        # Else core counts streams that are over, and refuses clients that keep the limit.
        options.append(("grpc.http.overload_protection", 0))
    return options + _milliseconds(
        ("grpc.max_connection_idle_ms", keepalive.max_connection_idle),
        ("grpc.max_connection_age_ms", keepalive.max_connection_age),
        ("grpc.max_connection_age_grace_ms", keepalive.max_connection_age_grace),
        ("grpc.keepalive_time_ms", keepalive.time),
        ("grpc.keepalive_timeout_ms", keepalive.timeout),
        ("grpc.http2.min_ping_interval_without_data_ms", keepalive.min_time),
    )


def _milliseconds(*options: tuple[str, Duration | None]) -> Options:
    """Channel options from durations; none and zero leave core's default."""
    return [
        (name, min(max(round(seconds * 1000), 1), _INT_MAX))
        for name, seconds in options
        if seconds
    ]


class Client:
    """A `grpc.aio` channel; `grpc.Client` says what its methods promise.

    grpcio has no way to send a message that is compressed already, so gzip is core's own:
    zlib at its default level, about ten times the CPU of ours. It has neither zstd nor
    snappy.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._tls = None if settings.tls is None else contexts(settings.tls)
        self._compression = (
            grpc.Compression.Gzip
            if settings.compression == "gzip"
            else grpc.Compression.NoCompression
        )
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}

    async def start(self) -> None:
        settings = self._settings
        options = _client_options(settings)
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(settings.target, options=options)
            return
        credentials = await in_thread(channel_credentials, self._tls)
        self._channel = grpc.aio.secure_channel(
            settings.target, credentials, options=options
        )

    async def stop(self) -> None:
        channel, self._channel = self._channel, None
        self._methods.clear()
        if channel is not None:
            await channel.close()

    async def call(
        self,
        path: str,
        message: tuple[bytes, ...],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        packed: Packed | None = None,  # noqa: ARG002 - core compresses, at each attempt
    ) -> bytes:
        target = self._settings.target
        channel = self._channel
        if channel is None:
            raise StatusError(Code.UNAVAILABLE, f"{target}: not started")
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = channel.unary_unary(path)
        loop = asyncio.get_running_loop()
        deadline = math.inf if timeout is None else loop.time() + timeout
        try:
            answer: bytes = await method(
                message[0] if len(message) == 1 else b"".join(message),
                timeout=timeout,
                metadata=metadata or None,
                wait_for_ready=self._settings.wait_for_ready,
                compression=self._compression,
            )
        except grpc.aio.AioRpcError as error:
            is_cancelled = error.code() is grpc.StatusCode.CANCELLED
            if is_cancelled and is_over(deadline, loop.time()):
                # The server gave the call up before this side's timer came to it.
                text = f"{target}: the deadline is over"
                raise StatusError(Code.DEADLINE_EXCEEDED, text) from None
            raise _status_error(target, error) from None
        except asyncio.CancelledError:
            # Closing the channel cancels its calls, which is not the caller's cancellation.
            task = asyncio.current_task()
            is_callers = self._channel is channel or task is None or task.cancelling()
            # The task keeps its cancellation, whose frames hold the payload.
            del task
            if is_callers:
                raise
            raise StatusError(Code.UNAVAILABLE, f"{target}: stopped") from None
        return answer


def _status_error(target: str, error: grpc.aio.AioRpcError) -> StatusError:
    trailers: Any = error.trailing_metadata()
    details = trailers.get(_DETAILS) if trailers else None
    delay = retry_delay(details) if isinstance(details, bytes) else None
    return StatusError(Code(error.code().value[0]), f"{target}: {error.details()}", delay)


def _client_options(settings: ClientSettings) -> Options:
    keepalive = settings.keepalive
    service: dict[str, Any] = {"loadBalancingConfig": [{settings.balancer_name: {}}]}
    options: Options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", json.dumps(service)),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", MAX_RESPONSE),
        # Core's own defaults, 1 s to 2 min, would outlast a backend's restart.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", int(keepalive.permit_without_stream)),
    ]
    if settings.user_agent:
        options.append(("grpc.primary_user_agent", settings.user_agent))
    if settings.authority:
        options.append(("grpc.default_authority", settings.authority))
    if settings.tls is not None and settings.tls.server_name_override:
        options.append(("grpc.ssl_target_name_override", settings.tls.server_name_override))
    return options + _milliseconds(
        ("grpc.keepalive_time_ms", keepalive.time),
        ("grpc.keepalive_timeout_ms", keepalive.timeout),
    )
