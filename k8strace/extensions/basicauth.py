"""basicauth: users and passwords (RFC 7617).

A server takes those that an htpasswd file or text has; a client sends one (collector
extension `basicauth`).
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Coroutine
from hashlib import blake2b
from os import urandom
from typing import Any, NamedTuple

from k8strace.auth import (
    AuthConfig,
    Authenticator,
    ClientAuthenticator,
    Metadata,
    ServerAuthenticator,
    Side,
    Verdict,
)
from k8strace.background import ended
from k8strace.component import Config as ComponentConfig
from k8strace.component import Context
from k8strace.extensions._files import WatchedFile
from k8strace.extensions._headers import OneHeader
from k8strace.extensions._htpasswd import Users, is_slow, matches, matches_slowly, parse
from k8strace.extensions._tokens import scheme_and_rest
from k8strace.extensions._verdicts import Found, Verdicts
from k8strace.payload import Origin
from k8strace.secret import Secret

HEADER = "authorization"
KNOWN_FOR = 300.0  # seconds; a file that changes ends it
DENIED_FOR = 60.0
AT_A_TIME = 1  # so that one of the threads is left to the data

NO_USERS = "`htpasswd` has no user: every request is refused"

_KEY = urandom(32)
_NO_SCHEME = Verdict(denial="the authorization scheme is not Basic")
_NO_FORMAT = Verdict(denial="the credentials are not base64 of user:password")
_INVALID = Verdict(denial="user or password is wrong")


class Htpasswd(ComponentConfig, frozen=True, kw_only=True):
    """`htpasswd`: users of `inline` go before those of `file`."""

    file: str = ""
    inline: Secret = Secret()

    def __post_init__(self) -> None:
        if not (self.file or self.inline):
            raise ValueError("no credential source provided: give `file` or `inline`")
        try:
            parse(self.inline.reveal().encode())
        except ValueError as error:
            raise ValueError(f"`inline`: {error}") from error


class ClientCredentials(ComponentConfig, frozen=True, kw_only=True):
    """`client_auth`: a file goes before the value beside it."""

    username: str = ""
    username_file: str = ""
    password: Secret = Secret()
    password_file: str = ""

    def __post_init__(self) -> None:
        if not (self.username or self.username_file):
            raise ValueError("give `username` or `username_file`")
        if ":" in self.username:
            raise ValueError("`username` has a colon, which ends it")


class Config(AuthConfig, frozen=True, kw_only=True):
    """`htpasswd` makes it a server's, `client_auth` a client's."""

    htpasswd: Htpasswd | None = None
    client_auth: ClientCredentials | None = None

    def __post_init__(self) -> None:
        if self.htpasswd is not None and self.client_auth is not None:
            raise ValueError("only one of `htpasswd` or `client_auth` can be specified")
        if self.htpasswd is None and self.client_auth is None:
            raise ValueError("no credential source provided: give htpasswd or client_auth")

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("server",) if self.htpasswd is not None else ("client",)


class _Credentials(NamedTuple):
    user: bytes
    password: bytes


class BasicAuth(Authenticator[Config]):
    type_name = "basicauth"
    config_type = Config
    header = HEADER
    challenge = 'Basic realm="k8strace", charset="UTF-8"'
    needs_tls = True
    needs_origin = False

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self._users: Users = {}
        self._hashes: tuple[bytes, ...] = ()
        self._inline: Users = {}
        self._from_file: Users | None = None
        self._file: WatchedFile[Users] | None = None
        self._verdicts = Verdicts(self._find, AT_A_TIME)
        self._one = OneHeader(HEADER)
        self._user: WatchedFile[str] | None = None
        self._password: WatchedFile[str] | None = None
        if config.htpasswd is not None:
            self._inline = self._users = parse(config.htpasswd.inline.reveal().encode())
            self._hashes = tuple(self._users.values())
            if config.htpasswd.file:
                self._file = WatchedFile(config.htpasswd.file, parse, self.log)
        if (ours := config.client_auth) is not None:
            if ours.username_file:
                self._user = WatchedFile(ours.username_file, _username, self.log)
            if ours.password_file:
                self._password = WatchedFile(ours.password_file, _text, self.log)

    async def start(self) -> None:
        for file in (self._file, self._user, self._password):
            if file is not None:
                file.load()
        self._current()
        if self.config.htpasswd is not None and self._file is None and not self._users:
            self.log.warning(NO_USERS)

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        await self._verdicts.close()

    def server(self) -> ServerAuthenticator:
        return self

    def client(self) -> ClientAuthenticator:
        return self

    def recall(self, credential: bytes) -> Verdict | None:
        self._current()
        given = _read(credential)
        if isinstance(given, Verdict):
            return given
        hashed, is_user = self._hash_of(given.user)
        if not is_slow(hashed):
            return _verdict(given, matches(given.password, hashed) and is_user)
        return self._verdicts.recall(credential)

    async def ask(self, credential: bytes, peer: str = "") -> Verdict:
        return await self._verdicts.ask(credential, peer)

    async def _find(self, credential: bytes) -> Found:
        given = _read(credential)
        if isinstance(given, Verdict):
            return Found(given, 0)
        hashed, is_user = self._hash_of(given.user)
        if not is_slow(hashed):
            # It was, when it was recalled: the file has changed since.
            return Found(self.recall(credential) or _INVALID, 0)
        # A thread that computes a hash cannot be broken off: its turn ends with it.
        right = await _to_its_end(matches_slowly(given.password, hashed)) and is_user
        return Found(_verdict(given, right), KNOWN_FOR if right else DENIED_FOR)

    def _hash_of(self, user: bytes) -> tuple[bytes, bool]:
        """The hash to compare with, and whether it is that of `user`.

        Who is not a user is compared with the hash of somebody else, always the same: how
        long it takes doesn't tell who is one.
        """
        hashed = self._users.get(user)
        if hashed is not None:
            return hashed, True
        if not self._hashes:
            return b"", False
        number = int.from_bytes(blake2b(user, key=_KEY, digest_size=8).digest())
        return self._hashes[number % len(self._hashes)], False

    def _current(self) -> None:
        """Follow the file."""
        if self._file is not None and (users := self._file.value) is not self._from_file:
            self._from_file = users
            self._users = users | self._inline
            self._hashes = tuple(self._users.values())
            self._verdicts.forget()
            if not self._users:
                self.log.warning(NO_USERS)

    async def metadata(self, headers: Metadata, origin: Origin | None) -> Metadata:  # noqa: ARG002
        ours = self.config.client_auth
        assert ours is not None
        user = ours.username if self._user is None else self._user.value
        secret = ours.password.reveal() if self._password is None else self._password.value
        both = b64encode(f"{user}:{secret}".encode()).decode()
        return self._one.set(headers, f"Basic {both}")


async def _to_its_end(judging: Coroutine[Any, Any, bool]) -> bool:
    """Await `judging`; who is cancelled meanwhile goes on when that has ended."""
    task = asyncio.ensure_future(judging)
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            await ended(task)


def _read(credential: bytes) -> _Credentials | Verdict:
    """User and password, or what is wrong with how they are written."""
    scheme, encoded = scheme_and_rest(credential)
    if scheme != b"basic":
        return _NO_SCHEME
    try:
        user, colon, password = b64decode(encoded, validate=True).partition(b":")
    except Base64Error:
        return _NO_FORMAT
    return _Credentials(user, password) if colon else _NO_FORMAT


def _verdict(given: _Credentials, is_right: bool) -> Verdict:
    if not is_right:
        return _INVALID
    return Verdict(subject=given.user.decode("utf-8", "backslashreplace"))


def _text(content: bytes) -> str:
    text = content.decode("utf-8", "replace").strip()
    if not text:
        raise ValueError("is empty")
    return text


def _username(content: bytes) -> str:
    text = _text(content)
    if ":" in text:
        raise ValueError("has a colon in it, which ends a username")
    return text
