"""What a kube-apiserver calls: webhooks for admission and conversion, an aggregated API."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiohttp import web

from tests.end_to_end.kube.client import Client
from tests.support.certificates import Pair

GROUP = "things.k8strace.test"
GROUP_VERSION = f"{GROUP}/v1"
CONTEXT = ("traceparent", "tracestate", "baggage")
LABELS = [{"op": "add", "path": "/metadata/labels", "value": {"mutated": "yes"}}]
TOO_LATE = 1
"""Seconds that a webhook may take; /slow takes longer."""


class Called(NamedTuple):
    """A request of the kube-apiserver's, with its trace context."""

    method: str
    path: str
    headers: dict[str, str]


class Callees:
    """An HTTPS server on loopback, with `pair`; async context manager.

    Paths of webhooks are /allow, /deny, /mutate, /broken, /slow, /callback, /convert; the
    aggregated API has `things` in each namespace, of which `broken` is broken. /callback
    and `things` ask the kube-apiserver of `client` in turn, and pass trace context on.
    """

    def __init__(self, client: Client, pair: Pair) -> None:
        self._client = client
        self._pair = pair
        self._runner: web.ServerRunner | None = None
        self.port = 0
        self.called: list[Called] = []

    async def __aenter__(self) -> Callees:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._pair.cert, self._pair.key)
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        _, self.port = runner.addresses[0]
        self._runner = runner
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {
            name: request.headers[name] for name in CONTEXT if name in request.headers
        }
        self.called.append(Called(request.method, request.path, headers))
        if request.path.startswith(f"/apis/{GROUP_VERSION}"):
            return await self._aggregated(request, headers)
        if request.method != "POST":
            return _status(404)
        review = json.loads(await request.read())
        if request.path == "/convert":
            return _answered(review, _converted(review["request"]))
        return await self._admission(request.path, review, headers)

    async def _admission(
        self, path: str, review: Any, headers: Mapping[str, str]
    ) -> web.Response:
        verdict: dict[str, Any] = {"allowed": path != "/deny"}
        if path == "/deny":
            verdict["status"] = {"code": 403, "message": "no"}
        elif path == "/mutate":
            patch = base64.b64encode(json.dumps(LABELS).encode()).decode()
            verdict |= {"patchType": "JSONPatch", "patch": patch}
        elif path == "/slow":
            await asyncio.sleep(2 * TOO_LATE)
        elif path == "/callback":
            await self._ask("/api/v1/namespaces/default/configmaps?limit=1", headers)
            await self._ask("/api/v1/namespaces/default/secrets/missing", headers)
        elif path == "/broken":
            return _status(500)
        return _answered(review, verdict)

    async def _aggregated(
        self, request: web.BaseRequest, headers: Mapping[str, str]
    ) -> web.Response:
        if request.path == f"/apis/{GROUP_VERSION}":
            things = {"name": "things", "singularName": "thing", "kind": "Thing"}
            resource = {**things, "namespaced": True, "verbs": ["get", "list"]}
            return web.json_response(
                {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": GROUP_VERSION,
                    "resources": [resource],
                }
            )
        if request.path.endswith("/broken"):
            return _status(500)
        await self._ask("/api/v1/namespaces/default", headers)
        kind = {"kind": "ThingList", "apiVersion": GROUP_VERSION}
        return web.json_response({**kind, "metadata": {}, "items": []})

    async def _ask(self, path: str, headers: Mapping[str, str]) -> None:
        await self._client.request("GET", path, headers=headers)


def _answered(review: Any, response: Mapping[str, Any]) -> web.Response:
    kind = {name: review[name] for name in ("apiVersion", "kind")}
    uid = review["request"]["uid"]
    return web.json_response({**kind, "response": {"uid": uid, **response}})


def _converted(request: Any) -> dict[str, Any]:
    wanted = request["desiredAPIVersion"]
    return {
        "result": {"status": "Success"},
        "convertedObjects": [{**one, "apiVersion": wanted} for one in request["objects"]],
    }


def _status(code: int) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return web.json_response(status, status=code)
