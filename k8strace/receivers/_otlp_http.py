"""OTLP over HTTP/1.1: the `http` protocol of the receiver `otlp`.

It is a server as `k8strace.grpc.Server` says: it admits a request to the byte budget before
its body is read, inflates it within the limit, and asks the same handler as gRPC does.
Whatever goes wrong is answered with a google.rpc.Status, as OTLP demands.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from socket import socket
from typing import Annotated, ClassVar, Literal

from aiohttp import ClientPayloadError, hdrs, web
from msgspec import Meta

from k8strace.addresses import join_address, listen_address, listening_sockets
from k8strace.auth import NOBODY, Gate, HTTPServerAuth, ServerAuthenticator, Verdict
from k8strace.budget import Lease
from k8strace.component import Config, no_effect
from k8strace.errors import K8sTraceError, RefusedError, UnauthenticatedError
from k8strace.grpc import (
    DEFAULT_MAX_MESSAGE_SIZE,
    SLOW_AFTER,
    SLOW_RATE,
    Admission,
    Call,
    Handler,
    Metadata,
    Reject,
    hold_until,
)
from k8strace.grpc.compression import ACCEPT_ENCODING, CONTENT_ENCODINGS, decompress
from k8strace.grpc.endpoints import (
    HTTP_PORT,
    bound_address,
    check_endpoint,
    claim_unix,
    host_of,
    listen_unix,
    peer_of_socket,
    show_unix,
    unix_path,
)
from k8strace.grpc.native_listener import Listener
from k8strace.grpc.status import REJECT_REASONS, Code, StatusError, status_of
from k8strace.http_server import malformed
from k8strace.middleware import Middleware
from k8strace.payload import Origin
from k8strace.receivers._http_connection import Connection
from k8strace.tls.contexts import Contexts
from k8strace.tls.options import ServerTLS
from k8strace.tls.peers import PLAINTEXT_PORT, subject_of
from k8strace.units import Duration

log = logging.getLogger(__name__)

PROTOBUF = "application/x-protobuf"
MAX_CONNECTIONS = 8192  # as many as the native server of gRPC has
STEP = 64 * 1024  # bytes that a body of unknown length reserves at a time
LINGER = (
    2.0  # seconds for which the rest of a refused body is read, so that the answer arrives
)
_CLOSE = 0.1  # seconds for connections whose requests have ended
# What aiohttp says of a handshake of TLS, or what of one is in what it says.
_TLS_CLIENT = re.compile(r"HTTPS traffic|\\x16\\x03")
_GRPC_CLIENT = re.compile(r"\bPRI\b")
ONLY_TRACES = no_effect("only traces are received")
FOR_EVER = 10.0 * 365 * 86400  # seconds


class HTTPConfig(Config, frozen=True, kw_only=True):
    """The server of OTLP over HTTP; sizes are bytes."""

    not_available: ClassVar[Mapping[str, str]] = {
        "cors": "browsers need a proxy in front that answers for other origins",
        "compression_algorithms": "all of them are taken; leave it out",
        "read_timeout": "slow bodies are ended by their rate; leave it out",
        "write_timeout": "leave it out",
        "response_headers": "add them in a proxy in front",
    }

    endpoint: str = "localhost:4318"
    transport: Literal["tcp", "unix"] = "tcp"
    traces_url_path: str = "/v1/traces"
    metrics_url_path: Annotated[str, ONLY_TRACES] = "/v1/metrics"
    logs_url_path: Annotated[str, ONLY_TRACES] = "/v1/logs"
    max_request_body_size: Annotated[int, Meta(ge=0)] = 0
    include_metadata: bool = False
    tls: ServerTLS | None = None
    auth: HTTPServerAuth | None = None
    middlewares: tuple[Middleware, ...] = ()
    keep_alives_enabled: bool = True
    idle_timeout: Duration = Duration(0)
    read_header_timeout: Duration = Duration(20)

    def __post_init__(self) -> None:
        check_endpoint(self.endpoint, self.transport)
        for name in ("idle_timeout", "read_header_timeout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")

    @property
    def max_size(self) -> int:
        """The limit of a body as it is decompressed; 0 in the configuration is ours."""
        return self.max_request_body_size or DEFAULT_MAX_MESSAGE_SIZE

    @property
    def path(self) -> str:
        return "/" + self.traces_url_path.removeprefix("/")


class _HTTPError(StatusError):
    """A status with an HTTP status that its gRPC code doesn't stand for."""

    def __init__(self, http: HTTPStatus, code: Code, reason: str, message: str) -> None:
        super().__init__(code, message)
        self._http = http
        self.reason = reason

    @property
    def http_status(self) -> HTTPStatus:
        return self._http


