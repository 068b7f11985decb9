"""k8s_token_review against an API server that answers as Kubernetes' does."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from aiohttp import web

from k8strace.auth import Verdict
from k8strace.errors import ConfigError, RefusedError
from k8strace.extensions import k8s_token_review
from k8strace.extensions.k8s_token_review import PATH, TokenReview
from tests.support.auth import extension
from tests.support.clients import Client
from tests.support.engine import delay_of
from tests.support.otlp import Receiving
from tests.support.remote import CA, Got, HTTPPeer, json
from tests.support.requests import request

ANN = "system:serviceaccount:kube-system:ann"


KNOWN = Verdict(ANN, groups=("a",))


class APIServer:
    """Knows the tokens in `known`, for the audience "traces"; with `status` it fails."""

    def __init__(self) -> None:
        self.known = {"ann": ANN}
        self.status = 0
        self.is_old = False  # and knows nothing of audiences

    async def __call__(self, got: Got) -> web.Response:
        if self.status:
            return json({"kind": "Status"}, self.status, **{"Retry-After": "3"})
        assert (got.method, got.path) == ("POST", PATH)
        review = msgspec.json.decode(got.body)
        assert review["apiVersion"] == "authentication.k8s.io/v1"
        assert review["kind"] == "TokenReview"
        token, wanted = review["spec"]["token"], review["spec"].get("audiences", [])
        user = self.known.get(token.partition(".")[0])
        if user is None or (wanted and "traces" not in wanted and not self.is_old):
            status: dict[str, Any] = {"user": {}, "error": f"invalid bearer token {token}"}
        else:
            status = {"authenticated": True, "user": {"username": user, "groups": ["a"]}}
            if wanted and not self.is_old:
                status["audiences"] = ["traces"]
        return json({**review, "status": status}, 201)


@asynccontextmanager
async def reviewing(
    api: APIServer, *, tls: bool = False, **values: Any
) -> AsyncIterator[tuple[TokenReview, HTTPPeer]]:
    async with HTTPPeer(api, tls=tls) as peer:
        one = extension(TokenReview, endpoint=peer.url, **values)
        await one.start()
        try:
            yield one, peer
        finally:
            await one.stop(0)


async def test_a_token_is_asked_about_once(tmp_path: Path) -> None:
    own = tmp_path / "token"
    own.write_text("ours\n")
    files = {"ca_file": CA, "token_file": str(own)}
    async with reviewing(APIServer(), tls=True, **files) as (one, peer):
        assert one.recall(b"Bearer ann") is None
        assert await one.ask(b"Bearer ann") == KNOWN
        assert one.recall(b"Bearer ann") == KNOWN
        denied = await one.ask(b"Bearer eve")
        assert denied.denial == (
            "the API server doesn't know the token: invalid bearer token …"
        )
        assert one.recall(b"Bearer eve") is denied
        assert [got.headers["authorization"] for got in peer.got] == ["Bearer ours"] * 2


@pytest.mark.parametrize(
    "credential", [b"Basic ann", b"Bearer", b"Bearer \xff", b"Bearer a b"]
)
async def test_what_is_no_token_is_not_sent(credential: bytes) -> None:
    async with reviewing(APIServer()) as (one, peer):
        verdict = one.recall(credential)
        assert verdict is not None
        assert verdict.denial
        assert (await one.ask(credential)).denial
        assert peer.got == []


async def test_audiences() -> None:
    api = APIServer()
    async with reviewing(api, audiences=["other", "traces"]) as (one, _):
        assert await one.ask(b"Bearer ann") == KNOWN
    async with reviewing(api, audiences=["other"]) as (one, _):
        assert "doesn't know" in str((await one.ask(b"Bearer ann")).denial)
    api.is_old = True
    async with reviewing(api, audiences=["other"]) as (one, _):
        assert "none of the audiences other" in str((await one.ask(b"Bearer ann")).denial)


async def test_a_verdict_holds_no_longer_than_its_token() -> None:
    claims = (
        urlsafe_b64encode(msgspec.json.encode({"exp": time() - 1})).decode().rstrip("=")
    )
    async with reviewing(APIServer()) as (one, _):
        old = f"Bearer ann.{claims}.x".encode()
        assert await one.ask(old) == KNOWN
        assert one.recall(old) is None


async def test_nothing_is_kept_where_that_is_said() -> None:
    async with reviewing(APIServer(), cache_ttl=0, denied_cache_ttl=0) as (one, peer):
        for token in (b"Bearer ann", b"Bearer eve"):
            await one.ask(token)
            assert one.recall(token) is None
        assert len(peer.got) == 2


@pytest.mark.parametrize(
    ("status", "text", "delay"),
    [
        (401, "system:auth-delegator", 1.0),
        (403, "system:auth-delegator", 1.0),
        (429, "HTTP status 429", 3.0),
        (500, "HTTP status 500", 3.0),
        (302, "HTTP status 302", 3.0),
    ],
)
async def test_an_api_server_of_no_use(
    status: int, text: str, delay: float, caplog: pytest.LogCaptureFixture
) -> None:
    api = APIServer()
    api.status = status
    async with reviewing(api) as (one, _):
        with pytest.raises(RefusedError, match="cannot be asked") as caught:
            await one.ask(b"Bearer ann")
        assert caught.value.retry_after == delay
        assert text in caplog.text
        assert "ann" not in caplog.text
        api.status = 0
        assert await one.ask(b"Bearer ann") == KNOWN


async def test_an_answer_that_says_nothing() -> None:
    async def empty(got: Got) -> web.Response:
        return json({})

    async with HTTPPeer(empty) as peer:
        one = extension(TokenReview, endpoint=peer.url)
        await one.start()
        assert "no reason given" in str((await one.ask(b"Bearer ann")).denial)
        await one.stop(0)


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_behind_a_receiver(engine: str) -> None:
    """Who is known goes on while the API server is down, others come again."""
    api = APIServer()
    async with reviewing(api) as (one, peer):
        auth = {"auth": {"authenticator": "k8s_token_review"}, "engine": engine}
        async with Receiving(grpc=auth, authenticator=one) as found:
            async with Client(found.grpc) as client:

                async def code(token: str) -> Any:
                    pair = ("authorization", f"Bearer {token}")
                    try:
                        await client.send(request(1), metadata=[pair])
                    except grpc.aio.AioRpcError as error:
                        return error.code(), delay_of(error)
                    return None

                assert (
                    await asyncio.gather(*(code("ann") for _ in range(10))) == [None] * 10
                )
                assert await code("eve") == (grpc.StatusCode.UNAUTHENTICATED, None)
                assert len(peer.got) == 2
                await peer.stop()
                assert await code("ann") is None
                assert await code("bob") == (grpc.StatusCode.UNAVAILABLE, 1.0)
            subjects = {
                payload.origin.subject for payload in found.sink.payloads if payload.origin
            }
            assert subjects == {ANN}
            assert found.rejected("unauthenticated") == 1
            assert found.rejected("auth_unavailable") == 1
            assert found.ledger.received == found.ledger.sent == 11


async def test_in_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(k8s_token_review, "ACCOUNT", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST is not set"):
        await extension(TokenReview).start()
    async with HTTPPeer(APIServer(), tls=True) as peer:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", peer.url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=r"ca\.crt"):
            await extension(TokenReview).start()
        (tmp_path / "ca.crt").symlink_to(CA)
        (tmp_path / "token").write_text("")
        with pytest.raises(ConfigError, match="has no token in it"):
            await extension(TokenReview).start()
        (tmp_path / "token").write_text("ours")
        one = extension(TokenReview)
        await one.start()
        assert await one.ask(b"Bearer ann") == KNOWN
        assert peer.got[0].headers["authorization"] == "Bearer ours"
        await one.stop(0)
