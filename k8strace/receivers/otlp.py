"""otlp: takes traces over gRPC and over HTTP, as the OpenTelemetry protocol says.

Spans that cannot be right (ids of a wrong length or of zeros; with `validate: deep` also
text that is not UTF-8) are cut out of a request and reported to its sender as partial
success; the others go on. A request that is no OTLP at all is refused whole.

`otelcol_receiver_accepted_spans` counts the spans that went on, `refused` those that
something behind refused or that were cut out, `failed` those lost to a defect of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from socket import socket
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)

from k8strace import component, passes
from k8strace._fastpath import AT_ONCE, Cleaning, Count, count
from k8strace.auth import ServerAuth, ServerAuthenticator, server_authenticator
from k8strace.component import NO_EFFECT, Context, Endpoint, Outlet, Receiver
from k8strace.drops import Sender, sender_of, services
from k8strace.errors import (
    MalformedPayloadError,
    OptionError,
    Reason,
    RefusedError,
    RejectedError,
    is_passing,
    passing_refusal,
)
from k8strace.grpc import (
    DEFAULT_MAX_MESSAGE_SIZE,
    REJECT_REASONS,
    SLOW_AFTER,
    SLOW_RATE,
    Call,
    ServerKeepalive,
    ServerSettings,
)
from k8strace.grpc.endpoints import bound_address, check_endpoint
from k8strace.grpc.engines import Engine, server_factory
from k8strace.metrics import (
    RECEIVER_ACCEPTED_SPANS,
    RECEIVER_FAILED_SPANS,
    RECEIVER_REFUSED_SPANS,
    REQUESTS_REJECTED,
    SPANS_REJECTED,
    Metrics,
)
from k8strace.middleware import Middleware, admission
from k8strace.payload import Payload
from k8strace.receivers import _otlp_http
from k8strace.receivers._otlp_http import HTTPConfig
from k8strace.tls.options import ServerTLS
from k8strace.units import MIB, Duration

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PASSED_ON = (RefusedError, RejectedError, asyncio.CancelledError)  # to the sender


class ServerParameters(component.Config, frozen=True, kw_only=True):
    max_connection_idle: Duration | None = None
    max_connection_age: Duration | None = None
    max_connection_age_grace: Duration | None = None
    time: Duration | None = None
    timeout: Duration | None = None


class EnforcementPolicy(component.Config, frozen=True, kw_only=True):
    min_time: Duration | None = None
    permit_without_stream: bool = False


class Keepalive(component.Config, frozen=True, kw_only=True):
    server_parameters: ServerParameters = ServerParameters()
    enforcement_policy: EnforcementPolicy = EnforcementPolicy()

    def settings(self) -> ServerKeepalive:
        given, policy = self.server_parameters, self.enforcement_policy
        return ServerKeepalive(
            max_connection_idle=given.max_connection_idle,
            max_connection_age=given.max_connection_age,
            max_connection_age_grace=given.max_connection_age_grace,
            time=given.time,
            timeout=given.timeout,
            min_time=policy.min_time,
            permit_without_stream=policy.permit_without_stream,
        )


class GRPCConfig(component.Config, frozen=True, kw_only=True):
    """The server of OTLP over gRPC. Zero is the default of a limit, as in the collector.

    `engine`, which is ours, says by what HTTP/2 is spoken.
    """

    endpoint: str = "localhost:4317"
    transport: Literal["tcp", "unix"] = "tcp"
    max_recv_msg_size_mib: Annotated[int, Meta(ge=0, le=2047)] = 64
    max_concurrent_streams: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    dialer: Annotated[dict[str, Any], NO_EFFECT] = msgspec.field(default_factory=dict)
    read_buffer_size: Annotated[int, NO_EFFECT] = 0
    write_buffer_size: Annotated[int, NO_EFFECT] = 0
    keepalive: Keepalive = Keepalive()
    include_metadata: bool = False
    tls: ServerTLS | None = None
    auth: ServerAuth | None = None
    middlewares: tuple[Middleware, ...] = ()
    engine: Engine = "native"

    def __post_init__(self) -> None:
        check_endpoint(self.endpoint, self.transport)
        if self.tls is not None and self.engine != "native":
            for name in self.tls.needs_native():
                raise ValueError(f"`tls`: `{name}` needs `engine: native`")

    @property
    def can_be_shared(self) -> bool:
        """Whether several processes can listen there."""
        return self.transport == "tcp" or self.engine == "native"

    def settings(
        self,
        sockets: tuple[socket, ...] = (),
        authenticator: ServerAuthenticator | None = None,
        slow_after: float = SLOW_AFTER,
        slow_rate: int = SLOW_RATE,
    ) -> ServerSettings:
        endpoint, reuse_port = self.endpoint, False
        if sockets and self.engine == "grpcio":
            # Core takes no sockets: it shares the port that these keep for it.
            endpoint, reuse_port = bound_address(self.endpoint, sockets[0]), True
            sockets = ()
        return ServerSettings(
            endpoint=endpoint,
            reuse_port=reuse_port,
            transport=self.transport,
            max_message_size=self.max_recv_msg_size_mib * MIB or DEFAULT_MAX_MESSAGE_SIZE,
            max_concurrent_streams=self.max_concurrent_streams or None,
            keepalive=self.keepalive.settings(),
            include_metadata=self.include_metadata,
            slow_after=slow_after,
            slow_rate=slow_rate,
            sockets=sockets,
            tls=self.tls,
            authenticator=authenticator,
        )


class Protocols(component.Config, frozen=True, kw_only=True):
    """A protocol is served when it is named, if only as `grpc:`."""

    grpc: GRPCConfig | None = None
    http: HTTPConfig | None = None


class Config(component.Config, frozen=True, kw_only=True):
    """`validate` says how deep each span is checked: down to its ids, or to every leaf.

    A request's body has `slow_body_after`, and a second more for each `slow_body_rate`
    bytes of it that have come; with a rate of 0 it has all the time.
    """

    protocols: Protocols = Protocols()
    validate: Literal["span", "deep"] = "span"
    slow_body_after: Duration = Duration(SLOW_AFTER)
    slow_body_rate: Annotated[int, Meta(ge=0)] = SLOW_RATE

    def __post_init__(self) -> None:
        if self.slow_body_after < 0:
            raise ValueError(
                f"slow_body_after must not be negative: {self.slow_body_after}"
            )
        if self.protocols.grpc is None and self.protocols.http is None:
            raise ValueError(
                "must specify at least one protocol when using the OTLP receiver: "
                "protocols has neither grpc nor http"
            )


class _Server(Protocol):
    async def start(self) -> str: ...

    async def stop(self, grace: float) -> None: ...


class _Counts:
    """The collector's counters of one transport."""

    def __init__(self, metrics: Metrics, label: str, transport: str) -> None:
        self.accepted = metrics.counter(RECEIVER_ACCEPTED_SPANS, label, transport)
        self.refused = metrics.counter(RECEIVER_REFUSED_SPANS, label, transport)
        self.failed = metrics.counter(RECEIVER_FAILED_SPANS, label, transport)


