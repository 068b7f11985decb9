"""What only the native server's guard has; the rest is in conformance/."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio
import pytest

from k8strace.auth import Verdict
from k8strace.grpc import native
from k8strace.grpc.native_guard import GuardedConnection
from tests.support.auth import Doorman
from tests.support.engine import Rig
from tests.support.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC,
    HEADERS,
    Raw,
    frame,
    headers,
    message,
)

AUTH = ("authorization", "Bearer bob")


async def test_health_is_for_all() -> None:
    async with Rig(native, authenticator=Doorman()) as rig:
        async with grpc.aio.insecure_channel(rig.address) as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await check(b"", timeout=20) == b"\x08\x01"
        assert rig.rejects == []


async def test_who_is_known_is_judged_without_a_task() -> None:
    async with Rig(native, authenticator=Doorman(bob=Verdict("bob"))) as rig:
        tasks: list[object] = []

        async def answer(call: object) -> bytes:
            tasks.append(asyncio.current_task())
            return b""

        rig.answer = answer
        async with Raw(rig.address) as raw:
            await raw.send(
                frame(HEADERS, END_HEADERS, 1, headers(*GRPC, AUTH)),
                frame(DATA, END_STREAM, 1, message(b"\x0a")),
            )
            await rig.until(lambda: bool(tasks))
    assert tasks == [None]


async def test_a_client_that_goes_while_it_is_asked_about() -> None:
    doorman = Doorman()
    doorman.gate.clear()
    async with Rig(native, authenticator=doorman) as rig:
        async with Raw(rig.address) as raw:
            await raw.send(frame(HEADERS, END_HEADERS, 1, headers(*GRPC, AUTH)))
            while not doorman.asked:  # noqa: ASYNC110 -- nobody sets an event for it
                await asyncio.sleep(0)
            raw.reset()
            await rig.until(lambda: bool(rig.rejects))
        assert rig.reasons == ["incomplete"]


async def test_a_defect_ends_the_connection_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    doorman = Doorman()
    doorman.found[b"Bearer bob"] = Verdict("bob")

    def broken(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(GuardedConnection, "_serve", broken)
    caplog.set_level(logging.ERROR)
    async with Rig(native, authenticator=doorman) as rig:
        async with Raw(rig.address) as raw:
            await raw.send(
                frame(HEADERS, END_HEADERS, 1, headers(*GRPC, AUTH)),
                frame(DATA, END_STREAM, 1, message(b"\x0a")),
            )
            while await raw.reader.read(1000):
                pass
    assert "the connection of" in caplog.text
