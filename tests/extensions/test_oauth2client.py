"""oauth2client against an authorization server, and before a backend."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from k8strace.errors import ConfigError, RefusedError
from k8strace.extensions import _files, oauth2client
from k8strace.extensions.oauth2client import OAuth2Client
from tests.exporters.test_otlp_grpc_auth import backend, exporting
from tests.support.auth import extension
from tests.support.remote import CA, Got, HTTPPeer, json

SECRET = "hunter2 & more"


class TokenServer(HTTPPeer):
    """Gives tokens by number. `in_body` wants id and secret there."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__(self._say, tls=tls)
        self.in_body = False
        self.given = 0
        self.more: dict[str, Any] = {"expires_in": 3600}
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def __aenter__(self) -> TokenServer:
        await super().__aenter__()
        return self

    async def _say(self, got: Got) -> web.Response:
        await self.gate.wait()
        if self.fails:
            return json({"error": "down"}, 503)
        form = parse_qs(got.body.decode())
        assert form["grant_type"] == ["client_credentials"]
        basic = got.headers.get("authorization", "").removeprefix("Basic ")
        if self.in_body:
            known = form.get("client_secret") == [SECRET] and form["client_id"] == ["a:b"]
        else:
            known = b64decode(basic) == b"a%3Ab:hunter2+%26+more"
        if not known:
            return json({"error": "invalid_client"}, 401)
        self.given += 1
        token = {"access_token": f"token-{self.given}", "token_type": "bearer"}
        return json(token | self.more)


@asynccontextmanager
async def asking(
    tls: bool = False, /, **values: Any
) -> AsyncIterator[tuple[OAuth2Client, TokenServer]]:
    async with TokenServer(tls=tls) as peer:
        ours = {"client_id": "a:b", "client_secret": SECRET}
        ours["token_url"] = f"{peer.url}/token"
        one = extension(OAuth2Client, **ours | values)
        await one.start()
        try:
            yield one, peer
        finally:
            await one.stop(0)


async def shown(one: OAuth2Client) -> str:
    metadata = await one.client().metadata((("authorization", "x"),), None)
    return dict(metadata)["authorization"]


async def test_a_token_is_asked_for_once() -> None:
    params = {"audience": "traces", "resource": ["a", "b"]}
    async with asking(scopes=["one", "two"], endpoint_params=params) as (one, peer):
        found = await asyncio.gather(*(shown(one) for _ in range(5)))
        assert found == ["Bearer token-1"] * 5
        assert await one.metadata((), None) is await one.metadata((), None)
        (got,) = peer.got
        form = parse_qs(got.body.decode())
        assert form["scope"] == ["one two"]
        assert (form["audience"], form["resource"]) == (["traces"], ["a", "b"])


async def test_a_server_that_is_not_trusted() -> None:
    async with asking(True) as (one, _):
        with pytest.raises(RefusedError, match="cannot be asked"):
            await shown(one)


async def test_a_server_that_wants_them_in_the_body() -> None:
    async with asking(expiry_buffer=0) as (one, peer):
        peer.in_body = True
        peer.more = {"expires_in": 0}
        assert await shown(one) == "Bearer token-1"
        assert await shown(one) == "Bearer token-2"
        assert len(peer.got) == 3


async def test_it_is_renewed_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(oauth2client, "monotonic", lambda: now)
    async with asking() as (one, peer):
        assert await shown(one) == "Bearer token-1"
        now += 3299.0
        assert await shown(one) == "Bearer token-1"
        now += 1.0
        peer.fails = True
        assert await shown(one) == "Bearer token-1"
        assert await shown(one) == "Bearer token-1"
        assert len(peer.got) == 2
        now += oauth2client.RETRY_EVERY
        peer.fails = False
        peer.more = {"expires_in": "60"}
        assert await shown(one) == "Bearer token-2"
        now += 29.0
        assert await shown(one) == "Bearer token-2"
        now += 1.0
        assert await shown(one) == "Bearer token-3"


async def test_one_that_does_not_expire() -> None:
    async with asking() as (one, peer):
        peer.more = {}
        assert await shown(one) == "Bearer token-1"
        assert await shown(one) == "Bearer token-1"


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (401, b'{"error": "invalid_client"}', "HTTP status 401: invalid_client"),
        (500, b"oops", "HTTP status 500"),
        (302, b"", "HTTP status 302"),
        (200, b"", "an answer without a token"),
        (200, b'{"access_token": ""}', "an answer without a token"),
        (200, b'{"access_token": "a\\nb"}', "an answer without a token"),
    ],
)
async def test_a_server_of_no_use(
    status: int, body: bytes, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with asking() as (one, peer):

        async def say(got: Got) -> web.Response:
            return web.Response(status=status, body=body)

        peer.answer = say
        with pytest.raises(RefusedError, match="cannot be asked"):
            await shown(one)
        assert text in caplog.text
        assert "hunter2" not in caplog.text


async def test_stopping_ends_what_waits() -> None:
    async with asking() as (one, peer):
        peer.gate.clear()
        waiting = asyncio.create_task(shown(one))
        while not peer.got:  # noqa: ASYNC110 -- nobody sets an event for it
            await asyncio.sleep(0)
        await one.stop(0)
        peer.gate.set()
        with pytest.raises(RefusedError, match="stopped"):
            await waiting


async def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "CHECK_EVERY", 0.0)
    name, secret = tmp_path / "id", tmp_path / "secret"
    name.write_text("a:b\n")
    secret.write_text("wrong")
    files = {"client_id_file": str(name), "client_secret_file": str(secret)}
    async with asking(client_id="", client_secret="", **files) as (one, _):
        with pytest.raises(RefusedError):
            await shown(one)
        secret.write_text(f"{SECRET}\n")
        assert await shown(one) == "Bearer token-1"
    secret.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        await extension(OAuth2Client, client_id="a", token_url="https://a", **files).start()
    with pytest.raises(ConfigError, match="tls::ca_file"):
        await extension(
            OAuth2Client,
            client_id="a",
            client_secret="b",
            token_url="https://a",
            tls={"ca_file": str(secret)},
        ).start()


async def test_before_a_backend() -> None:
    async with TokenServer(tls=True) as peer, backend() as (endpoint, seen):
        one = extension(
            OAuth2Client,
            client_id="a:b",
            client_secret=SECRET,
            token_url=f"{peer.url}/token",
            tls={"ca_file": CA},
        )
        await one.start()
        async with exporting(one, endpoint) as rig:
            for _ in range(2):
                await rig.send(3)
            assert (rig.ledger.received, rig.ledger.sent) == (6, 6)
        assert [each["authorization"] for each in seen] == ["Bearer token-1"] * 2
        await one.stop(0)
