"""basicauth: users and passwords (RFC 7617).

A server takes those that an htpasswd file or text has; a client sends one (collector
extension `basicauth`).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import NamedTuple

from k8strace.auth import (
    AuthConfig,
    Authenticator,
    ClientAuthenticator,
    Metadata,
    ServerAuthenticator,
    Side,
    Verdict,
)
from k8strace.component import Config as ComponentConfig
from k8strace.component import Context
from k8strace.extensions._files import WatchedFile
from k8strace.extensions._headers import OneHeader
from k8strace.extensions._htpasswd import Users, is_slow, matches, matches_slowly, parse
from k8strace.extensions._verdicts import Found, Verdicts
from k8strace.payload import Origin
from k8strace.secret import Secret

HEADER = "authorization"
KNOWN_FOR = 300.0  # seconds; a file that changes ends it
DENIED_FOR = 60.0
AT_A_TIME = 1  # so that one of the threads is left to the data

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
        self._inline: Users = {}
        self._from_file: Users | None = None
        self._file: WatchedFile[Users] | None = None
        self._verdicts = Verdicts(self._find, AT_A_TIME)
        self._one = OneHeader(HEADER)
        self._user: WatchedFile[str] | None = None
        self._password: WatchedFile[str] | None = None
        if config.htpasswd is not None:
            self._inline = self._users = parse(config.htpasswd.inline.reveal().encode())
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

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        await self._verdicts.close()

    def server(self) -> ServerAuthenticator:
        return self

    def client(self) -> ClientAuthenticator:
        return self

    def recall(self, credential: bytes) -> Verdict | None:
        users = self._current()
        given = _read(credential)
        if isinstance(given, Verdict):
            return given
        hashed = users.get(given.user)
        if hashed is None:
            return _INVALID
        if not is_slow(hashed):
            return _verdict(given, matches(given.password, hashed))
        return self._verdicts.recall(credential)

    async def ask(self, credential: bytes) -> Verdict:
        return await self._verdicts.ask(credential)

    async def _find(self, credential: bytes) -> Found:
        given = _read(credential)
        hashed = b"" if isinstance(given, Verdict) else self._users.get(given.user, b"")
        if isinstance(given, Verdict) or not is_slow(hashed):
            # It was not, when it was recalled: the file has changed since.
            return Found(self.recall(credential) or _INVALID, 0)
        right = await matches_slowly(given.password, hashed)
        return Found(_verdict(given, right), KNOWN_FOR if right else DENIED_FOR)

    def _current(self) -> Users:
        if self._file is not None and (users := self._file.value) is not self._from_file:
            self._from_file = users
            self._users = users | self._inline
            self._verdicts.forget()
        return self._users

    async def metadata(self, headers: Metadata, origin: Origin | None) -> Metadata:  # noqa: ARG002
        ours = self.config.client_auth
        assert ours is not None
        user = ours.username if self._user is None else self._user.value
        secret = ours.password.reveal() if self._password is None else self._password.value
        both = b64encode(f"{user}:{secret}".encode()).decode()
        return self._one.set(headers, f"Basic {both}")


def _read(credential: bytes) -> _Credentials | Verdict:
    """User and password, or what is wrong with how they are written."""
    scheme, _, encoded = credential.partition(b" ")
    if scheme.lower() != b"basic":
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
