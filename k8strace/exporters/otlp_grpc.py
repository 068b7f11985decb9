"""otlp_grpc: sends spans to an OTLP/gRPC backend. Also known as `otlp`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)

from k8strace import __version__
from k8strace.addresses import check_host
from k8strace.auth import ClientAuth, client_authenticator
from k8strace.component import NO_EFFECT, Context
from k8strace.component import Config as ComponentConfig
from k8strace.errors import OptionError, RefusedError
from k8strace.exporters._refusals import refusal_of
from k8strace.exporters._sending import (
    SendingConfig,
    SendingExporter,
    Sent,
)
from k8strace.grpc import Client, ClientKeepalive, ClientSettings, Packed
from k8strace.grpc.engines import Engine, client_factory
from k8strace.grpc.status import MAX_MESSAGE, StatusError
from k8strace.headers import OWN, header_name, header_value, is_authority
from k8strace.lines import printable
from k8strace.passes import Spare
from k8strace.payload import Payload
from k8strace.tls.options import ClientTLS
from k8strace.units import MIB, Duration

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
HEADROOM = 1024  # bytes below the limit, for what may be counted besides the spans

_SCHEME = re.compile(r"(https?)://")
_PLACE = re.compile(r"(\[[^\[\]/\s]+\]|[^\[\]:/\s]+):(\d{1,5})")


class KeepaliveConfig(ComponentConfig, frozen=True, kw_only=True):
    """`keepalive`; 0 leaves gRPC's default."""

    time: Duration = Duration(0)
    timeout: Duration = Duration(0)
    permit_without_stream: bool = False


class Config(SendingConfig, frozen=True, kw_only=True):
    """`max_request_size_mib` is ours: larger requests are split, since most backends keep
    gRPC's default limit of 4 MiB and refuse a larger message for good (0: no limit).
    `engine` is ours too: by what HTTP/2 is spoken; and `connections`: how many share the
    calls to each address of the backend."""

    not_available: ClassVar[Mapping[str, str]] = {
        "middlewares": "leave it out",
        "insecure": "write tls::insecure",
        "ca_file": "write tls::ca_file",
        "cert_file": "write tls::cert_file",
        "key_file": "write tls::key_file",
    }

    endpoint: str = ""
    compression: Literal["gzip", "zstd", "snappy", "none", ""] = "gzip"
    tls: ClientTLS = ClientTLS()
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    auth: ClientAuth | None = None
    wait_for_ready: bool = False
    balancer_name: Literal["round_robin", "pick_first"] = "round_robin"
    authority: str = ""
    user_agent: str = ""
    keepalive: KeepaliveConfig = KeepaliveConfig()
    max_request_size_mib: Annotated[int, msgspec.Meta(ge=0)] = 4
    engine: Engine = "native"
    connections: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    read_buffer_size: Annotated[int, NO_EFFECT] = 0
    write_buffer_size: Annotated[int, NO_EFFECT] = 512 * 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.endpoint:
            raise ValueError('requires a non-empty "endpoint"')
        if self.compression in ("zstd", "snappy") and self.engine != "native":
            raise ValueError(f"`compression: {self.compression}` needs `engine: native`")
        self.target()
        if self.uses_tls and self.engine != "native":
            for name in self.tls.needs_native():
                raise ValueError(f"`tls`: `{name}` needs `engine: native`")
        if self.connections > 1 and self.engine != "native":
            raise ValueError("several `connections` need `engine: native`")
        for name, value in self.headers.items():
            try:
                header_name(name)
            except ValueError as error:
                raise ValueError(f"`headers`: {error}") from None
            try:
                header_value(value)
            except ValueError as error:
                raise ValueError(f"`headers`: the value of {name!r} {error}") from None
        try:
            header_value(self.user_agent)
        except ValueError as error:
            raise ValueError(f"`user_agent` {error}") from None
        for option, text in (
            ("authority", self.authority),
            ("tls::server_name_override", self.tls.server_name_override),
        ):
            if text and not is_authority(text):
                raise ValueError(
                    f"`{option}` {text!r} has characters that a host's name cannot have"
                )

    def target(self) -> str:
        """The endpoint as a gRPC name. Raises ValueError for one that is none."""
        endpoint = _SCHEME.sub("", self.endpoint, count=1)
        scheme, _, rest = endpoint.partition(":")
        if scheme in ("unix", "unix-abstract"):
            if not rest.strip("/"):
                raise ValueError(f'"endpoint" {self.endpoint!r} names no socket')
            return endpoint
        if scheme in ("dns", "ipv4", "ipv6", "passthrough") and not rest.isdigit():
            place = rest.rpartition("/")[2]
            if scheme == "passthrough":
                endpoint = place
        else:
            place = endpoint
        if "@" in place:
            raise ValueError('"endpoint" must have no user or password in it')
        match = _PLACE.fullmatch(place)
        if match is None or int(match[2]) > 65535:
            raise ValueError(f'"endpoint" {self.endpoint!r} is not host:port')
        try:
            check_host(match[1])
        except ValueError as error:
            raise ValueError(f'"endpoint" {self.endpoint!r}: {error}') from error
        if not is_authority(place):
            raise ValueError(
                f'"endpoint" {self.endpoint!r} has characters that a host\'s name cannot '
                "have (an international one is written as xn--…)"
            )
        return endpoint

    @property
    def uses_tls(self) -> bool:
        """As the collector has it: https:// goes over `insecure`, and so does a given
        authority, also over http://."""
        tls = self.tls
        if self.endpoint.startswith("https://") or tls.has_ca:
            return True
        return not (tls.insecure or self.endpoint.startswith("http://"))

    @property
    def is_private(self) -> bool:
        """Whether nobody can overhear what is sent: by TLS, or within this machine."""
        return self.uses_tls or self.target().startswith("unix")

    def client(self) -> ClientSettings:
        keepalive = self.keepalive
        return ClientSettings(
            target=self.target(),
            tls=self.tls if self.uses_tls else None,
            compression=self.compression or "none",
            wait_for_ready=self.wait_for_ready,
            balancer_name=self.balancer_name,
            authority=self.authority,
            user_agent=header_value(self.user_agent) or f"k8strace/{__version__}",
            connections=self.connections,
            keepalive=ClientKeepalive(
                time=keepalive.time or None,
                timeout=keepalive.timeout or None,
                permit_without_stream=keepalive.permit_without_stream,
            ),
        )


