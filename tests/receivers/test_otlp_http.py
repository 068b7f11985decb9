"""OTLP over HTTP, with aiohttp's client and with bytes on a socket."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import re
import socket
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import lz4.frame
import msgspec
import pytest
import zstandard
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)

from k8strace.budget import LONGEST_PACE, Budget, Lease
from k8strace.errors import RefusedError, RejectedError
from k8strace.grpc.status import Code, retry_delay
from k8strace.net import http1
from k8strace.payload import Origin
from tests.support.otlp import Receiving
from tests.support.requests import request
from tests.support.snappy import block, framed
from tests.test_codec import zstd_streamed

PROTOBUF = {"Content-Type": "application/x-protobuf"}
GZIP = PROTOBUF | {"Content-Encoding": "gzip"}
ZSTD = PROTOBUF | {"Content-Encoding": "zstd"}


def encoded(name: str) -> dict[str, str]:
    return PROTOBUF | {"Content-Encoding": name}


HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-protobuf\r\n"


def status_in(content_type: str, body: bytes) -> Status:
    """The google.rpc.Status in a response of that content type."""
    if content_type == "application/json":
        error = json_format.Parse(body, Status())
    else:
        assert content_type == "application/x-protobuf"
        error = Status.FromString(body)
    assert error.message
    return error


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def error(self) -> Status:
        """The google.rpc.Status that every failure has for a body."""
        return status_in(self.headers["Content-Type"], self.body)


Headers = dict[str, str] | list[tuple[str, str]]


class Poster:
    def __init__(self, receiving: Receiving, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._url = receiving.url

    async def __call__(
        self, body: Any, headers: Headers = PROTOBUF, **options: Any
    ) -> Answer:
        method = options.pop("method", "POST")
        url = options.pop("url", self._url)
        async with self._session.request(
            method, url, data=body, headers=headers, **options
        ) as response:
            return Answer(response.status, response.headers, await response.read())


@asynccontextmanager
async def http_only(
    http: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Receiving, Poster]]:
    async with (
        Receiving(http=http or {}, **options) as receiving,
        aiohttp.ClientSession() as session,
    ):
        yield receiving, Poster(receiving, session)


async def pieces(body: bytes, size: int = 100) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


GOOD = request(10).SerializeToString()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (GOOD, PROTOBUF),
        (GOOD, PROTOBUF | {"Content-Encoding": "identity"}),
        (GOOD, {"Content-Type": "application/x-protobuf; charset=utf-8"}),
        (GOOD, PROTOBUF | {"Expect": "100-continue"}),
        (gzip.compress(GOOD), GZIP),
        (gzip.compress(GOOD[:50]) + gzip.compress(GOOD[50:]), GZIP),
        (zstandard.compress(GOOD), ZSTD),
        (zstd_streamed(GOOD[:50]) + zstandard.compress(GOOD[50:]), ZSTD),
        (gzip.compress(GOOD), encoded("x-gzip")),
        (gzip.compress(GOOD), encoded(" GZIP ")),
        (zlib.compress(GOOD), encoded("deflate")),
        (zlib.compress(GOOD)[2:-4], encoded("deflate")),
        (zlib.compress(GOOD), encoded("zlib")),
        (block(GOOD), encoded("snappy")),
        (framed(GOOD), encoded("snappy")),
        (framed(GOOD), encoded("x-snappy-framed")),
        (lz4.frame.compress(GOOD), encoded("lz4")),
    ],
    ids=range(17),
)
@pytest.mark.parametrize("chunked", [True, False])
async def test_spans_arrive(body: bytes, headers: dict[str, str], chunked: bool) -> None:
    async with http_only() as (receiving, post):
        answer = await post(pieces(body) if chunked else body, headers)
        assert answer.status == HTTPStatus.OK
        assert answer.headers["Content-Type"] == "application/x-protobuf"
        assert answer.body == b""
        (payload,) = receiving.sink.payloads
        assert payload.chunks == (GOOD,)
        assert payload.origin is not None
        assert payload.origin.peer.startswith("127.0.0.1:")
        assert payload.wait_until > 0
        assert receiving.budget.used == len(GOOD)
        assert receiving.counted("http") == (10, 0, 0)
        assert receiving.counted("grpc") == (0, 0, 0)
        del payload


async def test_an_empty_request_succeeds() -> None:
    async with http_only() as (receiving, post):
        for body, headers in ((b"", PROTOBUF), (gzip.compress(b""), GZIP)):
            answer = await post(body, headers)
            assert (answer.status, answer.body) == (HTTPStatus.OK, b"")
        assert receiving.ledger.received == 0


async def test_415_says_what_is_taken() -> None:
    taken = "identity, gzip, x-gzip, zstd, deflate, zlib, snappy, x-snappy-framed, lz4"
    async with http_only() as (_, post):
        answer = await post(GOOD, encoded("br"))
        assert answer.headers["Accept-Encoding"] == taken
        assert "Accept" not in answer.headers
        assert answer.error.message == (
            f"content encoding 'br' is not supported: send one of {taken}"
        )
        answer = await post(GOOD, {"Content-Type": "application/json"})
        assert answer.headers["Accept"] == "application/x-protobuf"
        assert "Accept-Encoding" not in answer.headers


async def test_what_is_not_what_it_says_it_is() -> None:
    async with http_only() as (receiving, post):
        for number, name in enumerate(
            ("deflate", "zlib", "snappy", "x-snappy-framed", "lz4", "zstd", "x-gzip"), 1
        ):
            answer = await post(b"\x0b" + GOOD, encoded(name))
            assert (answer.status, answer.error.code) == (400, Code.INVALID_ARGUMENT)
            assert answer.error.message.partition(": ")[0] == name.removeprefix(
                "x-"
            ).removesuffix("-framed")
            assert receiving.rejected("decode_error") == number
        assert receiving.budget.used == 0


async def test_partial_success() -> None:
    async with http_only() as (receiving, post):
        message = request(4)
        message.resource_spans[0].scope_spans[0].spans[2].trace_id = b""
        answer = await post(message.SerializeToString())
        assert answer.status == HTTPStatus.OK
        partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
        assert partial.rejected_spans == 1
        assert receiving.counted("http") == (3, 1, 0)


@pytest.mark.parametrize(
    ("options", "status", "code", "reason"),
    [
        ({"method": "GET"}, 405, Code.UNIMPLEMENTED, "unknown_method"),
        ({"method": "PUT"}, 405, Code.UNIMPLEMENTED, "unknown_method"),
        (
            {"headers": {"Content-Type": "application/json"}},
            *(415, Code.INVALID_ARGUMENT, "unsupported"),
        ),
        ({"headers": {}}, 415, Code.INVALID_ARGUMENT, "unsupported"),
        (
            {"headers": PROTOBUF | {"Content-Encoding": "br"}},
            *(415, Code.INVALID_ARGUMENT, "unsupported"),
        ),
        (
            {"headers": PROTOBUF | {"Content-Encoding": "gzip, gzip"}},
            *(415, Code.INVALID_ARGUMENT, "unsupported"),
        ),
        ({"body": GOOD[:-1]}, 400, Code.INVALID_ARGUMENT, "decode_error"),
        ({"body": GOOD, "headers": GZIP}, 400, Code.INVALID_ARGUMENT, "decode_error"),
        (
            {"body": gzip.compress(GOOD)[:-1], "headers": GZIP},
            *(400, Code.INVALID_ARGUMENT, "decode_error"),
        ),
        ({"body": b"", "headers": GZIP}, 400, Code.INVALID_ARGUMENT, "decode_error"),
        ({"body": GOOD, "headers": ZSTD}, 400, Code.INVALID_ARGUMENT, "decode_error"),
    ],
    ids=range(11),
)
async def test_what_is_wrong_is_said_and_counted(
    options: dict[str, Any], status: int, code: Code, reason: str
) -> None:
    async with http_only() as (receiving, post):
        answer = await post(**({"body": GOOD} | options))
        assert answer.status == status
        assert answer.error.code == code
        assert answer.headers.get("Allow") == ("POST" if status == 405 else None)
        assert "Retry-After" not in answer.headers
        assert receiving.rejected(reason) == 1
        assert receiving.sink.calls == 0
        assert (await post(GOOD)).status == HTTPStatus.OK


@pytest.mark.parametrize("first", ["identity", "gzip"])
async def test_codings_in_several_lines_are_one_list(first: str) -> None:
    """They are not the first one alone, whose result would be no request."""
    async with http_only() as (receiving, post):
        headers = [*encoded(first).items(), ("Content-Encoding", "gzip")]
        answer = await post(gzip.compress(GOOD), headers=headers)
        assert answer.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        assert f"'{first}, gzip' is not supported" in answer.error.message
        assert receiving.rejected("unsupported") == 1


async def test_other_paths() -> None:
    async with http_only({"traces_url_path": "otlp/traces"}) as (receiving, post):
        url = receiving.url
        answer = await post(GOOD, url=url)
        assert answer.status == HTTPStatus.NOT_FOUND
        assert answer.error.message == (
            "/v1/traces is not served: send traces, and only traces, to /otlp/traces"
        )
        answer = await post(GOOD, url=url + "/%20\x7f" + "x" * 1000)
        assert answer.status == HTTPStatus.NOT_FOUND
        assert len(answer.error.message) < 200
        assert receiving.rejected("unknown_method") == 2
        answer = await post(GOOD, url=url.replace("/v1/traces", "/otlp/traces?x=1"))
        assert answer.status == HTTPStatus.OK


async def test_the_limit_is_on_the_decompressed_size() -> None:
    limit = 200_000
    async with http_only({"max_request_body_size": limit}) as (receiving, post):
        over = b"\x0a" + os.urandom(limit)
        for number, (body, headers) in enumerate(
            (
                (over, PROTOBUF),
                (pieces(over, 50_000), PROTOBUF),
                (gzip.compress(over), GZIP),
                (gzip.compress(bytes(100 * limit)), GZIP),
                (pieces(gzip.compress(bytes(100 * limit)), 1000), GZIP),
                (zstandard.compress(bytes(100 * limit)), ZSTD),
                (zstd_streamed(bytes(100 * limit)), ZSTD),
                (zlib.compress(bytes(100 * limit)), encoded("deflate")),
                (zlib.compress(bytes(100 * limit)), encoded("zlib")),
                (block(bytes(2 * limit)), encoded("snappy")),
                (framed(bytes(2 * limit)), encoded("x-snappy-framed")),
                (lz4.frame.compress(bytes(100 * limit)), encoded("lz4")),
            ),
            start=1,
        ):
            answer = await post(body, headers)
            assert answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            assert answer.error.code == Code.RESOURCE_EXHAUSTED
            assert "Retry-After" not in answer.headers
            assert receiving.rejected("msg_too_large") == number
        assert (await post(gzip.compress(GOOD), GZIP)).status == HTTPStatus.OK


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (RefusedError("full", 0.3), 503, Code.UNAVAILABLE, "1"),
        (RefusedError("full", 1.5), 503, Code.UNAVAILABLE, "2"),
        (RefusedError("full"), 503, Code.UNAVAILABLE, "1"),
        (RejectedError("bad"), 400, Code.INVALID_ARGUMENT, None),
        (MemoryError(), 503, Code.UNAVAILABLE, "1"),
        (OSError(28, "No space left on device"), 503, Code.UNAVAILABLE, "1"),
        (ZeroDivisionError("bug"), 500, Code.INTERNAL, None),
    ],
)
async def test_what_is_behind_refuses(
    error: Exception, status: int, code: Code, retry: str | None
) -> None:
    async with http_only() as (receiving, post):
        receiving.frames_are_logged = isinstance(error, ZeroDivisionError)
        receiving.sink.failures = [error]
        answer = await post(GOOD)
        assert answer.status == status
        assert answer.error.code == code
        assert answer.headers.get("Retry-After") == retry
        assert (retry_delay(answer.body) is None) == (retry is None)
        assert sum(receiving.counted("http")) == receiving.ledger.received == 10
        assert (await post(GOOD)).status == HTTPStatus.OK


async def test_a_full_budget_refuses_before_the_body_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("k8strace.grpc.MAX_HOLD", 0.05)
    budget = Budget(10_000)
    async with http_only(budget=budget) as (receiving, post):
        lease = Lease(budget, 10_000, "another")
        for body in (GOOD, pieces(GOOD)):
            answer = await post(body)
            assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert int(answer.headers["Retry-After"]) >= 1
        reader, writer = await receiving.connect()
        writer.write(HEAD + b"Content-Length: 9999\r\n\r\n")
        assert b" 503 " in await reader.readline()
        writer.close()
        assert receiving.rejected("memory") == 3
        assert receiving.sink.calls == 0
        del lease


async def test_senders_go_at_the_pace_of_what_is_behind() -> None:
    budget = Budget(1_000_000)
    budget.backlog = 500_000
    async with http_only(budget=budget) as (_, post):
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(3):
            assert (await post(GOOD)).status == HTTPStatus.OK
        assert loop.time() - begun >= 3 * LONGEST_PACE - 0.01


async def test_a_full_budget_holds_the_request_for_a_while() -> None:
    budget = Budget(10_000)
    async with http_only(budget=budget) as (_, post):
        lease = Lease(budget, 10_000, "another")
        sending = asyncio.ensure_future(post(GOOD))
        async with asyncio.timeout(20):
            while not budget.waiting:  # noqa: ASYNC110  (the body comes by a socket)
                await asyncio.sleep(0.001)
        del lease
        assert (await sending).status == HTTPStatus.OK


async def test_a_body_that_outgrows_the_budget_is_refused() -> None:
    budget = Budget(200_000)
    async with http_only(budget=budget) as (receiving, post):
        body = b"\x0a" + bytes(400_000)
        for sent, headers in (
            (pieces(body, 50_000), PROTOBUF),
            (gzip.compress(body), GZIP),
        ):
            answer = await post(sent, headers)
            assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert "Retry-After" in answer.headers
        assert receiving.rejected("memory") == 2
        assert budget.used == 0


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"]
)
async def test_a_slow_body_is_cut_off(
    framing: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "LINGER", 0.05)
    async with http_only(slow_body_after="1s") as (receiving, post):
        reader, writer = await receiving.connect()
        writer.write(HEAD + framing + b"\r\n\r\n3\r\nabc\r\n")
        assert b" 503 " in await asyncio.wait_for(reader.readline(), 20)
        rest = await asyncio.wait_for(reader.read(), 20)
        assert b"application/x-protobuf" in rest
        assert b"Retry-After: 1\r\n" in rest
        writer.close()
        assert receiving.rejected("slow") == 1
        assert receiving.budget.used == 0
        assert (await post(GOOD)).status == HTTPStatus.OK


async def test_a_slow_but_steady_body_is_taken() -> None:
    """Each part buys time at the rate that is asked for."""
    async with http_only(slow_body_after="1s", slow_body_rate=100) as (receiving, _):
        reader, writer = await receiving.connect()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD))
        step = len(GOOD) // 4 + 1
        for start in range(0, len(GOOD), step):
            writer.write(GOOD[start : start + step])
            await asyncio.sleep(0.3)
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 20)
        writer.close()


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"]
)
@pytest.mark.parametrize("part", [b"", b"3\r\nabc\r\n"])
async def test_a_client_that_goes_away_in_the_body(framing: bytes, part: bytes) -> None:
    async with http_only() as (receiving, post):
        _, writer = await receiving.connect()
        writer.write(HEAD + framing + b"\r\n\r\n" + part)
        await writer.drain()
        assert (await post(GOOD)).status == HTTPStatus.OK
        writer.transport.abort()
        async with asyncio.timeout(20):
            while not receiving.rejected("incomplete"):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert receiving.sink.calls == 1


async def test_a_client_that_goes_away_while_it_waits_is_refused() -> None:
    async with http_only() as (receiving, _):
        receiving.sink.gate = asyncio.Event()
        _, writer = await receiving.connect()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
        async with asyncio.timeout(20):
            while not receiving.sink.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            writer.transport.abort()
            while not receiving.ledger.refused:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert receiving.counted("http") == (0, 10, 0)


@pytest.mark.parametrize(
    ("rubbish", "status", "reason"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400, "decode_error"),
        (b"GET\r\n\r\n", 400, "decode_error"),
        (b"post /v1/traces HTTP/1.1\r\n\r\n", 400, "decode_error"),
        (HEAD.replace(b"\r\n", b"\n") + b"\n", 400, "decode_error"),
        (HEAD.replace(b"Host: test", b"Host: test\r\nHost: test"), 400, "decode_error"),
        (HEAD.replace(b"Host: test\r\n", b""), 400, "decode_error"),
        (HEAD + b" folded\r\n", 400, "decode_error"),
        (HEAD + b"Content-Length: abc\r\n", 400, "decode_error"),
        (HEAD + b"Content-Length: -1\r\n", 400, "decode_error"),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n", 400, "decode_error"),
        (
            HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            *(400, "decode_error"),
        ),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
            *(400, "decode_error"),
        ),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n", 501, "unsupported"),
        (HEAD.replace(b"HTTP/1.1", b"HTTP/2.0"), 505, "decode_error"),
        (HEAD + b"X: " + b"y" * 100_000 + b"\r\n", 431, "msg_too_large"),
        (HEAD + b"X: y\r\n" * 300, 431, "msg_too_large"),
    ],
    ids=range(16),
)
async def test_what_is_no_http(
    rubbish: bytes, status: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is answered with a Status, counted and logged."""
    async with http_only() as (receiving, post):
        reader, writer = await receiving.connect()
        writer.write(rubbish + b"\r\n")
        head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"Connection: close" in head
        assert b"Server:" not in head
        status_in("application/x-protobuf", body)
        writer.close()
        assert receiving.rejected(reason) == 1
        assert "Traceback" not in caplog.text
        (line,) = [r.__dict__ for r in caplog.records if r.levelno == logging.WARNING]
        assert line["peer"].startswith("127.0.0.1:")
        assert (await post(GOOD)).status == HTTPStatus.OK


