"""Gates: who is let in, and how long and how many wait for that."""

from __future__ import annotations

import asyncio

import pytest

from k8strace import auth
from k8strace.auth import (
    ClientAuth,
    Gate,
    ServerAuth,
    Verdict,
    client_authenticator,
    server_authenticator,
)
from k8strace.component import ComponentID
from k8strace.errors import RefusedError, UnauthenticatedError
from k8strace.extensions.bearertokenauth import BearerTokenAuth
from tests.support.auth import Doorman, extension, named_by
from tests.support.pipeline import context

ANN = Verdict("ann")


async def test_who_is_known_is_not_asked_about() -> None:
    doorman = Doorman(ann=ANN, bob=Verdict(denial="no"))
    gate = Gate(doorman)
    assert await gate.admit(b"Bearer ann") is ANN
    with pytest.raises(UnauthenticatedError, match="no"):
        await gate.admit(b"Bearer bob")
    assert doorman.asked == []


@pytest.mark.parametrize("credential", [None, b""])
async def test_who_shows_nothing_is_nobody(credential: bytes | None) -> None:
    doorman = Doorman()
    with pytest.raises(UnauthenticatedError, match="there is no header 'authorization'"):
        await Gate(doorman).admit(credential)
    assert doorman.asked == []


async def test_who_is_not_known_is_asked_about() -> None:
    doorman = Doorman()
    doorman.found[b"x"] = ANN
    assert await Gate(doorman).admit(b"x") is ANN
    with pytest.raises(UnauthenticatedError, match="nobody we know"):
        await Gate(doorman).admit(b"y")


async def test_waiting_is_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_ASKING", 2)
    doorman = Doorman()
    doorman.gate.clear()
    gate = Gate(doorman)
    waiting = [asyncio.create_task(gate.admit(b"x")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RefusedError, match="too many") as caught:
        await gate.admit(b"x")
    assert caught.value.retry_after is not None
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    doorman.gate.set()
    doorman.found[b"x"] = ANN
    assert await gate.admit(b"x") is ANN


@pytest.mark.parametrize("by_deadline", [True, False])
async def test_waiting_is_bounded_in_time(
    by_deadline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "MAX_ASK", 60.0 if by_deadline else 0.0)
    doorman = Doorman()
    doorman.gate.clear()
    deadline = asyncio.get_running_loop().time() if by_deadline else None
    with pytest.raises(RefusedError, match="in time"):
        await Gate(doorman).ask(b"x", deadline)


async def test_an_authenticator_that_fails_lets_nobody_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    doorman = Doorman()
    doorman.error = KeyError("x")
    with pytest.raises(RefusedError, match="could not be authenticated"):
        await Gate(doorman).admit(b"secret")
    assert "an authenticator failed" in caplog.text
    assert "secret" not in caplog.text


def test_components_find_their_authenticators() -> None:
    one = extension(BearerTokenAuth, token="x")
    there = named_by(one, context("receivers", "otlp"))
    known, other = ComponentID("bearertokenauth"), ComponentID("oidc")
    assert server_authenticator(None, there) is None
    assert client_authenticator(None, there) is None
    server: object = server_authenticator(ServerAuth(authenticator=known), there)
    client: object = client_authenticator(ClientAuth(authenticator=known), there)
    assert server is client is one
    with pytest.raises(ValueError, match="oidc is no server authenticator"):
        server_authenticator(ServerAuth(authenticator=other), there)
    with pytest.raises(ValueError, match="oidc is no client authenticator"):
        client_authenticator(ClientAuth(authenticator=other), there)
