"""A client of the Kubernetes API, for tests that say each request's caller and headers."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

ADMIN, MONITOR, USER, NOBODY = "admin", "monitor", "alice", "bob"
GROUPS = {
    ADMIN: "system:masters",
    MONITOR: "system:monitoring",
    USER: "devs",
    NOBODY: "nobodies",
}
ANONYMOUS = ""  # no token
STRANGER = "stranger"  # a token that nobody gave out

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

Manifest = Mapping[str, Any]


class Answer(NamedTuple):
    status: int
    body: bytes
    audit_id: str
    """The only thing that leads from an answer to its spans; empty where there is none."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Makes requests to one kube-apiserver, as any of its users.

    Async context manager; connections are kept between requests.
    """

    def __init__(self, url: str, authority: Path) -> None:
        self.url = url
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=60),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        user: str = ADMIN,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer, whatever its status. A `body` that isn't bytes is sent as JSON.

        Raises aiohttp.ClientError where there is no answer.
        """
        assert self._session is not None
        sent = {"User-Agent": "k8strace-tests", **(headers or {})}
        if user:
            sent["Authorization"] = f"Bearer {user}-token"
        if body is not None:
            sent["Content-Type"] = content_type
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = self.url + path
        async with self._session.request(method, url, data=body, headers=sent) as response:
            return Answer(
                response.status, await response.read(), response.headers.get("Audit-Id", "")
            )

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Answer:
        """Server-side apply of one object as the admin, wherever its kind lives.

        Unknown and repeated fields are errors. With `dry_run` all of admission and
        validation is done, and nothing stored.

        Raises:
            LookupError: the kube-apiserver serves no such kind.
        """
        query = "?fieldManager=k8strace-tests&force=true&fieldValidation=Strict"
        if dry_run:
            query += "&dryRun=All"
        path = await self.path_of(manifest)
        return await self.request("PATCH", path + query, manifest, content_type=APPLY)

    async def path_of(self, manifest: Manifest) -> str:
        """The path of an object, from what the kube-apiserver serves."""
        version, kind = manifest["apiVersion"], manifest["kind"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        served = await self.request("GET", base)
        for one in served.json.get("resources", ()):
            if one["kind"] == kind and "/" not in one["name"]:
                metadata = manifest["metadata"]
                if one["namespaced"]:
                    base += f"/namespaces/{metadata.get('namespace', 'default')}"
                return f"{base}/{one['name']}/{metadata['name']}"
        raise LookupError(f"{self.url} serves no {version} {kind}")