async def test_random_bytes() -> None:
    async with http_only() as (receiving, post):
        for _ in range(5):
            reader, writer = await receiving.connect()
            writer.write(os.urandom(1000))
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 20)
            writer.close()
        assert (await post(GOOD)).status == HTTPStatus.OK


async def test_metadata_comes_along_when_asked() -> None:
    async with http_only({"include_metadata": True}) as (receiving, post):
        await post(GOOD, PROTOBUF | {"X-Tenant": "blue"})
        (payload,) = receiving.sink.payloads
        assert payload.origin is not None
        assert dict(payload.origin.metadata)["x-tenant"] == "blue"
        del payload


async def test_metadata_that_is_not_utf_8_is_text_that_encodes() -> None:
    """It goes to disk with a payload, and in a batch with others'."""
    fields = b"X-A: gr\xc3\xbcn\r\nX-B: gr\xfcn\r\nX-C: \xff\xed\xa0\x80\r\nX-D:\r\n"
    async with http_only({"include_metadata": True}) as (receiving, _):
        reader, writer = await receiving.connect()
        writer.write(HEAD + fields + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 20)
        writer.close()
        (payload,) = receiving.sink.payloads
        assert payload.origin is not None
        metadata = dict(payload.origin.metadata)
        assert (metadata["x-a"], metadata["x-b"], metadata["x-d"]) == ("grün", "grün", "")
        assert metadata["x-c"].encode().decode() == metadata["x-c"]
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(payload.origin), type=Origin)
        del payload