class Server:
    """Serves POST of one path."""

    def __init__(
        self,
        config: HTTPConfig,
        handler: Handler,
        admission: Admission,
        on_reject: Reject,
        sockets: tuple[socket, ...] = (),
        authenticator: ServerAuthenticator | None = None,
    ) -> None:
        self._config = config
        self._gate = None if authenticator is None else Gate(authenticator, admission)
        self._handler = handler
        self._admission = admission
        self._on_reject = on_reject
        self._path = config.path
        self._limit = config.max_size
        self._sockets = sockets
        self._web: web.Server | None = None
        self._tls = None if config.tls is None else Contexts(config.tls, ("http/1.1",))
        self._listeners: list[Listener] = []
        self._running: set[asyncio.Task[object]] = set()

    async def start(self) -> str:
        """Listen; returns the address as bound.

        Raises OSError, with the endpoint, and OptionError for what is wrong with `tls`.
        """
        config = self._config
        if self._tls is not None:
            self._tls.load()
        server = web.Server(self._handle, handler_cancellation=True)
        options = {
            "access_log": None,
            "logger": _parser_log(self._on_reject),
            "auto_decompress": False,
            "lingering_time": LINGER,
            "keepalive_timeout": float(config.idle_timeout) or FOR_EVER,
        }

        def connection() -> Connection:
            timeout = float(config.read_header_timeout)
            return Connection(server, timeout, self._on_reject, options)

        address, sockets = await self._bind()
        self._web = server
        self._listeners = [
            Listener(one, connection, self._tls, self._has_room, self._on_reject)
            for one in sockets
        ]
        for listener in self._listeners:
            listener.start()
        return address

    async def _bind(self) -> tuple[str, Sequence[socket]]:
        endpoint = self._config.endpoint
        if self._sockets:
            return bound_address(endpoint, self._sockets[0]), self._sockets
        if self._config.transport == "unix":
            path = unix_path(endpoint)
            claim_unix(path)
            return show_unix(path), [listen_unix(path)]
        sockets = await listening_sockets(*listen_address(endpoint))
        return join_address(*sockets[0].getsockname()[:2]), sockets

    def _has_room(self) -> bool:
        connecting = sum(listener.connecting for listener in self._listeners)
        web_server = self._web
        have = 0 if web_server is None else len(web_server.connections)
        return have + connecting < MAX_CONNECTIONS

    async def stop(self, grace: float) -> None:
        """Stop listening, let running requests end for `grace` seconds, cancel the rest."""
        listeners, self._listeners = self._listeners, []
        server, self._web = self._web, None
        if server is None:
            return
        for listener in listeners:
            await listener.stop()
        server.pre_shutdown()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=max(grace, 0.0))
            for task in late:
                task.cancel()
        await server.shutdown(_CLOSE)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.begin()
        try:
            return await self._respond(request)
        finally:
            connection.end(request)
            self._running.discard(task)
            del task  # it keeps its cancellation, whose frames hold the payload

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        try:
            answer = await self._answer(request)
            response = web.Response(body=answer, content_type=PROTOBUF)
        except K8sTraceError as error:
            response = _failure(status_of(error))
            error.__traceback__ = None  # as in k8strace.grpc.grpcio
        except Exception as error:
            log.exception("the handler of a request failed")
            response = _failure(status_of(error))
            error.__traceback__ = None
        if response.status == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers[hdrs.ALLOW] = hdrs.METH_POST
        if response.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            if _content_encoding(request) in CONTENT_ENCODINGS:
                response.headers[hdrs.ACCEPT] = PROTOBUF
            else:
                response.headers[hdrs.ACCEPT_ENCODING] = ACCEPT_ENCODING
        if response.status == HTTPStatus.UNAUTHORIZED and self._gate is not None:
            response.headers[hdrs.WWW_AUTHENTICATE] = self._gate.challenge
        if not self._config.keep_alives_enabled:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> bytes:
        transport = request.transport
        peer = peer_of_socket(transport.get_extra_info("peername") if transport else None)
        wait_until = hold_until(asyncio.get_running_loop().time(), None)
        gate = self._gate
        caller = NOBODY
        if gate is not None:
            caller = await self._authenticate(gate, request, peer)
        try:
            encoding = self._check(request)
            body, lease = await self._read(request, peer, wait_until)
            if encoding:
                inflated = decompress(encoding, body, self._limit, lease)
                body = inflated if isinstance(inflated, bytes) else await inflated
        except K8sTraceError as error:
            self._on_reject(_reason(error), peer, status_of(error).message)
            raise
        except asyncio.CancelledError:
            self._on_reject(
                "incomplete", peer, "the connection ended before its body was here"
            )
            raise
        metadata: Metadata = ()
        if self._config.include_metadata:
            metadata = _metadata(request, None if gate is None else gate.header)
        subject = caller.subject
        if subject is None and self._tls is not None and transport:
            subject = subject_of(transport)
        origin = Origin(peer, subject, metadata, caller.groups)
        call = Call(body, origin, lease, None, wait_until)
        del body, lease
        return await self._handler(call)

    async def _authenticate(
        self, gate: Gate, request: web.BaseRequest, peer: str
    ) -> Verdict:
        """Who calls; raises UnauthenticatedError or RefusedError."""
        value = request.headers.get(gate.header)
        auth = self._config.auth
        if value is None and auth is not None and gate.header in auth.request_params:
            value = request.query.get(gate.header)
        try:
            credential = (value or "").encode("utf-8", "surrogateescape")
            return await gate.admit(credential, None, peer)
        except UnauthenticatedError as error:
            self._on_reject("unauthenticated", peer, str(error))
            raise
        except RefusedError as error:
            self._on_reject("auth_unavailable", peer, str(error))
            raise
        except asyncio.CancelledError:
            text = "the connection ended before its caller was authenticated"
            self._on_reject("incomplete", peer, text)
            raise

    def _check(self, request: web.BaseRequest) -> int:
        """The body's encoding. Raises _HTTPError for what is no OTLP request."""
        if request.path != self._path:
            raise _HTTPError(
                HTTPStatus.NOT_FOUND,
                Code.NOT_FOUND,
                "unknown_method",
                f"nothing here: POST {self._path}",
            )
        if request.method != hdrs.METH_POST:
            raise _HTTPError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                Code.UNIMPLEMENTED,
                "unknown_method",
                f"method {request.method[:32]} is not allowed, only POST",
            )
        if request.content_type != PROTOBUF:
            raise _HTTPError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                Code.INVALID_ARGUMENT,
                "unsupported",
                f"content type {request.content_type[:128]!r} is not supported: "
                f"send {PROTOBUF}",
            )
        name = _content_encoding(request)
        encoding = CONTENT_ENCODINGS.get(name)
        if encoding is None:
            raise _HTTPError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                Code.INVALID_ARGUMENT,
                "unsupported",
                f"content encoding {name[:128]!r} is not supported: "
                f"send one of {ACCEPT_ENCODING}",
            )
        return encoding

    async def _read(
        self, request: web.BaseRequest, peer: str, wait_until: float
    ) -> tuple[bytes, Lease]:
        """The body as it came, and the lease that holds it."""
        length = request.content_length
        if length is None:
            length = STEP if request.body_exists else 0
        elif length > self._limit:
            raise self._too_large()
        host = host_of(peer)
        if pause := self._admission.pace():
            await asyncio.sleep(pause)
        lease = await self._admission.admit(length, host, wait_until)
        if lease is None:
            raise self._admission.refusal(length, host)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts: list[bytes] = []
        size = 0
        begin = asyncio.get_running_loop().time() + SLOW_AFTER
        try:
            async with asyncio.timeout_at(begin) as timer:
                async for part in request.content.iter_any():
                    size += len(part)
                    if size > self._limit:
                        raise self._too_large()
                    if size > lease.size and not lease.try_grow(
                        max(STEP, size - lease.size)
                    ):
                        raise self._admission.refusal(STEP, host)
                    parts.append(part)
                    timer.reschedule(begin + size / SLOW_RATE)
        except TimeoutError:
            raise _HTTPError(
                HTTPStatus.REQUEST_TIMEOUT,
                Code.DEADLINE_EXCEEDED,
                "slow",
                f"the body comes slower than {SLOW_RATE} bytes a second",
            ) from None
        except (ClientPayloadError, ConnectionError) as error:
            raise _HTTPError(
                HTTPStatus.BAD_REQUEST,
                Code.INVALID_ARGUMENT,
                "incomplete",
                f"incomplete body: {error}",
            ) from None
        lease.shrink_to(size)
        return parts[0] if len(parts) == 1 else b"".join(parts), lease

    def _too_large(self) -> StatusError:
        return StatusError(
            Code.RESOURCE_EXHAUSTED, f"message is larger than {self._limit} bytes"
        )


