"""headers_setter: headers of requests that go out, from the requests that came in.

A client's alone (collector extension `headers_setter`).
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from k8strace.auth import (
    CLIENT,
    AuthConfig,
    Authenticator,
    ClientAuth,
    ClientAuthenticator,
    Metadata,
    Side,
    client_authenticator,
)
from k8strace.component import ComponentID, Context
from k8strace.component import Config as ComponentConfig
from k8strace.errors import RejectedError
from k8strace.extensions._files import WatchedFile
from k8strace.headers import header_name, header_value
from k8strace.payload import Origin
from k8strace.secret import Secret

ATTRIBUTES = ("subject", "username", "membership")
"""What is kept of an authenticated caller; the first two are its name."""

_SOURCES = ("value", "value_file", "from_context", "from_attribute")


class Header(ComponentConfig, frozen=True, kw_only=True):
    """What is done with the header `key`, and where its value is from.

    `default_value` stands for what `from_context` or `from_attribute` doesn't find.
    """

    action: Literal["insert", "update", "upsert", "delete"] = "upsert"
    key: str = ""
    value: Secret | None = None
    value_file: str | None = None
    from_context: str | None = None
    from_attribute: str | None = None
    default_value: Secret = Secret()

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("missing header name: give `key`")
        try:
            header_name(self.key)
        except ValueError as error:
            raise ValueError(f"`key`: {error}") from error
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if self.action == "delete":
            return
        if len(given) != 1:
            raise ValueError(
                f"header {self.key!r} needs one of {', '.join(_SOURCES)}, "
                f"and has {' and '.join(given) or 'none'}"
            )
        if self.from_attribute is not None and self.from_attribute not in ATTRIBUTES:
            raise ValueError(
                f"`from_attribute`: of a caller {', '.join(ATTRIBUTES)} are kept, "
                f"not {self.from_attribute!r}"
            )
        for name in ("value", "default_value"):
            text: Secret | None = getattr(self, name)
            try:
                header_value("" if text is None else text.reveal())
            except ValueError as error:
                raise ValueError(f"`{name}` {error}") from None

    @property
    def needs_origin(self) -> bool:
        if self.action == "delete":
            return False
        return self.from_context is not None or self.from_attribute is not None


class Config(AuthConfig, frozen=True, kw_only=True):
    """`additional_auth` is another client's authenticator, which comes first."""

    headers: tuple[Header, ...] = ()
    additional_auth: Annotated[ComponentID | None, CLIENT] = None

    def __post_init__(self) -> None:
        if not self.headers:
            raise ValueError("missing headers configuration: give `headers`")

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("client",)


class HeadersSetter(Authenticator[Config]):
    type_name = "headers_setter"
    config_type = Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self._files = {
            one.value_file: WatchedFile(one.value_file, _text, self.log)
            for one in config.headers
            if one.value_file is not None and one.action != "delete"
        }
        self._additional: ClientAuthenticator | None = None
        self._is_asking = False
        self._last: tuple[Metadata, tuple[str, ...], Metadata] = ((), (), ())

    async def start(self) -> None:
        for file in self._files.values():
            file.load()

    def client(self) -> ClientAuthenticator:
        # Not before: extensions may be made in any order.
        id_ = self.config.additional_auth
        if id_ is not None and self._additional is None:
            if self._is_asking:
                raise ValueError(f"`additional_auth` of {self.context.id} leads to itself")
            self._is_asking = True
            auth = ClientAuth(authenticator=id_)
            self._additional = client_authenticator(auth, self.context)
        return self

    @property
    def needs_tls(self) -> bool:
        """As the Collector's, headers alone count as no secret."""
        return self._additional is not None and self._additional.needs_tls

    @property
    def needs_origin(self) -> bool:
        if any(one.needs_origin for one in self.config.headers):
            return True
        return self._additional is not None and self._additional.needs_origin

    @property
    def reads_metadata(self) -> tuple[str, ...]:
        names = [
            one.from_context.lower()
            for one in self.config.headers
            if one.from_context is not None and one.needs_origin
        ]
        if self._additional is not None:
            names += self._additional.reads_metadata
        return tuple(names)

    async def metadata(self, headers: Metadata, origin: Origin | None) -> Metadata:
        if self._additional is not None:
            headers = await self._additional.metadata(headers, origin)
        values = tuple(self._value(one, origin) for one in self.config.headers)
        before, values_before, made = self._last
        if before is headers and values_before == values:
            return made
        found = dict(headers)
        for one, value in zip(self.config.headers, values, strict=True):
            key = one.key.lower()
            if one.action == "delete":
                found.pop(key, None)
            elif one.action == "upsert" or (one.action == "insert") != (key in found):
                found[key] = value
        made = tuple(found.items())
        self._last = headers, values, made
        return made

    def _value(self, one: Header, origin: Origin | None) -> str:
        if one.action == "delete":
            return ""
        if one.value is not None:
            return header_value(one.value.reveal())
        if one.value_file is not None:
            return self._files[one.value_file].value
        found = _of_caller(one, origin) if one.from_attribute else _of_request(one, origin)
        if found is None:
            return header_value(one.default_value.reveal())
        try:
            return header_value(found)
        except ValueError as error:
            raise RejectedError(
                f"what is to be the header {one.key!r} {error}", about_data=False
            ) from None


def _of_request(one: Header, origin: Origin | None) -> str | None:
    name = (one.from_context or "").lower()
    values = [value for key, value in (origin.metadata if origin else ()) if key == name]
    if len(values) > 1:
        raise RejectedError(
            f"the request has {len(values)} headers {name!r}: which of them is to be the "
            f"header {one.key!r} is not known",
            about_data=False,
        )
    return values[0] if values else None


def _of_caller(one: Header, origin: Origin | None) -> str | None:
    if origin is None or origin.subject is None:
        return None
    if one.from_attribute == "membership":
        return json.dumps(origin.groups, separators=(",", ":"))  # ASCII, with escapes
    return origin.subject


def _text(content: bytes) -> str:
    return header_value(content.decode("utf-8", "replace"))
