"""oauth2client: shows backends a token that an authorization server gives (RFC 6749, 4.4).

A client's alone (collector extension `oauth2client`).
"""

from __future__ import annotations

import asyncio
import math
from base64 import b64encode
from collections.abc import Mapping
from time import monotonic
from typing import ClassVar, Literal
from urllib.parse import quote_plus, urlencode

import msgspec

from k8strace.auth import AuthConfig, Authenticator, ClientAuthenticator, Metadata, Side
from k8strace.background import ended
from k8strace.component import Context
from k8strace.errors import OptionError, RefusedError
from k8strace.extensions._files import WatchedFile
from k8strace.extensions._headers import OneHeader
from k8strace.extensions._remote import Answer, Remote, check_url
from k8strace.headers import is_value
from k8strace.payload import Origin
from k8strace.secret import Secret
from k8strace.tls.contexts import Contexts
from k8strace.tls.options import ClientTLS
from k8strace.units import Duration

LONGEST = 30.0  # seconds for an answer where no `timeout` is given
RETRY_EVERY = 10.0  # seconds between tries to renew a token that is still good
MAX_SHOWN = 100  # characters of an error

_TYPES = {"": "Bearer", "bearer": "Bearer", "mac": "MAC", "basic": "Basic"}


class Config(AuthConfig, frozen=True, kw_only=True):
    """Files go before the values beside them. `expiry_buffer` is how long before its end a
    token is renewed. `tls::insecure` allows a `token_url` that is not encrypted.
    """

    not_available: ClassVar[Mapping[str, str]] = {
        "client_certificate_key": "use client_secret",
        "client_certificate_key_file": "use client_secret",
        "client_certificate_key_id": "use client_secret",
        "signature_algorithm": "use client_secret",
        "claims": "use client_secret",
        "iss": "use client_secret",
        "audience": "use client_secret",
    }

    client_id: str = ""
    client_id_file: str = ""
    client_secret: Secret = Secret()
    client_secret_file: str = ""
    token_url: str = ""
    scopes: tuple[str, ...] = ()
    endpoint_params: dict[str, tuple[Secret, ...]] = msgspec.field(default_factory=dict)
    grant_type: Literal["client_credentials"] = "client_credentials"
    tls: ClientTLS = ClientTLS()
    timeout: Duration = Duration(0)
    expiry_buffer: Duration = Duration(300.0)

    def __post_init__(self) -> None:
        if not (self.client_id or self.client_id_file):
            raise ValueError("no ClientID provided: give client_id or client_id_file")
        if not (self.client_secret or self.client_secret_file):
            raise ValueError(
                "no ClientSecret provided: give client_secret or client_secret_file"
            )
        if not self.token_url:
            raise ValueError("no TokenURL provided: give token_url")
        try:
            check_url(self.token_url, insecure=self.tls.insecure)
        except ValueError as error:
            raise ValueError(f"`token_url`: {error}") from error
        for name in ("timeout", "expiry_buffer"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative: {getattr(self, name)}")

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("client",)


class _Answer(msgspec.Struct):
    access_token: str = ""
    token_type: str = ""
    expires_in: float | None = None
    error: str = ""


class OAuth2Client(Authenticator[Config]):
    type_name = "oauth2client"
    config_type = Config
    needs_tls = True
    needs_origin = False

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self._id = self._secret = None
        if config.client_id_file:
            self._id = WatchedFile(config.client_id_file, _text, self.log)
        if config.client_secret_file:
            self._secret = WatchedFile(config.client_secret_file, _text, self.log)
        self._contexts = Contexts(config.tls)
        self._remote = Remote(
            f"the authorization server {config.token_url}",
            self.log,
            config.timeout or LONGEST,
            self._contexts.current,
            config.tls.server_name_override,
        )
        self._one = OneHeader("authorization")
        self._value = ""
        self._renew_at = self._expires_at = -math.inf
        self._renewing: asyncio.Task[None] | None = None
        self._in_body = False  # the server wants id and secret there

    async def start(self) -> None:
        for file in (self._id, self._secret):
            if file is not None:
                file.load()
        try:
            await self._contexts.load()
        except OptionError as error:
            raise error.below("tls") from error

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        if self._renewing is not None:
            self._renewing.cancel()
            await ended(self._renewing)
        await self._remote.close()

    def client(self) -> ClientAuthenticator:
        return self

    async def metadata(self, headers: Metadata, origin: Origin | None) -> Metadata:  # noqa: ARG002
        if monotonic() >= self._renew_at:
            await self._renewed()
        return self._one.set(headers, self._value)

    async def _renewed(self) -> None:
        """Return with a token that is good; all that wait for one wait for the same."""
        task = self._renewing
        if task is None:
            task = self._renewing = asyncio.get_running_loop().create_task(self._renew())
            task.add_done_callback(self._ended)
        try:
            await asyncio.shield(task)
        except RefusedError:
            if monotonic() >= self._expires_at:
                raise
        except asyncio.CancelledError:
            if task.cancelled():  # which is `stop`, and not the caller
                raise RefusedError("there is no token: stopped") from None
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._renewing = None
        if not task.cancelled() and task.exception() is not None:
            now = monotonic()
            # While the old one is good, not every request has to wait for the next try.
            self._renew_at = now + RETRY_EVERY if now < self._expires_at else -math.inf

    async def _renew(self) -> None:
        answer = await self._ask()
        if answer.status in (400, 401) and not self._in_body:
            # Servers differ in where they want id and secret, and don't say it.
            self._in_body = True
            answer = await self._ask()
            self._in_body = answer.status == 200
        found = self._read(answer)
        now = monotonic()
        lifetime = math.inf if found.expires_in is None else found.expires_in
        kind = _TYPES.get(found.token_type.lower(), found.token_type)
        self._value = f"{kind} {found.access_token}"
        self._expires_at = now + lifetime
        # One that is shorter than the buffer is used for half of its time.
        self._renew_at = now + max(lifetime - self.config.expiry_buffer, lifetime / 2)

    async def _ask(self) -> Answer:
        config = self.config
        name = config.client_id if self._id is None else self._id.value
        secret = config.client_secret.reveal()
        if self._secret is not None:
            secret = self._secret.value
        form: list[tuple[str, str]] = [("grant_type", config.grant_type)]
        if config.scopes:
            form.append(("scope", " ".join(config.scopes)))
        for key, values in config.endpoint_params.items():
            form += [(key, value.reveal()) for value in values]
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        if self._in_body:
            form += [("client_id", name), ("client_secret", secret)]
        else:
            both = f"{quote_plus(name)}:{quote_plus(secret)}".encode()
            headers["Authorization"] = f"Basic {b64encode(both).decode()}"
        data = urlencode(form).encode()
        return await self._remote.ask("POST", config.token_url, headers=headers, data=data)

    def _read(self, answer: Answer) -> _Answer:
        try:
            found = msgspec.json.decode(answer.body, type=_Answer, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = _Answer()
        if answer.status != 200:
            why = f": {found.error[:MAX_SHOWN]}" if found.error else ""
            text = f"HTTP status {answer.status}{why}"
            raise self._remote.failed(text, answer.retry_after)
        if not found.access_token or not (
            is_value(found.access_token) and is_value(found.token_type)
        ):
            raise self._remote.failed("an answer without a token")
        return found


def _text(content: bytes) -> str:
    text = content.decode("utf-8", "replace").strip()
    if not text:
        raise ValueError("is empty")
    return text
