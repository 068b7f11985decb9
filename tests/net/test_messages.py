"""Responses as bytes; h11 reads them."""

from __future__ import annotations

from http import HTTPStatus

import h11
import pytest

from k8strace.net.messages import HTTPError, Response, encode, text_response


def read(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response, body = client.next_event(), b""
    assert isinstance(response, h11.Response)
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += event.data
    assert client.trailing_data == (b"", False)
    return response, body


@pytest.mark.parametrize("is_head", [True, False])
@pytest.mark.parametrize("body", [b"", b"hello"])
@pytest.mark.parametrize("status", list(HTTPStatus)[4:])
def test_responses(status: HTTPStatus, body: bytes, is_head: bool) -> None:
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return  # they have no body, and are not sent
    response = Response(status, body, "text/plain", (("Allow", "GET"),))
    found, got = read(
        encode(response, closes=False, is_head=is_head), "HEAD" if is_head else "GET"
    )
    headers = dict(found.headers)
    assert found.status_code == status
    assert got == (b"" if is_head else body)
    assert headers[b"content-length"] == b"%d" % len(body)
    assert headers[b"content-type"] == b"text/plain"
    assert headers[b"allow"] == b"GET"
    assert headers[b"date"].endswith(b" GMT")
    assert b"server" not in headers
    assert b"connection" not in headers


def test_connections_that_end_and_old_ones_that_go_on() -> None:
    response = text_response(200, "grün")
    found, body = read(encode(response, closes=True, is_old=True))
    assert dict(found.headers)[b"connection"] == b"close"
    assert body == "grün".encode()
    found, _ = read(encode(response, closes=False, is_old=True))
    assert dict(found.headers)[b"connection"] == b"keep-alive"
    found, _ = read(encode(Response(), closes=False))
    assert b"content-type" not in dict(found.headers)


def test_an_error_has_what_a_response_needs() -> None:
    error = HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, "memory", "no room", 1.5)
    assert (error.status, error.reason, str(error)) == (503, "memory", "no room")
    assert error.retry_after == 1.5
