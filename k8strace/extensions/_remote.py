"""Servers that are asked over HTTP about credentials: bounded in time and in what they say.

A server that doesn't answer, or not as it should, is no reason to refuse a caller for good:
all of that is a RefusedError, and a line in the log, one a minute.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import ssl
from collections.abc import Callable
from functools import cache
from time import monotonic
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from k8strace.auth import RETRY_AFTER
from k8strace.errors import RefusedError
from k8strace.extensions._files import WatchedFile
from k8strace.grpc.status import retry_after as seconds_of
from k8strace.tls.contexts import client_context

LOG_EVERY = 60.0  # seconds between two log lines about one server
MAX_ANSWER = 1024 * 1024  # bytes
MAX_RETRY_AFTER = 60.0  # seconds
NO_USER = "a URL must have no user or password in it"

T = TypeVar("T")
Log = logging.LoggerAdapter[logging.Logger]


class Answer(NamedTuple):
    """What a server said; `retry_after` is in seconds, where it said it."""

    status: int
    body: bytes
    retry_after: float | None


def check_url(url: str, *, insecure: bool = False) -> None:
    """Raises ValueError unless secrets can be sent: by https, or within this machine.

    `insecure` allows more than that.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        if "@" in url:
            raise ValueError(NO_USER) from error
        raise ValueError(f"{url!r} is no URL: {error}") from error
    if parts.username is not None:
        raise ValueError(NO_USER)
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{url!r} is no URL that begins with https://")
    if parts.scheme == "http" and not insecure and not _is_here(host):
        raise ValueError(f"{url!r} would be asked unencrypted: write https://")


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trusting(pem: bytes) -> ssl.SSLContext:
    """What trusts these authorities alone. Raises ValueError where there are none."""
    try:
        # Empty data would be the system's authorities.
        return client_context(pem.decode("ascii") or "none")
    except (UnicodeDecodeError, ssl.SSLError) as error:
        raise ValueError("has no certificates in PEM in it") from error


@cache
def system_context() -> ssl.SSLContext:
    """What trusts the system's authorities."""
    return client_context()


def current(
    file: WatchedFile[ssl.SSLContext] | None,
) -> Callable[[], ssl.SSLContext] | None:
    """What gives the context that a file has now, where there is a file."""
    return None if file is None else lambda: file.value


class Remote:
    """A server, called `name` in errors. `tls` has the context of now, without which it is
    trusted by the system's authorities; `server_name` is who it has to be, if not its host.
    """

    def __init__(
        self,
        name: str,
        log: Log,
        timeout: float,
        tls: Callable[[], ssl.SSLContext] | None = None,
        server_name: str = "",
    ) -> None:
        self._name = name
        self._log = log
        self._timeout = timeout
        if tls is None:
            system_context()  # some 10 ms, now and not while requests wait
        self._tls = tls or system_context
        self._server_name = server_name or None
        self._session: aiohttp.ClientSession | None = None
        self._logged = -math.inf

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> Answer:
        """One request, which is never redirected. Raises RefusedError."""
        session = self._session
        if session is None:
            session = self._session = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(self._timeout or None):
                async with session.request(
                    method,
                    url,
                    headers=headers,
                    data=data,
                    ssl=self._tls(),
                    server_hostname=self._server_name,
                    allow_redirects=False,
                ) as got:
                    body = await _read(got)
                    delay = _delay(got.headers.get("Retry-After"))
                    return Answer(got.status, body, delay)
        except TimeoutError:
            raise self.failed(f"no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self.failed(str(error) or type(error).__name__) from None

    def failed(self, why: str, retry_after: float | None = None) -> RefusedError:
        """The error that tells of a server which is of no use now; `why` has no secret."""
        now = monotonic()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            self._log.error("%s: %s", self._name, why)
        return RefusedError(f"{self._name} cannot be asked", retry_after or RETRY_AFTER)

    def decode(self, answer: Answer, into: type[T]) -> T:
        """What an answer's JSON says. Raises RefusedError where it isn't that."""
        try:
            return msgspec.json.decode(answer.body, type=into)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self.failed(f"an answer that cannot be read: {error}") from None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _read(got: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for part in got.content.iter_chunked(64 * 1024):
        body += part
        if len(body) > MAX_ANSWER:
            raise ValueError(f"an answer of more than {MAX_ANSWER} bytes")
    return body


def _delay(value: str | None) -> float | None:
    """Seconds of a Retry-After, at most `MAX_RETRY_AFTER`."""
    delay = seconds_of((value or "").encode("latin-1", "replace"))
    return None if delay is None else min(delay, MAX_RETRY_AFTER)
