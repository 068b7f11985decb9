"""Responses of HTTP/1.1 as bytes, and the errors that become one."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

import msgspec

from k8strace.errors import K8sTraceError

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HTTPError(K8sTraceError):
    """A request that is refused with an HTTP status.

    `reason` is the one under which it is counted (`REJECT_REASONS`), `retry_after` the
    seconds after which its client may try again, None where that is of no use. `headers`
    are the response's.
    """

    def __init__(
        self,
        status: HTTPStatus,
        reason: str,
        message: str,
        retry_after: float | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.headers = headers


class Response(msgspec.Struct, frozen=True):
    """`content_type` is left out where it is empty; `headers` come as they are."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def text_response(
    status: int, text: str, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    return Response(status, text.encode(), "text/plain; charset=utf-8", headers)


class _Clock:
    """The header Date, which changes once a second (RFC 9110, section 6.6.1).

    Within it most responses are one and the same: `last` and `encoded` are that.
    """

    def __init__(self) -> None:
        self._second = 0
        self._line = ""
        self.last: Response | None = None
        self.encoded = b""

    def line(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self.last = None
            self._line = f"Date: {formatdate(second, usegmt=True)}\r\n"
        return self._line


_clock = _Clock()


def encode(
    response: Response, *, closes: bool, is_old: bool = False, is_head: bool = False
) -> bytes:
    """`response` as it is sent.

    `closes`: the connection ends after it. `is_old` is for a client of HTTP/1.0, `is_head`
    answers HEAD: the body is left out, its length is told.
    """
    date = _clock.line()
    is_usual = not (closes or is_old or is_head)
    if is_usual and response is _clock.last:
        return _clock.encoded
    status = response.status
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{date}"
        f"Content-Length: {len(response.body)}\r\n"
    )
    if response.content_type:
        head += f"Content-Type: {response.content_type}\r\n"
    for name, value in response.headers:
        head += f"{name}: {value}\r\n"
    if closes:
        head += "Connection: close\r\n"
    elif is_old:
        head += "Connection: keep-alive\r\n"
    data = f"{head}\r\n".encode("latin-1", "replace")
    if not is_head:
        data += response.body
    if is_usual and not response.body:
        _clock.last, _clock.encoded = response, data
    return data