class OtlpGrpc(SendingExporter[Config]):
    """Sends each request as it is, joined and split by what all exporters share."""

    type_name = "otlp_grpc"
    config_type = Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self._client: Client | None = None
        self._packed: dict[int, Packed] = {}  # by the payloads that are being delivered
        # Not the one that pieces are made with: a piece is held until it has been sent.
        self._spare = Spare(context.budget)
        self._metadata = tuple(
            (header_name(name), header_value(value))
            for name, value in config.headers.items()
            if name.lower() not in OWN
        )
        self._auth = client_authenticator(config.auth, context)
        if self._auth is not None and self._auth.needs_tls and not config.is_private:
            raise ValueError(
                "auth::authenticator would send its secret unencrypted to "
                f"{config.endpoint}: use TLS, without `insecure` and http://"
            )

        if (
            self.needs_origin
            and config.sending_queue.enabled
            and config.sending_queue.batch
        ):
            raise ValueError(
                "auth::authenticator needs each request's origin, but sending_queue::batch "
                "joins requests: leave it out"
            )

    @property
    def needs_origin(self) -> bool:
        return self._auth is not None and self._auth.needs_origin

    @property
    def reads_metadata(self) -> tuple[str, ...]:
        return () if self._auth is None else self._auth.reads_metadata

    @property
    def destination(self) -> str:
        return self.config.endpoint

    @property
    def max_request_bytes(self) -> int:
        limit = self.config.max_request_size_mib * MIB
        return limit - HEADROOM if limit else 0

    async def open(self) -> None:
        config = self.config
        if not config.uses_tls and (idle := config.tls.without_effect()):
            self.log.warning(
                "the connection to %s is plaintext: `tls`: %s: no effect",
                self.destination,
                ", ".join(f"`{name}`" for name in idle),
            )
        if own := sorted(name for name in config.headers if name.lower() in OWN):
            self.log.warning(
                "`headers`: gRPC sets %s itself: no effect",
                ", ".join(f"`{name}`" for name in own),
            )
        client = client_factory(config.engine)(config.client())
        try:
            await client.start()
        except OptionError as error:
            raise error.below("tls") from error
        self._client = client

    async def send(self, payload: Payload) -> Sent:
        client = self._client
        if client is None:
            raise RefusedError(f"{self.context.label} is not started")
        metadata = self._metadata
        if self._auth is not None:
            metadata = await self._auth.metadata(metadata, payload.origin)
        packed = self._packed.get(id(payload))
        if packed is None:
            packed = Packed(partial(self._spare.lend, of=payload))
            self._packed[id(payload)] = packed
        try:
            answer = await client.call(
                EXPORT,
                payload.chunks,
                timeout=self.config.timeout or None,
                metadata=metadata,
                packed=packed,
            )
        except StatusError as error:
            raise refusal_of(error, self.config.target()) from error
        return self._read(answer) if answer else Sent()

    def done_with(self, payload: Payload) -> None:
        packed = self._packed.pop(id(payload), None)
        if packed is not None:
            packed.end()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.stop()

    def _read(self, answer: bytes) -> Sent:
        try:
            response = ExportTraceServiceResponse.FromString(answer)
        except DecodeError:
            # The status says that it was taken: sending it again would make it two.
            return Sent(message="an answer that is no ExportTraceServiceResponse")
        partial = response.partial_success
        message = printable(partial.error_message, MAX_MESSAGE)
        return Sent(partial.rejected_spans, message)
