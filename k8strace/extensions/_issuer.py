"""An OpenID Connect issuer: its keys, found out when they are needed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgspec

from k8strace.background import ended, spawn
from k8strace.errors import RefusedError
from k8strace.extensions._files import WatchedFile
from k8strace.extensions._jwt import Key, read_keys
from k8strace.extensions._remote import Log, Remote, check_url, current, trusting

KEYS_FOR = 3600.0  # seconds for which keys are good
ASK_EVERY = 30.0  # seconds between two times that keys are asked for, whatever tokens say
TIMEOUT = 5.0  # seconds, as the Collector's
DISCOVERY = "/.well-known/openid-configuration"


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class Issuer:
    """The issuer at `url`; with a `keys_file` it is not asked."""

    def __init__(self, url: str, ca_path: str, keys_file: str, log: Log) -> None:
        self.url = url
        self._ca = WatchedFile(ca_path, trusting, log) if ca_path else None
        self._file = WatchedFile(keys_file, parse_keys, log) if keys_file else None
        self._remote = Remote(f"the issuer {url}", log, TIMEOUT, current(self._ca))
        self._keys: Sequence[Key] = ()
        self._asked = -math.inf
        self._got = -math.inf
        self._log = log
        self._asking: set[asyncio.Task[RefusedError | None]] = set()  # one at the most

    def load(self) -> None:
        """Read what is in files. Raises ConfigError."""
        for file in (self._ca, self._file):
            if file is not None:
                file.load()

    async def keys(self, *, again: bool = False) -> Sequence[Key]:
        """Its keys, `again` where those that are known are not enough.

        Raises RefusedError where it cannot be asked, and none are known. It is asked once
        at a time, also where those that waited for it have gone. Keys that are enough are
        there at once, whatever is asked for meanwhile.
        """
        if self._file is not None:
            return self._file.value
        now = monotonic()
        is_wanted = again or now - self._got >= KEYS_FOR or not self._keys
        is_time = now - self._asked >= ASK_EVERY or not self._keys
        if is_wanted and is_time and not self._asking:
            self._asked = now
            spawn(self._renew(), "asking the issuer for its keys", self._log, self._asking)
        if is_wanted:
            for asking in tuple(self._asking):
                error = await asyncio.shield(asking)
                if error is not None and not self._keys:
                    raise RefusedError(str(error), error.retry_after)
        return self._keys

    async def close(self) -> None:
        for asking in tuple(self._asking):
            asking.cancel()
            await ended(asking)
        await self._remote.close()

    async def _renew(self) -> RefusedError | None:
        """Ask for the keys, and keep those that are known where that fails."""
        try:
            self._keys = await self._ask()
            self._got = monotonic()
        except RefusedError as error:
            return error
        return None

    async def _ask(self) -> Sequence[Key]:
        found = await self._json(self.url.rstrip("/") + DISCOVERY, _Discovery)
        if found.issuer != self.url:
            raise self._remote.failed(f"it calls itself {found.issuer[:200]!r}")
        try:
            check_url(found.jwks_uri)
            return read_keys(await self._json(found.jwks_uri, dict[str, Any]))
        except ValueError as error:
            raise self._remote.failed(f"its key set {error}") from None

    async def _json(self, url: str, into: Any) -> Any:
        answer = await self._remote.ask("GET", url, headers={"Accept": "application/json"})
        if answer.status != 200:
            raise self._remote.failed(f"HTTP status {answer.status} of {url}")
        return self._remote.decode(answer, into)


def parse_keys(content: bytes) -> Sequence[Key]:
    """The keys of a file. Raises ValueError."""
    try:
        return read_keys(msgspec.json.decode(content))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError("is no JSON") from error
