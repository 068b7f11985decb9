"""OTLP over HTTP/1.1: the `http` protocol of the receiver `otlp`.

It is a server as `k8strace.grpc.Server` says: it admits a request to the byte budget before
its body is read, inflates it within the limit, and asks the same handler as gRPC does.
Whatever goes wrong is answered with a google.rpc.Status, as OTLP demands.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from socket import socket
from typing import Annotated, ClassVar, Literal
from urllib.parse import parse_qs

from google.protobuf.json_format import MessageToJson
from msgspec import Meta

from k8strace._codec import IDENTITY
from k8strace._http1 import Request
from k8strace.addresses import join_address, listen_address, listening_sockets
from k8strace.auth import RETRY_AFTER, Gate, HTTPServerAuth, ServerAuthenticator
from k8strace.budget import Lease
from k8strace.component import Config, no_effect
from k8strace.errors import K8sTraceError, RefusedError, UnauthenticatedError
from k8strace.grpc import (
    DEFAULT_MAX_MESSAGE_SIZE,
    Admission,
    Call,
    Handler,
    Metadata,
    Reject,
    hold_until,
    native_announced,
)
from k8strace.grpc.compression import ACCEPT_ENCODING, CONTENT_ENCODINGS, decompress
from k8strace.grpc.endpoints import (
    bound_address,
    check_endpoint,
    claim_unix,
    listen_unix,
    show_unix,
    unix_path,
)
from k8strace.grpc.native_connection import TLS_COST
from k8strace.grpc.status import REJECT_REASONS, Code, StatusError, status_of
from k8strace.lines import printable
from k8strace.middleware import Middleware
from k8strace.net.http_server import Serving
from k8strace.net.messages import HTTPError, Response
from k8strace.net.site import STEP, Client, Limits
from k8strace.payload import Origin
from k8strace.tls.contexts import Contexts
from k8strace.tls.options import ServerTLS
from k8strace.tls.peers import subject_of
from k8strace.units import Duration

log = logging.getLogger(__name__)

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
ONLY_TRACES = no_effect("only traces are received")
MAX_PATH = 100  # characters of a wrong path that are shown
MAX_CONNECTIONS = 8192  # as many as the native server of gRPC has

_TAKEN = Response(200, b"", PROTOBUF)
_CODES = {
    HTTPStatus.NOT_FOUND: Code.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: Code.UNIMPLEMENTED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    HTTPStatus.NOT_IMPLEMENTED: Code.UNIMPLEMENTED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: Code.UNIMPLEMENTED,
    HTTPStatus.SERVICE_UNAVAILABLE: Code.UNAVAILABLE,
}
"""The codes of HTTP statuses that a request is refused with; INVALID_ARGUMENT of others."""


class HTTPConfig(Config, frozen=True, kw_only=True):
    """The server of OTLP over HTTP; sizes are bytes."""

    not_available: ClassVar[Mapping[str, str]] = {
        "cors": "browsers need a proxy in front that answers for other origins",
        "compression_algorithms": "all of them are taken; leave it out",
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
    read_timeout: Duration = Duration(0)
    write_timeout: Duration = Duration(60)

    def __post_init__(self) -> None:
        check_endpoint(self.endpoint, self.transport)
        for name in (
            *("idle_timeout", "read_header_timeout", "read_timeout", "write_timeout"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")

    @property
    def max_size(self) -> int:
        """The limit of a body as it is decompressed; 0 in the configuration is ours."""
        return self.max_request_body_size or DEFAULT_MAX_MESSAGE_SIZE

    @property
    def path(self) -> str:
        return "/" + self.traces_url_path.removeprefix("/")

    def limits(self, slow_after: float, slow_rate: int) -> Limits:
        return Limits(
            connection=Limits().connection if self.tls is None else TLS_COST,
            read_header_timeout=self.read_header_timeout,
            read_timeout=self.read_timeout,
            write_timeout=self.write_timeout,
            idle_timeout=self.idle_timeout,
            slow_after=slow_after,
            slow_rate=slow_rate,
            keeps_alive=self.keep_alives_enabled,
        )


class Server:
    """Serves POST of one path; a site of `k8strace.net`."""

    def __init__(
        self,
        config: HTTPConfig,
        limits: Limits,
        handler: Handler,
        admission: Admission,
        on_reject: Reject,
        sockets: tuple[socket, ...] = (),
        authenticator: ServerAuthenticator | None = None,
    ) -> None:
        self.on_reject = on_reject
        self.max_body = config.max_size
        self._config = config
        self._limits = limits
        self._gate = None if authenticator is None else Gate(authenticator, admission)
        self._handler = handler
        self._admission = admission
        self._upkeep = admission.budget.upkeep
        self._path = config.path
        self._target = config.path.encode()
        self._sockets = sockets
        self._tls = None if config.tls is None else Contexts(config.tls, ("http/1.1",))
        self._serving: Serving | None = None
        self._now = time.monotonic

    async def start(self) -> str:
        """Listen; returns the address as bound.

        Raises OSError, with the endpoint, and OptionError for what is wrong with `tls`.
        """
        if self._tls is not None:
            await self._tls.load()
        address, sockets = await self._bind()
        self._now = asyncio.get_running_loop().time
        self._serving = Serving(
            *(self, self._limits, sockets),
            has_room=self._has_room,
            tls=self._tls,
            upkeep=self._upkeep,
        )
        self._serving.start()
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

    async def stop(self, grace: float) -> None:
        """Stop listening, let running requests end for `grace` seconds, cancel the rest."""
        serving, self._serving = self._serving, None
        if serving is not None:
            await serving.stop(grace)

    def _has_room(self, connections: int) -> bool:
        if connections < MAX_CONNECTIONS:
            return True
        return self._serving is not None and self._serving.shared.evict()

    # As a site

    def take(self, size: int) -> bool:
        return self._upkeep.take(size)

    def give(self, size: int) -> None:
        self._upkeep.give(size)

    def grow(self, request: Request, size: int) -> bool:
        lease: Lease = request.lease
        total = lease.size + size
        announced = self._admission.budget.coming
        amount, coming = announced.amount(total), request.coming
        if coming is None:
            request.coming = coming = announced.lease(amount, lease.peer)
            if coming is None:
                return False
        elif amount > coming.size and not coming.try_grow(amount - coming.size):
            return False
        return lease.try_grow(size)

    def refusal(self, size: int, client: Client) -> Exception:
        return self._admission.refusal(size, client.host)

    async def admit(self, request: Request, client: Client) -> None:
        try:
            if self._gate is not None:
                await self._authenticate(self._gate, request, client)
            self._check(request)
            if not self._has_room_for(request, client):
                await self._wait_for_room(request, client)
        except K8sTraceError as error:
            self.on_reject(_reason(error), client.peer, _text(error))
            raise

    async def answer(self, request: Request, client: Client) -> Response:
        body, lease = request.body, request.lease
        request.body = b""
        request.lease = request.coming = None
        lease.shrink_to(len(body))
        if request.encoding != IDENTITY:
            try:
                inflated = decompress(request.encoding, body, self.max_body, lease)
                body = inflated if isinstance(inflated, bytes) else await inflated
            except K8sTraceError as error:
                self.on_reject(_reason(error), client.peer, _text(error))
                raise
            except asyncio.CancelledError:
                text = "the connection ended before its body was decompressed"
                self.on_reject("incomplete", client.peer, text)
                raise
        origin = self._origin(request, client)
        if origin.metadata and not lease.attach(request.cost):
            refusal = self._admission.refusal(request.cost, client.host)
            self.on_reject("memory", client.peer, str(refusal))
            raise refusal
        call = Call(body, origin, lease, None, request.wait_until)
        del body, lease
        answer = await self._handler(call)
        return Response(200, answer, PROTOBUF) if answer else _TAKEN

    def failure(self, error: BaseException, request: Request | None) -> Response:
        headers: list[tuple[str, str]] = []
        if isinstance(error, HTTPError):
            http = error.status
            code = _CODES.get(http, Code.INVALID_ARGUMENT)
            headers += error.headers
            status = StatusError(code, str(error), error.retry_after)
        else:
            if not isinstance(error, K8sTraceError):
                log.error("the handler of a request failed", exc_info=error)
            status = status_of(error)
            http = status.http_status
        if status.retry_delay is not None and http in (
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ):
            headers.append(("Retry-After", str(max(1, math.ceil(status.retry_delay)))))
        if http == HTTPStatus.UNAUTHORIZED and self._gate is not None:
            headers.append(("WWW-Authenticate", self._gate.challenge))
        proto = status.proto()
        if request is not None and _media_type(request) == JSON:
            body = MessageToJson(proto, indent=None).encode()
            return Response(http, body, JSON, tuple(headers))
        return Response(http, proto.SerializeToString(), PROTOBUF, tuple(headers))

    async def _authenticate(self, gate: Gate, request: Request, client: Client) -> None:
        """Find out who calls; raises UnauthenticatedError or RefusedError."""
        value = request.get(gate.header.encode())
        auth = self._config.auth
        if value is None and auth is not None and gate.header in auth.request_params:
            found = parse_qs(request.query).get(gate.header)
            value = found[0].encode() if found else None
        try:
            caller = gate.recall(value)
            if caller is None:
                await asyncio.sleep(0)  # it goes on in a task, which timeouts are for
                caller = await gate.admit(value, None, client.peer)
            elif caller.denial is not None:
                raise UnauthenticatedError(caller.denial)
        except RefusedError as error:
            raise HTTPError(
                *(HTTPStatus.SERVICE_UNAVAILABLE, "auth_unavailable", str(error)),
                error.retry_after or RETRY_AFTER,
            ) from error
        request.caller = caller

    def _check(self, request: Request) -> None:
        """Find out how the body is encoded. Raises HTTPError for what is not OTLP."""
        if request.target != self._target and request.path != self._path:
            path = printable(request.path, MAX_PATH)
            text = f"{path} is not served: send traces, and only traces, to {self._path}"
            raise HTTPError(HTTPStatus.NOT_FOUND, "unknown_method", text)
        if request.method != b"POST":
            method = request.method.decode()
            text = f"method {method} is not allowed, only POST"
            status, headers = HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", "POST"),)
            raise HTTPError(status, "unknown_method", text, headers=headers)
        kind = _media_type(request)
        if kind != PROTOBUF:
            text = f"content type {kind[:128]!r} is not supported: send {PROTOBUF}"
            raise _unsupported(text, "Accept", PROTOBUF)
        if request.get(b"content-encoding") is None:
            return
        # Several lines are one list of codings, applied in turn (RFC 9110, 8.4).
        names = [value for key, value in request.headers if key == b"content-encoding"]
        encoding = b", ".join(names).decode("latin-1").lower()
        if encoding not in CONTENT_ENCODINGS:
            text = (
                f"content encoding {encoding[:128]!r} is not supported: "
                f"send one of {ACCEPT_ENCODING}"
            )
            raise _unsupported(text, "Accept-Encoding", ACCEPT_ENCODING)
        request.encoding = CONTENT_ENCODINGS[encoding]

    def _has_room_for(self, request: Request, client: Client) -> bool:
        """Have room for a body, if there is some now. Raises StatusError."""
        size = request.length
        if size > self.max_body:
            text = f"message is larger than {self.max_body} bytes"
            raise StatusError(Code.RESOURCE_EXHAUSTED, text)
        request.wait_until = hold_until(self._now(), None)
        if self._admission.pace():
            return False
        if size < 0:
            size = min(STEP, self.max_body)
        missing = 1 if request.length < 0 else max(size - request.here, 0)
        leases = native_announced.reserve(self._admission, client.host, size, missing)
        if leases is None:
            return False
        both = leases if isinstance(leases, tuple) else (leases, None)
        request.lease, request.coming = both
        return True

    async def _wait_for_room(self, request: Request, client: Client) -> None:
        """Have room for a body, or raise RefusedError."""
        admission, host = self._admission, client.host
        size = min(STEP, self.max_body) if request.length < 0 else request.length
        if pause := admission.pace():
            await asyncio.sleep(pause)
        until = request.wait_until
        leases: native_announced.Leases | None
        if 0 <= request.length <= request.here:
            leases = await admission.admit(size, host, until)
        else:
            leases = await native_announced.admit(admission, size, host, until)
        if leases is None:
            raise admission.refusal(size, host)
        both = leases if isinstance(leases, tuple) else (leases, None)
        request.lease, request.coming = both

    def _origin(self, request: Request, client: Client) -> Origin:
        origin: Origin | None = client.extra
        if origin is None:
            subject = None if self._tls is None else subject_of(client.transport)
            client.extra = origin = Origin(client.peer, subject)
        caller = request.caller
        metadata: Metadata = ()
        if self._config.include_metadata:
            metadata = _metadata(request, None if self._gate is None else self._gate.header)
        if metadata or caller is not None:
            subject = origin.subject
            groups: tuple[str, ...] = ()
            if caller is not None:
                subject, groups = caller.subject or subject, caller.groups
            return Origin(origin.peer, subject, metadata, groups)
        return origin


def _unsupported(text: str, header: str, value: str) -> HTTPError:
    """A media type or an encoding that is not taken, and what is (RFC 9110, 12.5)."""
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return HTTPError(status, "unsupported", text, headers=((header, value),))


def _reason(error: K8sTraceError) -> str:
    if isinstance(error, HTTPError):
        return error.reason
    if isinstance(error, UnauthenticatedError):
        return "unauthenticated"
    return REJECT_REASONS[status_of(error).code]


def _text(error: K8sTraceError) -> str:
    return str(error) if isinstance(error, HTTPError) else status_of(error).message


def _media_type(request: Request) -> str:
    value = request.get(b"content-type")
    if value is None:
        return ""
    text = value.decode("latin-1")
    if text == PROTOBUF:
        return text
    return text.partition(";")[0].strip().lower()


def _metadata(request: Request, without: str | None) -> Metadata:
    pairs = ((key.decode("latin-1"), text_of(value)) for key, value in request.headers)
    return tuple(pair for pair in pairs if pair[0] != without)


def text_of(value: bytes) -> str:
    """A header's value as text that always encodes: by UTF-8, else as ISO 8859-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
