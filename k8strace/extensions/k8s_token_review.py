"""k8s_token_review: tokens of ServiceAccounts, which the Kubernetes API checks.

The Collector has nothing like it. Each token is sent to the API server as a TokenReview;
what it answers is kept for a while.
"""

from __future__ import annotations

import os
import ssl
from time import time
from typing import Annotated

import msgspec

from k8strace.addresses import join_address
from k8strace.auth import (
    AuthConfig,
    Authenticator,
    ServerAuthenticator,
    Side,
    Verdict,
)
from k8strace.component import Context
from k8strace.errors import ConfigError
from k8strace.extensions._files import WatchedFile
from k8strace.extensions._remote import Answer, Remote, check_url, current, trusting
from k8strace.extensions._tokens import expiry
from k8strace.extensions._verdicts import BearerVerdicts, Found
from k8strace.headers import is_value
from k8strace.units import Duration

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
MAX_SHOWN = 200  # characters of what the API server says


class Config(AuthConfig, frozen=True, kw_only=True):
    """In a cluster, `endpoint`, `ca_file` and `token_file` are known to every pod.

    Where `endpoint` is given, these files are none unless they are given, too.
    `audiences` are those that tokens have to be for, one of them; without, the API server's
    own. Zero `cache_ttl` or `denied_cache_ttl` keeps nothing.
    """

    audiences: tuple[str, ...] = ()
    endpoint: str = ""
    ca_file: str = ""
    token_file: str = ""
    timeout: Duration = Duration(5.0)
    cache_ttl: Duration = Duration(60.0)
    denied_cache_ttl: Duration = Duration(10.0)
    max_concurrent_reviews: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8

    def __post_init__(self) -> None:
        if self.endpoint:
            try:
                check_url(self.endpoint)
            except ValueError as error:
                raise ValueError(f"`endpoint`: {error}") from error
        if "" in self.audiences:
            raise ValueError("`audiences` has an empty one")
        if self.timeout <= 0:
            raise ValueError(f"`timeout` must be positive, not {self.timeout}")
        for name in ("cache_ttl", "denied_cache_ttl"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative: {getattr(self, name)}")

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("server",)


class _User(msgspec.Struct):
    username: str = ""
    groups: tuple[str, ...] = ()


class _Status(msgspec.Struct):
    authenticated: bool = False
    user: _User = msgspec.field(default_factory=_User)
    audiences: list[str] | None = None
    error: str = ""


class _Review(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


class TokenReview(Authenticator[Config]):
    type_name = "k8s_token_review"
    config_type = Config
    header = "authorization"
    challenge = "Bearer"

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        ca, token = config.ca_file, config.token_file
        if not config.endpoint:
            ca, token = ca or f"{ACCOUNT}/ca.crt", token or f"{ACCOUNT}/token"
        self._ca = WatchedFile(ca, trusting, self.log) if ca else None
        self._token = WatchedFile(token, _own_token, self.log) if token else None
        self._url = ""
        self._remote = Remote(
            "the Kubernetes API server", self.log, config.timeout, current(self._ca)
        )
        self._verdicts = BearerVerdicts(self._review, config.max_concurrent_reviews)

    async def start(self) -> None:
        endpoint = self.config.endpoint or _in_cluster()
        self._url = endpoint.rstrip("/") + PATH
        files: tuple[WatchedFile[ssl.SSLContext] | WatchedFile[str] | None, ...]
        files = (self._ca, self._token)
        for file in files:
            if file is not None:
                file.load()
        self.log.info("tokens are reviewed by %s", endpoint)

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        await self._verdicts.close()
        await self._remote.close()

    def server(self) -> ServerAuthenticator:
        return self

    def recall(self, credential: bytes) -> Verdict | None:
        return self._verdicts.recall(credential)

    async def ask(self, credential: bytes, peer: str = "") -> Verdict:
        return await self._verdicts.ask(credential, peer)

    async def _review(self, token: str) -> Found:
        spec = {"token": token, "audiences": self.config.audiences}
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": spec if self.config.audiences else {"token": token},
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.value}"
        answer = await self._remote.ask(
            "POST", self._url, headers=headers, data=msgspec.json.encode(review)
        )
        return self._found(token, self._read(answer))

    def _read(self, answer: Answer) -> _Status:
        if answer.status in (401, 403):
            raise self._remote.failed(
                f"HTTP status {answer.status}: the gateway may not create tokenreviews; "
                "bind its ServiceAccount to the ClusterRole system:auth-delegator"
            )
        if answer.status not in (200, 201):
            raise self._remote.failed(f"HTTP status {answer.status}", answer.retry_after)
        return self._remote.decode(answer, _Review).status

    def _found(self, token: str, status: _Status) -> Found:
        wanted = self.config.audiences
        if not status.authenticated:
            why = status.error.replace(token, "…")[:MAX_SHOWN] or "no reason given"
            text = f"the API server doesn't know the token: {why}"
        elif wanted and not set(wanted) & set(status.audiences or ()):
            # An API server that doesn't know of audiences has not looked at them.
            text = f"the token is for none of the audiences {', '.join(wanted)}"
        elif not status.user.username:
            text = "the token has no user"
        else:
            seconds: float = self.config.cache_ttl
            if (expires := expiry(token)) is not None:
                seconds = min(seconds, expires - time())
            user = status.user
            return Found(Verdict(user.username, groups=user.groups), seconds)
        return Found(Verdict(denial=text), self.config.denied_cache_ttl)


def _in_cluster() -> str:
    """The API server of the cluster that this is in. Raises ConfigError outside of one."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not port.isdigit():
        raise ConfigError(
            [
                "endpoint is not given, and KUBERNETES_SERVICE_HOST is not set: this is no "
                "pod of a cluster"
            ]
        )
    return f"https://{join_address(host, int(port))}"


def _own_token(content: bytes) -> str:
    token = content.decode("utf-8", "replace").strip()
    if not token or not is_value(token):
        raise ValueError("has no token in it")
    return token
