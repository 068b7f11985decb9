"""bearertokenauth: tokens that are known beforehand, in the configuration or in a file.

A server takes requests that have one of them; a client sends the first (collector extension
`bearertokenauth`).
"""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest
from typing import ClassVar

from k8strace.auth import (
    AuthConfig,
    Authenticator,
    ClientAuthenticator,
    Metadata,
    ServerAuthenticator,
    Side,
    Verdict,
)
from k8strace.component import Context
from k8strace.extensions._files import WatchedFile
from k8strace.extensions._headers import OneHeader, is_scheme
from k8strace.extensions._tokens import scheme_and_rest
from k8strace.headers import header_name, header_value
from k8strace.payload import Origin
from k8strace.secret import Secret


class Config(AuthConfig, frozen=True, kw_only=True):
    """A file has a token a line, and goes before `token` and `tokens`.

    `scheme` stands in front of each token; where it is empty, the token is alone.
    """

    not_available: ClassVar[Mapping[str, str]] = {
        "retry_on_failure": "leave it out",
        "wait_for_token_file": "leave it out",
    }

    header: str = "Authorization"
    scheme: str = "Bearer"
    token: Secret = Secret()
    tokens: tuple[Secret, ...] = ()
    filename: str = ""

    def __post_init__(self) -> None:
        try:
            header_name(self.header)
        except ValueError as error:
            raise ValueError(f"`header`: {error}") from error
        if self.scheme and not is_scheme(self.scheme):
            # Not shown: it may have the token behind it.
            raise ValueError("`scheme` is no authentication scheme, which is one word")
        if self.token and self.tokens:
            raise ValueError("either `tokens` or `token` should be provided, not both")
        if not (self.token or self.tokens or self.filename):
            raise ValueError("no bearer token provided: give token, tokens or filename")
        if self.token:
            check_token(self.token.reveal(), "`token`")
        for number, token in enumerate(self.tokens):
            check_token(token.reveal(), f"`tokens`[{number}]")

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("server", "client")


def check_token(token: str, where: str) -> None:
    """Raises ValueError, which says nothing of it, for what no header can have."""
    if not token.strip():
        raise ValueError(f"{where} is empty")
    try:
        header_value(token)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None


class BearerTokenAuth(Authenticator[Config]):
    type_name = "bearertokenauth"
    config_type = Config
    needs_tls = True
    needs_origin = False

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.header = header_name(config.header)
        self.challenge = config.scheme or "Bearer"
        self._one = OneHeader(self.header)
        self._known = Verdict()
        self._unknown = Verdict(denial="scheme or token does not match")
        given = (config.token,) if config.token else config.tokens
        self._values = [self._value(one.reveal()) for one in given]
        self._file: WatchedFile[list[bytes]] | None = None
        if config.filename:
            self._file = WatchedFile(config.filename, self._parse, self.log)

    async def start(self) -> None:
        if self._file is not None:
            self._file.load()
            if self._values:
                self.log.warning(
                    "a filename is specified: the configured tokens are ignored"
                )

    def server(self) -> ServerAuthenticator:
        return self

    def client(self) -> ClientAuthenticator:
        return self

    def recall(self, credential: bytes) -> Verdict:
        # All are compared: how long it takes says nothing of which one is near.
        found = False
        given = self._spelled(credential)
        for value in self._values if self._file is None else self._file.value:
            found |= compare_digest(self._spelled(value), given)
        return self._known if found else self._unknown

    async def ask(self, credential: bytes, peer: str = "") -> Verdict:  # noqa: ARG002
        return self.recall(credential)

    async def metadata(self, headers: Metadata, origin: Origin | None) -> Metadata:  # noqa: ARG002
        values = self._values if self._file is None else self._file.value
        return self._one.set(headers, values[0].decode())

    def _spelled(self, credential: bytes) -> bytes:
        """The credential with its scheme as it is spelled here."""
        if not self.config.scheme:
            return credential
        scheme, token = scheme_and_rest(credential)
        return scheme + b" " + token

    def _value(self, token: str) -> bytes:
        scheme, token = self.config.scheme, header_value(token)
        return f"{scheme} {token}".encode() if scheme else token.encode()

    def _parse(self, content: bytes) -> list[bytes]:
        lines = content.decode("utf-8", "replace").split("\n")
        tokens = [(number, line.strip()) for number, line in enumerate(lines, 1)]
        tokens = [(number, token) for number, token in tokens if token]
        if not tokens:
            raise ValueError("has no token in it")
        for number, token in tokens:
            check_token(token, f"line {number}")
        return [self._value(token) for _, token in tokens]
