"""Servers of both engines ask who calls before they take a message."""

from __future__ import annotations

import asyncio
import os
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace import auth
from k8strace.auth import Verdict
from k8strace.errors import RefusedError
from k8strace.grpc import Call
from tests.support.auth import Doorman
from tests.support.engine import MIB, Rig, channel, delay_of, failure, send

CODE = grpc.StatusCode
ANN = (("authorization", "Bearer ann"),)
BOB = (("authorization", "Bearer bob"),)


def doorman() -> Doorman:
    return Doorman(ann=Verdict("ann", groups=("a", "b")), nameless=Verdict())


async def test_who_is_known_is_served_under_its_name(engine: ModuleType) -> None:
    async with Rig(engine, authenticator=doorman()) as rig, channel(rig) as one:
        for _ in range(2):
            assert await send(one, b"\x0ahello", metadata=ANN) == b"\x0ahello"
        nameless = (("authorization", "Bearer nameless"),)
        await send(one, b"\x0ahello", metadata=nameless)
        origins = [call.origin for call in rig.calls]
        assert [origin.subject for origin in origins] == ["ann", "ann", None]
        assert [len(origin.groups) for origin in origins] == [2, 2, 0]
        assert {origin.metadata for origin in origins} == {()}
        assert rig.rejects == []
        await rig.at_rest()


async def test_what_it_showed_is_not_in_the_metadata(engine: ModuleType) -> None:
    async with Rig(engine, authenticator=doorman(), include_metadata=True) as rig:
        async with channel(rig) as one:
            await send(one, b"\x0a", metadata=(*ANN, ("x-tenant", "blue")))
        (call,) = rig.calls
        assert (call.origin.subject, call.origin.groups) == ("ann", ("a", "b"))
        metadata = dict(call.origin.metadata)
        assert metadata["x-tenant"] == "blue"
        assert "authorization" not in metadata


@pytest.mark.parametrize("metadata", [(), BOB, (("authorization", "x" * 5000),)])
async def test_nobody_is_refused(engine: ModuleType, metadata: Any) -> None:
    async with Rig(engine, authenticator=doorman()) as rig, channel(rig) as one:
        error = await failure(one, b"\x0ahello", metadata=metadata)
        assert error.code() is CODE.UNAUTHENTICATED
        assert delay_of(error) is None
        assert rig.reasons == ["unauthenticated"]
        assert not rig.calls
        ((_, peer, text),) = rig.rejects
        assert peer.startswith("127.0.0.1:")
        assert "bob" not in text + error.details()
        assert "xxx" not in text + error.details()


async def test_nobodys_message_is_not_read(engine: ModuleType) -> None:
    """Of more than all windows it cannot have been: the answer comes before it is sent."""
    async with Rig(engine, authenticator=doorman()) as rig, channel(rig) as one:
        error = await failure(one, bytes(60 * MIB))
        assert error.code() is CODE.UNAUTHENTICATED
        assert rig.budget.used == 0
        await send(one, b"\x0a", metadata=ANN)


async def test_who_has_to_be_asked_about_is_waited_for(engine: ModuleType) -> None:
    one_at = doorman()
    one_at.gate.clear()
    one_at.found[b"Bearer bob"] = Verdict("bob")
    body = os.urandom(2 * MIB)
    async with Rig(engine, authenticator=one_at) as rig, channel(rig) as one:
        bob = asyncio.create_task(send(one, body, metadata=BOB))
        eve = asyncio.create_task(
            failure(one, body, metadata=(("authorization", "Bearer eve"),))
        )
        ann = await send(one, b"\x0a", metadata=ANN)
        assert ann == b"\x0a"
        while len(one_at.asked) < 2:  # noqa: ASYNC110 -- nobody sets an event for it
            await asyncio.sleep(0)
        # Ann's message, and of the others what they show.
        assert rig.budget.used == 1 + 2 * (auth.CALL_SIZE + len(b"Bearer bob"))
        one_at.gate.set()
        assert await bob == body
        assert (await eve).code() is CODE.UNAUTHENTICATED
        assert [call.origin.subject for call in rig.calls] == ["ann", "bob"]
        assert rig.reasons == ["unauthenticated"]
        await rig.at_rest()


async def test_large_messages_of_one_connection_wait_together(engine: ModuleType) -> None:
    one_at = doorman()
    one_at.gate.clear()
    one_at.found[b"Bearer bob"] = Verdict("bob")
    body = os.urandom(MIB)
    async with Rig(engine, authenticator=one_at) as rig, channel(rig) as one:
        bobs = [asyncio.create_task(send(one, body, metadata=BOB)) for _ in range(10)]
        ann = asyncio.create_task(send(one, body, metadata=ANN))
        assert await ann == body
        while len(one_at.asked) < 10:  # noqa: ASYNC110
            await asyncio.sleep(0)
        one_at.gate.set()
        assert await asyncio.gather(*bobs) == 10 * [body]
        assert rig.reasons == []
        await rig.at_rest()


async def test_while_nobody_can_tell_it_comes_again(engine: ModuleType) -> None:
    one_at = doorman()
    one_at.error = RefusedError("the API server is down", 1.5)
    async with Rig(engine, authenticator=one_at) as rig, channel(rig) as one:
        error = await failure(one, b"\x0ahello", metadata=BOB)
        assert error.code() is CODE.UNAVAILABLE
        assert delay_of(error) == 1.5
        assert rig.reasons == ["auth_unavailable"]
        one_at.error = KeyError("a defect")
        error = await failure(one, b"\x0ahello", metadata=BOB)
        assert error.code() is CODE.UNAVAILABLE
        assert rig.reasons == ["auth_unavailable"] * 2
        assert not rig.calls


async def test_more_than_may_wait_come_again(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "MAX_ASKING", 2)
    one_at = doorman()
    one_at.gate.clear()
    async with Rig(engine, authenticator=one_at) as rig, channel(rig) as one:
        waiting = [asyncio.create_task(send(one, b"\x0a", metadata=BOB)) for _ in range(2)]
        while len(one_at.asked) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        error = await failure(one, b"\x0a", metadata=BOB)
        assert error.code() is CODE.UNAVAILABLE
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await rig.until(lambda: rig.reasons.count("incomplete") == 2)
        assert sorted(rig.reasons) == ["auth_unavailable", "incomplete", "incomplete"]


async def test_stopping_ends_what_waits(engine: ModuleType) -> None:
    one_at = doorman()
    one_at.gate.clear()
    rig = Rig(engine, authenticator=one_at)
    async with rig, channel(rig) as one:
        bob = asyncio.create_task(failure(one, b"\x0a", metadata=BOB))
        while not one_at.asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await rig.server.stop(0)
        assert (await bob).code() in (CODE.UNAVAILABLE, CODE.CANCELLED)
    assert not rig.calls


async def test_a_handler_that_waits_keeps_the_name(engine: ModuleType) -> None:
    one_at = doorman()
    one_at.found[b"Bearer bob"] = Verdict("bob")
    names: list[str | None] = []

    async def slowly(call: Call) -> bytes:
        await asyncio.sleep(0)
        names.append(call.origin.subject)
        return b""

    async with Rig(engine, authenticator=one_at) as rig, channel(rig) as one:
        rig.answer = slowly
        await asyncio.gather(
            *(send(one, b"\x0a", metadata=who) for who in (ANN, BOB, ANN, BOB))
        )
    assert sorted(map(str, names)) == ["ann", "ann", "bob", "bob"]
