"""The otlp receiver asks who sends, over both protocols and with both engines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from google.rpc.status_pb2 import Status

from k8strace.auth import AuthConfig, Authenticator, ServerAuthenticator, Side, Verdict
from k8strace.errors import RefusedError
from k8strace.extensions.bearertokenauth import BearerTokenAuth
from tests.support.auth import Doorman, extension
from tests.support.clients import Client
from tests.support.otlp import Receiving
from tests.support.pipeline import cancel, until
from tests.support.requests import request

PROTOBUF = {"Content-Type": "application/x-protobuf"}
ANN = {"authorization": "Bearer ann"}


class Known(AuthConfig, frozen=True, kw_only=True):
    @property
    def sides(self) -> tuple[Side, ...]:
        return ("server",)


class Names(Authenticator[Known]):
    """Lets `doorman` say who may."""

    type_name = "names"
    config_type = Known

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.doorman = Doorman(ann=Verdict("ann"))

    def server(self) -> ServerAuthenticator:
        return self.doorman


@asynccontextmanager
async def receiving(
    one: Authenticator[Any], engine: str = "native", **options: Any
) -> AsyncIterator[Receiving]:
    auth = {"authenticator": str(one.context.id)}
    async with Receiving(
        grpc={"auth": auth, "engine": engine, **options},
        http={"auth": auth | {"request_params": ["authorization"]}, **options},
        authenticator=one,
    ) as found:
        yield found


async def post(
    url: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, Status, Any]:
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=body, headers=PROTOBUF | (headers or {})) as got:
            content = await got.read()
            status = Status.FromString(content) if got.status != 200 else Status()
            return got.status, status, got.headers


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_a_bearer_token_over_grpc(
    engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    one = extension(BearerTokenAuth, token="hunter2")
    async with receiving(one, engine) as found, Client(found.grpc) as client:
        await client.send(request(3), metadata=[("authorization", "Bearer hunter2")])
        for metadata in ([], [("authorization", "Bearer hunter3")]):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.send(request(3), metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert found.rejected("unauthenticated") == 2
        assert found.counted("grpc") == (3, 0, 0)
        assert (found.ledger.received, found.ledger.sent) == (3, 3)
    (line,) = [record.__dict__ for record in caplog.records]
    assert (line["reason"], line["peer"][:10]) == ("unauthenticated", "127.0.0.1:")
    assert "hunter" not in caplog.text


async def test_a_bearer_token_over_http() -> None:
    one = extension(BearerTokenAuth, token="hunter2")
    body = request(3).SerializeToString()
    async with receiving(one) as found:
        good = {"Authorization": "Bearer hunter2"}
        assert (await post(found.url, body, good))[0] == 200
        for wrong in (
            {},
            {"Authorization": "Bearer hünter2"},
            {"Authorization": "x" * 8000},
        ):
            status, error, headers = await post(found.url, body, wrong)
            assert (status, error.code) == (401, 16)
            assert headers["WWW-Authenticate"] == "Bearer"
        query = "?authorization=Bearer+hunter2"
        assert (await post(found.url + query, body))[0] == 200
        assert (await post(found.url + query, body, {"Authorization": "x"}))[0] == 401
        other = found.url.replace("/v1/traces", "/else")
        assert (await post(other, body))[0] == 401
        assert (await post(other, body, good))[0] == 404
        assert found.rejected("unauthenticated") == 5
        assert found.counted("http") == (6, 0, 0)
        assert (found.ledger.received, found.ledger.sent) == (6, 6)


async def test_over_http_nobodys_body_is_not_waited_for() -> None:
    one = extension(BearerTokenAuth, token="x")
    async with receiving(one) as found:
        reader, writer = await found.connect()
        writer.write(
            b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n"
            b"Content-Type: application/x-protobuf\r\nExpect: 100-continue\r\n\r\n"
        )
        line = await reader.readline()
        writer.close()
        assert line.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("engine", ["native", "grpcio"])
@pytest.mark.parametrize("include_metadata", [True, False])
async def test_the_subject_is_in_the_origin_and_the_secret_nowhere(
    engine: str, include_metadata: bool
) -> None:
    one = extension(Names)
    options = {"include_metadata": include_metadata}
    async with receiving(one, engine, **options) as found, Client(found.grpc) as client:
        one.doorman.found[b"Bearer bob"] = Verdict("bob")
        for name in ("ann", "bob"):
            pair = ("authorization", f"Bearer {name}")
            await client.send(request(1), metadata=[pair, ("x-tenant", "blue")])
            await post(
                found.url,
                request(1).SerializeToString(),
                dict([pair]) | {"x-tenant": "blue"},
            )
        origins = [payload.origin for payload in found.sink.payloads]
        assert [origin.subject for origin in origins if origin] == [
            "ann",
            "ann",
            "bob",
            "bob",
        ]
        for origin in origins:
            assert origin is not None
            assert ("x-tenant", "blue") in origin.metadata or not include_metadata
            assert "Bearer" not in repr(origin.metadata)
        assert found.ledger.received == found.ledger.sent == 4


async def test_while_nobody_can_tell_it_comes_again() -> None:
    one = extension(Names)
    one.doorman.error = RefusedError("the issuer is down", 1.5)
    async with receiving(one) as found:
        status, error, headers = await post(found.url, b"", {"authorization": "Bearer eve"})
        assert (status, error.code, headers["Retry-After"]) == (503, 14, "2")
        assert error.details
        assert found.rejected("auth_unavailable") == 1
        one.doorman.error = None
        assert (await post(found.url, b"", {"authorization": "Bearer eve"}))[0] == 401
        assert (await post(found.url, b"", {"authorization": "Bearer ann"}))[0] == 200


async def test_a_client_that_goes_while_it_is_asked_about() -> None:
    one = extension(Names)
    one.doorman.gate.clear()
    async with receiving(one) as found:
        eve = asyncio.create_task(post(found.url, b"", {"authorization": "Bearer eve"}))
        await until(lambda: bool(one.doorman.asked))
        await cancel(eve)
        await until(lambda: found.rejected("incomplete") == 1)
        assert one.doorman.asked == [b"Bearer eve"]


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (b" HTTP/1.1\r\nAuthorization: Bearer hunter2\x01", 400, "decode_error"),
        (
            b" HTTP/1.1\r\nAuthorization: Bearer hunter2" + b"y" * 100_000,
            *(431, "msg_too_large"),
        ),
        (b" HTTP/1.1\r\nAuthorization Bearer hunter2", 400, "decode_error"),
        (
            b"?authorization=hunter2\x01 HTTP/1.1\r\nHost: test",
            *(400, "decode_error"),
        ),
        (
            b"?authorization=hunter2" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: test",
            *(431, "msg_too_large"),
        ),
    ],
    ids=range(5),
)
async def test_of_what_is_no_http_nothing_is_logged(
    head: bytes, status: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving(extension(BearerTokenAuth, token="hunter2")) as found:
        reader, writer = await found.connect()
        writer.write(b"POST /v1/traces" + head + b"\r\n\r\n")
        assert b" %d " % status in await asyncio.wait_for(reader.readline(), 20)
        writer.close()
        assert found.rejected(reason) == 1
    assert "rejected requests" in caplog.text
    assert "hunter2" not in caplog.text
