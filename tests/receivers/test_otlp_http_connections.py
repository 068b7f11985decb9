"""Connections that have no room at OTLP over HTTP, or are at the wrong port."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import aiohttp
import grpc
import pytest

from k8strace.grpc import native_listener
from k8strace.receivers import _otlp_http
from tests.support.backend import PATH
from tests.support.otlp import Receiving
from tests.support.requests import request

HEADERS = {"Content-Type": "application/x-protobuf"}
GOOD = request(5).SerializeToString()


@pytest.mark.parametrize("what", ["connections", "files"])
async def test_who_is_too_many_is_closed_at_once(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody can make room, as the one that is there brought a request just now."""
    async with Receiving(http={}) as receiving, aiohttp.ClientSession() as session:

        async def send() -> int:
            async with session.post(receiving.url, data=GOOD, headers=HEADERS) as answer:
                return answer.status

        assert await send() == HTTPStatus.OK
        if what == "files":
            monkeypatch.setattr(native_listener, "most_files", lambda _: 0)
        else:
            monkeypatch.setattr(_otlp_http, "MAX_CONNECTIONS", 1)
        for _ in range(3):
            reader, writer = await receiving.connect()
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(1), 20) == b""
            writer.close()
        assert await send() == HTTPStatus.OK
        monkeypatch.undo()
        _, writer = await receiving.connect()
        writer.write(b"POST /v1/traces HTTP/1.1\r\n")
        assert await send() == HTTPStatus.OK
        writer.close()
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refused 1 connections" in warnings[0].message


async def test_of_too_many_the_oldest_goes_that_brought_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_otlp_http, "MAX_CONNECTIONS", 2)
    async with Receiving(http={}) as receiving, aiohttp.ClientSession() as session:
        first, its_writer = await receiving.connect()
        async with session.post(receiving.url, data=GOOD, headers=HEADERS) as answer:
            assert answer.status == HTTPStatus.OK
        _, writer = await receiving.connect()
        with suppress(ConnectionError):
            assert await asyncio.wait_for(first.read(1), 20) == b""
        async with session.post(receiving.url, data=GOOD, headers=HEADERS) as answer:
            assert answer.status == HTTPStatus.OK
        for one in (its_writer, writer):
            one.close()


async def test_http_at_the_port_of_grpc_is_told_where_to_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As containerd comes, which speaks HTTP unless it is told, to 4317."""
    async with Receiving(grpc={}) as receiving:
        host, _, port = receiving.grpc.rpartition(":")
        for _ in range(2):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"POST /v1/traces HTTP/1.1\r\nHost: gateway:4317\r\n\r\n")
            with suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 20)
            writer.close()
        assert receiving.rejected("decode_error") == 2
    (line,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "this port is gRPC's: have it use the port of OTLP/HTTP (4318)" in line.message


async def test_grpc_at_the_port_of_http_is_told_where_to_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Receiving(http={}) as receiving:
        target = receiving.receiver.addresses["http"]
        async with grpc.aio.insecure_channel(target) as channel:
            export: Any = channel.unary_unary(PATH)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await export(GOOD, timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert receiving.rejected("decode_error") >= 1
    (line,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "this port is OTLP/HTTP's: have it use the port of gRPC (4317)" in line.message
