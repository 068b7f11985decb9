"""oidc: callers show JWTs that an OpenID Connect issuer has signed.

A server's alone (collector extension `oidc`).
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Any, ClassVar

from k8strace.auth import AuthConfig, Authenticator, ServerAuthenticator, Side, Verdict
from k8strace.component import Config as ComponentConfig
from k8strace.component import Context
from k8strace.extensions import _jwt
from k8strace.extensions._issuer import Issuer
from k8strace.extensions._remote import check_url
from k8strace.extensions._verdicts import BearerVerdicts, Found
from k8strace.headers import header_name

KNOWN_FOR = 300.0  # seconds, or until the token expires
DENIED_FOR = 60.0
AT_A_TIME = 2  # signatures take the loop's time


class Provider(ComponentConfig, frozen=True, kw_only=True):
    """An issuer. With `public_keys_file`, a JWK set, it is not asked for its keys."""

    not_available: ClassVar[Mapping[str, str]] = {
        "ignore_issuer": "name the issuer of the tokens",
    }

    issuer_url: str = ""
    audience: str = ""
    ignore_audience: bool = False
    issuer_ca_path: str = ""
    username_claim: str = ""
    groups_claim: str = ""
    public_keys_file: str = ""

    def __post_init__(self) -> None:
        if not self.issuer_url:
            raise ValueError("no IssuerURL provided: give `issuer_url`")
        if not (self.audience or self.ignore_audience):
            raise ValueError("no Audience provided: give `audience` or `ignore_audience`")
        if not self.public_keys_file:
            try:
                check_url(self.issuer_url)
            except ValueError as error:
                raise ValueError(f"`issuer_url`: {error}") from error


class Config(AuthConfig, frozen=True, kw_only=True):
    """The first provider can stand here itself, as the Collector once had it."""

    attribute: str = "authorization"
    issuer_url: str = ""
    audience: str = ""
    ignore_audience: bool = False
    issuer_ca_path: str = ""
    username_claim: str = ""
    groups_claim: str = ""
    providers: tuple[Provider, ...] = ()

    def __post_init__(self) -> None:
        try:
            header_name(self.attribute)
        except ValueError as error:
            raise ValueError(f"`attribute`: {error}") from error
        issuers = [one.issuer_url for one in self.all_providers()]
        if not issuers:
            raise ValueError("no provider: give issuer_url and audience, or providers")
        if len(set(issuers)) < len(issuers):
            raise ValueError("duplicate issuer URL found in `providers`")

    def all_providers(self) -> tuple[Provider, ...]:
        """The one that stands here, and the others."""
        ours = (self.issuer_url, self.audience, self.ignore_audience, self.issuer_ca_path)
        if not any((*ours, self.username_claim, self.groups_claim)):
            return self.providers
        first = Provider(
            issuer_url=self.issuer_url,
            audience=self.audience,
            ignore_audience=self.ignore_audience,
            issuer_ca_path=self.issuer_ca_path,
            username_claim=self.username_claim,
            groups_claim=self.groups_claim,
        )
        return (first, *self.providers)

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("server",)


class OIDC(Authenticator[Config]):
    type_name = "oidc"
    config_type = Config
    challenge = "Bearer"

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.header = header_name(config.attribute)
        self._providers = {
            one.issuer_url: (
                one,
                Issuer(one.issuer_url, one.issuer_ca_path, one.public_keys_file, self.log),
            )
            for one in config.all_providers()
        }
        self._verdicts = BearerVerdicts(self._find, AT_A_TIME)

    async def start(self) -> None:
        for _, issuer in self._providers.values():
            issuer.load()

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        await self._verdicts.close()
        for _, issuer in self._providers.values():
            await issuer.close()

    def server(self) -> ServerAuthenticator:
        return self

    def recall(self, credential: bytes) -> Verdict | None:
        return self._verdicts.recall(credential)

    async def ask(self, credential: bytes, peer: str = "") -> Verdict:
        return await self._verdicts.ask(credential, peer)

    async def _find(self, text: str) -> Found:
        try:
            return await self._judge(text)
        except _jwt.UnknownKeyError as error:
            # The issuer may have it soon.
            return Found(Verdict(denial=str(error)), 0)
        except ValueError as error:
            return Found(Verdict(denial=str(error)), DENIED_FOR)

    async def _judge(self, text: str) -> Found:
        """Raises ValueError, which says why not."""
        token = _jwt.read(text)
        named = token.claims.get("iss")
        found = self._providers.get(named) if isinstance(named, str) else None
        if found is None:
            raise ValueError("the token is of an issuer that is not configured")
        provider, issuer = found
        audience = None if provider.ignore_audience else provider.audience
        # First what costs nothing, and needs nobody.
        expires = _jwt.check(token.claims, provider.issuer_url, audience, time())
        try:
            _jwt.verify(token, await issuer.keys())
        except _jwt.UnknownKeyError:
            _jwt.verify(token, await issuer.keys(again=True))
        verdict = Verdict(
            subject=_subject(token.claims, provider.username_claim),
            groups=_groups(token.claims, provider.groups_claim),
        )
        return Found(verdict, min(KNOWN_FOR, expires - time()))


def _subject(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name or "sub")
    if not isinstance(value, str) or not value:
        raise ValueError(f"the token's claim {name or 'sub'!r} is no name")
    return value


def _groups(claims: dict[str, Any], name: str) -> tuple[str, ...]:
    if not name:
        return ()
    if name not in claims:
        raise ValueError(f"the token has no claim {name!r}")
    value = claims[name]
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
