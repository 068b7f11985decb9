"""How OTLP over HTTP accepts connections where there is no room for them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from http import HTTPStatus

import aiohttp
import pytest

from k8strace.grpc import native_listener
from k8strace.receivers import _otlp_http
from tests.support.otlp import Receiving
from tests.support.requests import request

HEADERS = {"Content-Type": "application/x-protobuf"}
GOOD = request(5).SerializeToString()


@pytest.mark.parametrize("what", ["connections", "files"])
async def test_who_is_too_many_is_closed_at_once(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Receiving(http={}) as receiving, aiohttp.ClientSession() as session:
        host, _, port = receiving.receiver.addresses["http"].rpartition(":")

        async def send() -> int:
            async with session.post(receiving.url, data=GOOD, headers=HEADERS) as answer:
                return answer.status

        assert await send() == HTTPStatus.OK
        if what == "files":
            monkeypatch.setattr(native_listener, "most_files", lambda _: 0)
        else:
            monkeypatch.setattr(_otlp_http, "MAX_CONNECTIONS", 1)
        for _ in range(3):
            reader, writer = await asyncio.open_connection(host, port)
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(1), 20) == b""
            writer.close()
        assert await send() == HTTPStatus.OK
        monkeypatch.undo()
        _, writer = await asyncio.open_connection(host, port)
        writer.write(b"POST /v1/traces HTTP/1.1\r\n")
        assert await send() == HTTPStatus.OK
        writer.close()
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refused 1 connections" in warnings[0].message