class _ParserErrors(logging.Handler):
    """Tells of requests that aiohttp refuses because they are no HTTP."""

    def __init__(self, on_reject: Reject) -> None:
        super().__init__()
        self._on_reject = on_reject

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None:
            peer = str(record.args[0]) if isinstance(record.args, tuple) else "unknown"
            text = " ".join(str(record.exc_info[1]).split())
            if _TLS_CLIENT.search(text):
                self._on_reject("tls", peer, PLAINTEXT_PORT)
            elif _GRPC_CLIENT.search(text):
                self._on_reject("decode_error", peer, HTTP_PORT)
            else:
                self._on_reject("decode_error", peer, malformed(record.exc_info[1]))


def _parser_log(on_reject: Reject) -> logging.Logger:
    """What aiohttp logs to: by itself it writes a traceback for each malformed request."""
    logger = logging.Logger(__name__, logging.DEBUG)  # noqa: LOG001  (one for each server)
    logger.addHandler(_ParserErrors(on_reject))
    return logger


def _content_encoding(request: web.BaseRequest) -> str:
    return request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()


def _reason(error: K8sTraceError) -> str:
    if isinstance(error, _HTTPError):
        return error.reason
    return REJECT_REASONS[status_of(error).code]


def _failure(status: StatusError) -> web.Response:
    headers = {}
    http = status.http_status
    if status.retry_delay is not None and http in (
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ):
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(status.retry_delay)))
    return web.Response(
        status=http,
        body=status.proto().SerializeToString(),
        content_type=PROTOBUF,
        headers=headers,
    )


def _metadata(request: web.BaseRequest, without: str | None) -> Metadata:
    pairs = ((key.lower(), value) for key, value in request.headers.items())
    return tuple(pair for pair in pairs if pair[0] != without)
