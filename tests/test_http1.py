"""Heads and bodies of HTTP/1; framing of chunks is held against httptools."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace._http1 import MAX_FRAMING, MAX_HEADERS, Body, Chunks, HeadError, Request

START = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n"


def parsed(data: bytes) -> Request:
    request = Request()
    request.parse(data)
    return request


def refused(data: bytes) -> tuple[int, str]:
    with pytest.raises(HeadError) as caught:
        parsed(data)
    return caught.value.status, str(caught.value)


def test_a_head() -> None:
    data = START + b"X-Tenant: \xe9\xff  \t\r\nContent-Length: 12 \r\nx-tenant: b\r\n\r\n"
    request = parsed(data)
    assert (request.method, request.target) == (b"POST", b"/v1/traces")
    assert request.headers == [
        (b"host", b"x"),
        (b"x-tenant", b"\xe9\xff"),
        (b"content-length", b"12"),
        (b"x-tenant", b"b"),
    ]
    assert request.get(b"x-tenant") == b"\xe9\xff"
    assert request.get(b"x-tenan") is None
    assert (request.length, request.size) == (12, len(data))
    assert request.cost > len(data)
    assert request.keeps_alive
    assert not request.is_old
    assert not request.expects_continue


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/v1/traces", "/v1/traces", ""),
        ("/v1/traces?a=b?c#d", "/v1/traces", "a=b?c"),
        ("/v1%2Ftr%61ces", "/v1/traces", ""),
        ("/%ff", "/�", ""),
        ("http://host:4318/v1/traces?x", "/v1/traces", "x"),
        ("HTTP://host/", "/", ""),
        ("//v1/traces", "//v1/traces", ""),
    ],
)
def test_targets(target: str, path: str, query: str) -> None:
    request = parsed(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize(
    ("version", "connection", "keeps_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, Close\r\n", False),
        (b"1.1", b"Connection: close, keep-alive\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_connections_that_go_on(
    version: bytes, connection: bytes, keeps_alive: bool
) -> None:
    head = START.replace(b"1.1", version) + connection
    for fields, length in ((b"\r\n", 0), (b"Content-Length: 3\r\n\r\n", 3)):
        request = parsed(head + fields)
        assert (request.keeps_alive, request.length) == (keeps_alive, length)
        assert request.is_old == (version == b"1.0")


def test_a_chunked_body_of_a_request_that_wants_an_upgrade() -> None:
    fields = b"Transfer-Encoding: Chunked\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    assert parsed(START + fields + b"\r\n").length == -1


def test_a_length_may_begin_with_zeros() -> None:
    for text, length in ((b"0", 0), (b"0" * 30 + b"7", 7), (b"9" * 18, 10**18 - 1)):
        one = Request()
        one.parse(START + b"Content-Length: " + text + b"\r\n\r\n")
        assert one.length == length


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Content-Length: 3\r\nContent-Length: 3\r\n", 400),
        (b"Content-Length: 3, 3\r\n", 400),
        (b"Content-Length: +3\r\n", 400),
        (b"Content-Length: 0x3\r\n", 400),
        (b"Content-Length: 1 2\r\n", 400),
        (b"Content-Length:\r\n", 400),
        (b"Content-Length: 99999999999999999999\r\n", 400),
        (b"Content-Length: 9223372036854775808\r\n", 400),  # 2**63
        (b"Content-Length: 18446744073709551615\r\n", 400),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n", 400),
        (b"Transfer-Encoding: identity\r\n", 400),
        (b"Transfer-Encoding: chunked, gzip\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
        (b"A: b\r\n c\r\n", 400),
        (b"A: b\nC: d\r\n", 400),
        (b"A: b\rC: d\r\n", 400),
        (b"A : b\r\n", 400),
        (b": b\r\n", 400),
        (b"A\r\n", 400),
        (b"A: \0\r\n", 400),
        (b"A: \x01\r\n", 400),
        (b"Host: y\r\n", 400),
        (b"A: b\r\n" * MAX_HEADERS, 431),
    ],
    ids=range(27),
)
def test_fields_that_are_refused(fields: bytes, status: int) -> None:
    """What httptools of any version takes of these would be a way to smuggle requests."""
    assert refused(START + fields + b"\r\n")[0] == status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /", 400),
        (b"GET / HTTP/0.9", 505),
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/1.2", 400),
        (b"get / HTTP/1.1", 400),
        (b"FOO / HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET /\x01 HTTP/1.1", 400),
        (b"SOURCE / ICE/1.0", 400),
        (b"DESCRIBE / RTSP/1.0", 400),
        (b"", 400),
    ],
)
def test_request_lines_that_are_refused(line: bytes, status: int) -> None:
    assert refused(line + b"\r\nHost: x\r\n\r\n")[0] == status


def test_a_head_of_http_1_1_names_one_host() -> None:
    assert refused(b"GET / HTTP/1.1\r\n\r\n")[0] == 400
    assert not parsed(b"GET / HTTP/1.0\r\n\r\n").headers
    assert refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")[0] == 400


def test_what_is_refused_is_not_quoted() -> None:
    for fields in (b"Authorization: hunter2\x01\r\n", b"Authorization hunter2\r\n"):
        assert "hunter2" not in refused(START + fields + b"\r\n")[1]


def test_what_a_refused_head_has_is_guessed() -> None:
    request = Request()
    with pytest.raises(HeadError):
        request.parse(START + b"Content-Type: application/json\r\nA\r\n\r\n")
    assert request.get(b"content-type") == b"application/json"


@given(st.binary(max_size=200))
def test_any_head(data: bytes) -> None:
    for head in (data, START + data + b"\r\n\r\n"):
        with suppress(HeadError):
            request = parsed(head)
            assert request.length >= -1
            request.path.encode()


def test_a_body() -> None:
    body = Body(10)
    body.fill(b"xabcx", 1, 4)
    view = memoryview(cast("Any", body))
    assert len(view) == 7
    view[:4] = b"defg"
    body.advance(4)
    assert (body.size, body.capacity, body.is_full) == (7, 10, False)
    with pytest.raises(BufferError):
        body.grow(20)
    with pytest.raises(BufferError):
        body.take()
    view.release()
    body.grow(20)
    assert body.capacity == 20
    assert body.take() == b"abcdefg"
    for again in (body.take, lambda: memoryview(cast("Any", body)), lambda: body.grow(30)):
        with pytest.raises(BufferError):
            again()
    assert Body(1).take() == b""


def test_a_body_may_be_taken_while_the_loop_has_its_buffer() -> None:
    body = Body(3)
    view = memoryview(cast("Any", body))
    view[:] = b"abc"
    body.advance(3)
    taken = body.take()
    del body
    assert bytes(view) == taken == b"abc"


@pytest.mark.parametrize("size", [-1, 5])
def test_a_body_takes_no_more_than_it_has_place_for(size: int) -> None:
    with pytest.raises(ValueError, match="place"):
        Body(4).advance(size)
    with pytest.raises(ValueError, match="place"):
        Body(4).fill(b"12345", 0, 5)
    with pytest.raises(ValueError, match="above 0"):
        Body(0)
    for start, end in ((-1, 2), (2, 1), (0, 6)):
        with pytest.raises(ValueError, match="no bytes"):
            Body(9).fill(b"12345", start, end)
        with pytest.raises(ValueError, match="no bytes"):
            Chunks().decode(b"12345", start, end, None)


def decoded(data: bytes, size: int, capacity: int = 1 << 16) -> tuple[bytes, int, bool]:
    """The body of chunked `data`, given in pieces of `size`; where it ends, whether."""
    chunks, body, at = Chunks(), Body(capacity), 0
    while at < len(data) and not chunks.is_complete:
        at = chunks.decode(data, at, min(at + size, len(data)), body)
    return body.take(), at, chunks.is_complete


CHUNKED = b"5;x=y\r\nhello\r\nA\r\n0123456789\r\n000\r\nT: x\r\nU:\r\n\r\nrest"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_chunks_in_pieces(size: int) -> None:
    assert decoded(CHUNKED, size) == (b"hello0123456789", len(CHUNKED) - 4, True)
    chunks, at = Chunks(), 0
    while not chunks.is_complete:
        at = chunks.decode(CHUNKED, at, min(at + size, len(CHUNKED)), None)
    assert at == len(CHUNKED) - 4


def test_chunks_stop_where_a_body_is_full() -> None:
    chunks, body = Chunks(), Body(4)
    at = chunks.decode(CHUNKED, 0, len(CHUNKED), body)
    assert (CHUNKED[at : at + 1], body.is_full, chunks.is_complete) == (b"o", True, False)
    body.grow(15)
    at = chunks.decode(CHUNKED, at, len(CHUNKED), body)
    assert (CHUNKED[at:], chunks.is_complete) == (b"rest", True)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"x\r\n",
        b";x\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"1 \r\na\r\n",
        b" 1\r\na\r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\na\rx",
        b"1;\x01\r\na",
        b"1;a\rb\r\n",
        b"1" * 16 + b"\r\n",
        b"0\r\n\n",
        b"0\r\n a: b\r\n",
        b"0\r\n: b\r\n",
        b"0\r\na: \0\r\n",
        b"0\r\na: b\n",
        b"0;" + b"x" * MAX_FRAMING,
        b"0\r\n" + b"a: b\r\n" * MAX_FRAMING,
        b"1;" + b"y" * 4000 + b"\r\na\r\n" + (b"1;" + b"y" * 4000 + b"\r\na\r\n") * 4,
    ],
    ids=range(22),
)
def test_framing_that_is_refused(data: bytes) -> None:
    for size in (1, len(data)):
        with pytest.raises(HeadError, match="malformed chunked body") as caught:
            decoded(data, size)
        assert caught.value.status == 400


def test_small_chunks_are_a_body_as_any() -> None:
    data = b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n"
    assert decoded(data, len(data)) == (b"a" * 50_000, len(data), True)


class Oracle:
    def __init__(self) -> None:
        self.body = b""
        self.is_complete = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_complete = True


def by_httptools(data: bytes) -> tuple[bytes, bool] | None:
    oracle = Oracle()
    parser = httptools.HttpRequestParser(oracle)
    parser.feed_data(START + b"Transfer-Encoding: chunked\r\n\r\n")
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        return None
    return oracle.body, oracle.is_complete


PIECES = st.sampled_from(
    [
        *(b"1\r\na\r\n", b"3\r\nabc\r\n", b"A;b\r\n0123456789\r\n", b"0\r\n", b"\r\n"),
        *(b"2\r\n", b"\n", b"T: x\r\n", b"00a", b"ab", b" ", b";", b"\r", b"\0", b"f" * 16),
    ]
)


@given(st.lists(PIECES, max_size=8), st.integers(1, 40))
def test_framing_is_read_as_httptools_reads_it(parts: list[bytes], size: int) -> None:
    """What we take httptools takes, with the same body."""
    data = b"".join(parts)
    try:
        body, end, is_complete = decoded(data, size)
    except HeadError:
        assert by_httptools(data) != (b"".join(parts), True)
        return
    assert by_httptools(data[:end]) == (body, is_complete)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=10), st.integers(1, 400))
def test_any_body_comes_through_chunks(parts: list[bytes], size: int) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in parts) + b"0\r\n\r\n"
    assert decoded(data + b"more", size) == (b"".join(parts), len(data), True)