async def test_any_refusal_of_json_is_json() -> None:
    async with http_only() as (receiving, _):
        for rest in (
            *(b"Content-Length: 2\r\n\r\n{}", b"Content-Length: x\r\n\r\n"),
            *(b"X: " + b"y" * 100_000 + b"\r\n\r\n", b"Transfer-Encoding: a\r\n\r\n"),
        ):
            reader, writer = await receiving.connect()
            writer.write(HEAD.replace(b"x-protobuf", b"JSON; a=b") + rest)
            line = await asyncio.wait_for(reader.readline(), 20)
            assert line.startswith(b"HTTP/1.1 4")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            assert b"Content-Type: application/json\r\n" in head
            found = re.search(rb"Content-Length: (\d+)", head)
            assert found is not None
            body = await reader.readexactly(int(found[1]))
            assert status_in("application/json", body).code in (3, 8)
            writer.close()


@pytest.mark.parametrize("alive", [True, False])
async def test_keep_alive(alive: bool) -> None:
    async with http_only({"keep_alives_enabled": alive}) as (receiving, _):
        reader, writer = await receiving.connect()
        for number in range(2):
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            if not alive:
                assert await asyncio.wait_for(reader.read(), 20) == b""
                break
            assert receiving.sink.calls == number + 1
        writer.close()


