"""An OpenID Connect issuer."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.support.jwt import claims, jwk, jwt
from tests.support.remote import Got, HTTPPeer, json


class IssuerPeer(HTTPPeer):
    """Shows `keys`; while `status` is set it fails. `calls_itself` is for what is wrong."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__(self._say, tls=tls)
        self.keys = [jwk("ES256", kid="one")]
        self.status = 0
        self.calls_itself = ""

    async def _say(self, got: Got) -> web.Response:
        if self.status:
            return json({}, self.status)
        if got.path == "/.well-known/openid-configuration":
            return json(
                {"issuer": self.calls_itself or self.url, "jwks_uri": f"{self.url}/keys"}
            )
        assert got.path == "/keys"
        return json({"keys": self.keys})

    async def __aenter__(self) -> IssuerPeer:
        await super().__aenter__()
        return self

    def token(self, algorithm: str = "ES256", kid: str = "one", **more: Any) -> bytes:
        body = claims(iss=self.url) | more
        return f"Bearer {jwt(algorithm, body, kid=kid)}".encode()