class OTLP(Receiver[Config]):
    """One server for each protocol, shared by all pipelines that name the receiver.

    `addresses` says where they listen, by protocol.
    """

    type_name = "otlp"
    config_type = Config

    def __init__(self, config: Config, context: Context, downstream: Outlet) -> None:
        super().__init__(config, context, downstream)
        self.addresses: dict[str, str] = {}
        self._deep = config.validate == "deep"
        self._rejected = {
            reason: context.metrics.counter(REQUESTS_REJECTED, context.label, reason)
            for reason in REJECT_REASONS
        }
        self._servers: dict[str, _Server] = {}
        self._counts = {
            transport: _Counts(context.metrics, context.label, transport)
            for transport in ("grpc", "http")
        }
        grpc, http = config.protocols.grpc, config.protocols.http
        sockets = context.worker.sockets.get(context.label, {})
        if grpc is not None:
            export = partial(self._export, self._counts["grpc"])
            self._servers["grpc"] = server_factory(grpc.engine)(
                grpc.settings(
                    sockets.get("grpc", ()),
                    server_authenticator(grpc.auth, context),
                    config.slow_body_after,
                    config.slow_body_rate,
                ),
                {EXPORT: export},
                admission(grpc.middlewares, context),
                self._reject,
            )
        if http is not None:
            export = partial(self._export, self._counts["http"])
            self._servers["http"] = _otlp_http.Server(
                http,
                http.limits(config.slow_body_after, config.slow_body_rate),
                export,
                admission(http.middlewares, context),
                self._reject,
                sockets.get("http", ()),
                server_authenticator(http.auth, context),
            )
        if context.worker.workers > 1 and grpc and not grpc.can_be_shared:
            raise ValueError(
                "protocols::grpc: engine: grpcio cannot share a Unix socket among several "
                "workers; write engine: native"
            )

    def endpoints(self) -> Mapping[str, Endpoint]:
        grpc, http = self.config.protocols.grpc, self.config.protocols.http
        found = {}
        if grpc is not None:
            adopts = grpc.engine != "grpcio"
            found["grpc"] = Endpoint(grpc.endpoint, grpc.transport, adopts)
        if http is not None:
            found["http"] = Endpoint(http.endpoint, http.transport)
        return found

    @property
    def without_metadata(self) -> Sequence[str]:
        protocols = self.config.protocols
        served = {"grpc": protocols.grpc, "http": protocols.http}
        return [
            f"protocols::{name}"
            for name, one in served.items()
            if one is not None and not one.include_metadata
        ]

    async def start(self) -> None:
        try:
            for protocol, server in self._servers.items():
                try:
                    self.addresses[protocol] = await server.start()
                except OptionError as error:
                    raise error.below(f"protocols::{protocol}::tls") from error
        except BaseException:
            await self.stop(0)
            raise
        for protocol, address in self.addresses.items():
            config = getattr(self.config.protocols, protocol)
            secured = " with TLS" if config.tls is not None else ""
            self.log.info("%s on %s%s", protocol, address, secured)

    async def stop(self, deadline: float) -> None:
        grace = deadline - asyncio.get_running_loop().time()
        await asyncio.gather(*(server.stop(grace) for server in self._servers.values()))
        self.addresses.clear()

    async def _export(self, counts: _Counts, call: Call) -> bytes:
        """Take a request; the answer is an ExportTraceServiceResponse."""
        chunks: tuple[bytes, ...] = (call.message,)
        try:
            if len(call.message) <= AT_ONCE:
                found = count(chunks, self._deep)
            else:
                found = await passes.count(chunks, deep=self._deep)
        except MalformedPayloadError as error:
            self._reject("decode_error", call.origin.peer, str(error))
            raise
        except MemoryError as error:
            refusal = passing_refusal(self.context.label, error)
            self._reject("memory", call.origin.peer, str(refusal))
            raise refusal from None
        spans, bad = found.spans, found.bad_ids + found.bad_text + found.too_deep
        self.ledger.receive(spans + bad)
        payload = Payload(
            chunks, spans, len(call.message), call.origin, (), call.lease, call.wait_until
        )
        first_bad = 0
        try:
            if bad:
                payload, first_bad = await self._cleaned(payload)
            if spans:
                await self.downstream(payload)
        except (Exception, asyncio.CancelledError) as error:
            if is_passing(error):
                refusal = passing_refusal(self.context.label, error)
                self._count_failure(counts, spans + bad, refusal, payload)
                raise refusal from None
            self._count_failure(counts, spans + bad, error, payload)
            if isinstance(error, PASSED_ON):
                raise
            raise RejectedError("internal error", "internal_error") from error
        counts.accepted.add(spans)
        if not bad:
            return b""
        return self._partial_success(counts, call, found, first_bad)

    async def _cleaned(self, payload: Payload) -> tuple[Payload, int]:
        """`payload` without its bad spans, and the number of the first of them."""
        cleaning = Cleaning(payload.chunks, self._deep)
        lease = await passes.complete(cleaning, payload.any_lease, payload.wait_until)
        chunks, spans = cleaning.take()
        return payload.replaced(chunks, spans, lease), cleaning.first_lost

    def _count_failure(
        self, counts: _Counts, spans: int, error: BaseException, payload: Payload
    ) -> None:
        """Count a request that did not go on: also what was cut out of it comes again."""
        if isinstance(error, RejectedError):
            ours = error.reason == "internal_error"
            (counts.failed if ours else counts.refused).add(spans)
            self._reject_spans(spans, error.reason, str(error), payload)
        elif isinstance(error, PASSED_ON):
            self.ledger.refused += spans
            counts.refused.add(spans)
            text = str(error) or "their sender went away, or its deadline was over"
            self.drops.tell("refused", spans, "", text, lambda: sender_of(payload))
        else:
            counts.failed.add(spans)
            self._reject_spans(spans, "internal_error", repr(error), payload)
            self.drops.lines.defect("failed on a request of %d spans", spans, error=error)

    def _reject_spans(
        self, spans: int, reason: Reason, text: str, payload: Payload
    ) -> None:
        self.ledger.rejected += spans
        self.context.metrics.counter(SPANS_REJECTED, self.context.label, reason).add(spans)
        self.drops.tell("rejected", spans, reason, text, lambda: sender_of(payload))

    def _partial_success(
        self, counts: _Counts, call: Call, found: Count, first_bad: int
    ) -> bytes:
        invalid: tuple[tuple[int, Reason, str], ...] = (
            (found.bad_ids, "invalid_id", "with an invalid trace or span id"),
            (found.bad_text, "invalid_text", "with text that is not UTF-8"),
            (found.too_deep, "too_deep", "nested too deeply"),
        )
        bad = sum(number for number, _, _ in invalid)
        counts.refused.add(bad)
        total = found.spans + bad
        reasons = [f"{number} {what}" for number, _, what in invalid if number]

        def sender() -> Sender:
            names = services((call.message,))
            return Sender(call.origin.peer, names[first_bad] if names else "")

        for number, reason, what in invalid:
            text = f"of {total} in a request, {number} {what}"
            self.drops.spans(number, reason, text, sender)
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = bad
        answer.partial_success.error_message = (
            f"{bad} of {total} spans dropped: {', '.join(reasons)}"
        )
        return answer.SerializeToString()

    def _reject(self, reason: str, peer: str, text: str) -> None:
        self._rejected[reason].add(1)
        self.drops.tell("requests", 1, reason, text, Sender(peer))
