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
from k8strace.budget import Budget
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


async def waiting(gate: Gate, peer: str, count: int) -> list[asyncio.Task[Verdict]]:
    tasks = [asyncio.create_task(gate.admit(b"x" * 100, None, peer)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_who_has_the_most_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_ASKING", 10)
    doorman = Doorman()
    doorman.gate.clear()
    gate = Gate(doorman)
    strangers = await waiting(gate, "10.0.0.1:1", 12)
    with pytest.raises(RefusedError, match="too many"):
        await strangers[-1]
    honest = await waiting(gate, "10.0.0.2:1", 3)
    done, _ = await asyncio.wait(strangers, return_when=asyncio.FIRST_COMPLETED)
    doorman.found[b"x" * 100] = ANN
    doorman.gate.set()
    assert [await task for task in honest] == [ANN] * 3
    results = await asyncio.gather(*strangers, return_exceptions=True)
    assert results == [ANN] * 7 + results[7:]
    assert all(
        isinstance(one, RefusedError) and "too many" in str(one) for one in results[7:]
    )
    assert done


async def test_what_waits_is_in_the_budget() -> None:
    doorman = Doorman()
    doorman.gate.clear()
    # A host has seven eighths at the most.
    size = auth.CALL_SIZE + 100
    budget = Budget(4 * size - 1)
    gate = Gate(doorman, budget)
    tasks = await waiting(gate, "10.0.0.1:1", 3)
    assert budget.held("10.0.0.1") == budget.used == 3 * size
    with pytest.raises(RefusedError, match="memory budget is used up"):
        await gate.admit(b"x" * 100, None, "10.0.0.1:2")
    doorman.gate.set()
    await asyncio.wait(tasks)
    assert all(isinstance(task.exception(), UnauthenticatedError) for task in tasks)
    del tasks
    assert budget.used == 0