async def test_idle_connections_end() -> None:
    async with http_only({"idle_timeout": "1s"}) as (receiving, _):
        reader, writer = await receiving.connect()
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    http = {"transport": "unix", "endpoint": f"unix://{path}"}
    async with Receiving(http=http) as receiving:
        assert receiving.receiver.addresses["http"] == f"unix:{path}"
        with pytest.raises(OSError, match="in use"):
            await Receiving(http=http).receiver.start()
        connector = aiohttp.UnixConnector(str(path))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://test/v1/traces", data=GOOD, headers=PROTOBUF) as response,
        ):
            assert response.status == HTTPStatus.OK
        (payload,) = receiving.sink.payloads
        assert payload.origin is not None
        assert payload.origin.peer == "unix:"
        del payload
    assert not path.exists()


async def test_an_address_in_use_or_not_ours_is_named() -> None:
    async with Receiving(http={}) as receiving:
        taken = receiving.receiver.addresses["http"]
        for endpoint, text in ((taken, "in use"), ("no.such.name.invalid:1", "name")):
            other = Receiving(http={"endpoint": endpoint})
            with pytest.raises(OSError, match=text) as caught:
                await other.receiver.start()
            assert endpoint in str(caught.value)


async def test_stop_lets_running_requests_end() -> None:
    async with http_only() as (receiving, post):
        receiving.sink.gate = gate = asyncio.Event()
        sending = asyncio.ensure_future(post(GOOD))
        async with asyncio.timeout(20):
            while not receiving.sink.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        loop = asyncio.get_running_loop()
        stopping = asyncio.ensure_future(receiving.receiver.stop(loop.time() + 20))
        await asyncio.sleep(0)
        gate.set()
        assert (await sending).status == HTTPStatus.OK
        await stopping
        await receiving.receiver.stop(loop.time())


async def test_stop_cancels_at_its_deadline() -> None:
    async with http_only() as (receiving, post):
        receiving.sink.gate = asyncio.Event()
        sending = asyncio.ensure_future(post(GOOD))
        async with asyncio.timeout(20):
            while not receiving.sink.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await receiving.receiver.stop(0)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await sending
        assert receiving.ledger.refused == 10
