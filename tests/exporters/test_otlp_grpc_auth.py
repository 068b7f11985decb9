"""The OTLP/gRPC exporter shows who it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from k8strace.auth import AuthConfig, Authenticator, ClientAuthenticator, Metadata, Side
from k8strace.errors import RefusedError
from k8strace.exporters.otlp_grpc import OtlpGrpc
from k8strace.extensions.bearertokenauth import BearerTokenAuth
from k8strace.payload import Origin
from tests.exporters.test_otlp_grpc_transport import TLS, raw_backend
from tests.support.auth import extension, named_by
from tests.support.pipeline import configured, context
from tests.support.sending import running_as

DIRECT = {"sending_queue": {"enabled": False}, "retry_on_failure": {"enabled": False}}
Seen = list[dict[str, Any]]


@asynccontextmanager
async def backend() -> AsyncIterator[tuple[str, Seen]]:
    """A TLS server's address, and the metadata that it gets."""
    seen: Seen = []

    async def take(_: bytes, call: Any) -> bytes:
        seen.append(dict(call.invocation_metadata()))
        return b""

    pair = ((TLS / "server.key").read_bytes(), (TLS / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair])
    async with raw_backend(take, "localhost:0", credentials) as port:
        yield f"localhost:{port}", seen


def exporting(one: Authenticator[Any], endpoint: str, **values: Any) -> Any:
    return running_as(
        OtlpGrpc,
        one,
        endpoint=endpoint,
        tls={"ca_file": str(TLS / "server.pem")},
        auth={"authenticator": str(one.context.id)},
        **DIRECT | values,
    )


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_a_bearer_token(engine: str) -> None:
    one = extension(BearerTokenAuth, token="hunter2")
    async with backend() as (endpoint, seen):
        headers = {"Authorization": "other", "X-Tenant": "blue"}
        async with exporting(one, endpoint, engine=engine, headers=headers) as rig:
            for _ in range(2):
                await rig.send(3)
            assert (rig.ledger.received, rig.ledger.sent) == (6, 6)
        assert [each["authorization"] for each in seen] == ["Bearer hunter2"] * 2
        assert seen[0]["x-tenant"] == "blue"


class Nothing(AuthConfig, frozen=True, kw_only=True):
    @property
    def sides(self) -> tuple[Side, ...]:
        return ("client",)


class Changing(Authenticator[Nothing]):
    """Raises `error`, or shows the subject of who sent."""

    type_name = "changing"
    config_type = Nothing
    needs_tls = True
    needs_origin = True
    error: Exception | None = None

    def client(self) -> ClientAuthenticator:
        return self

    async def metadata(self, headers: Metadata, origin: Origin | None) -> Metadata:
        if self.error is not None:
            raise self.error
        return (*headers, ("who", origin.peer if origin else "nobody"))


async def test_what_is_shown_can_depend_on_the_origin() -> None:
    one = extension(Changing)
    async with backend() as (endpoint, seen):
        async with exporting(one, endpoint) as rig:
            assert rig.exporter.needs_origin
            await rig.send(1)
            await rig.send(1)
        assert [each["who"] for each in seen] == ["10.0.0.1:1", "10.0.0.2:1"]


async def test_without_credentials_it_is_tried_again() -> None:
    one = extension(Changing)
    one.error = RefusedError("no token", 0.5)
    async with backend() as (endpoint, seen):
        async with exporting(one, endpoint) as rig:
            with pytest.raises(RefusedError, match="no token"):
                await rig.send(3)
            assert seen == []
            one.error = None
            await rig.send(3)
            assert (rig.ledger.sent, rig.ledger.dropped) == (3, {})


@pytest.mark.parametrize(
    ("values", "works"),
    [
        ({"endpoint": "http://a:1"}, False),
        ({"endpoint": "a:1", "tls": {"insecure": True}}, False),
        ({"endpoint": "a:1"}, True),
        ({"endpoint": "https://a:1", "tls": {"insecure": True}}, True),
        ({"endpoint": "unix:/run/a.sock", "tls": {"insecure": True}}, True),
    ],
)
def test_a_secret_is_not_sent_unencrypted(values: dict[str, Any], works: bool) -> None:
    one = extension(BearerTokenAuth, token="hunter2")
    values |= {"auth": {"authenticator": "bearertokenauth"}}
    arguments = (
        configured(OtlpGrpc, values),
        named_by(one, context("exporters", "otlp_grpc")),
    )
    if works:
        OtlpGrpc(*arguments)
        return
    with pytest.raises(ValueError, match="would send its secret unencrypted"):
        OtlpGrpc(*arguments)
