"""An HTTP server on loopback that answers as a test tells it."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from tests.support.certificates import Pair

TLS = Path(__file__).parents[1] / "data" / "tls"
CA = str(TLS / "server.pem")


class Got(NamedTuple):
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answering = Callable[[Got], Awaitable[web.Response]]


class HTTPPeer:
    """Answers with what `answer` returns; `got` has what it was asked.

    With `tls` it has this certificate of localhost, or the one of tests/data.
    """

    def __init__(self, answer: Answering, *, tls: Pair | bool = False) -> None:
        self.answer = answer
        self.got: list[Got] = []
        self.url = ""
        self._tls = tls
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> HTTPPeer:
        context = None
        if self._tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            own = Pair(TLS / "server.pem", TLS / "server.key")
            context.load_cert_chain(*(self._tls if isinstance(self._tls, Pair) else own))
        server = web.Server(self._answer, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"https://localhost:{port}" if self._tls else f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        got = Got(request.method, request.path_qs, headers, body)
        self.got.append(got)
        return await self.answer(got)


def json(value: Any, status: int = 200, **headers: str) -> web.Response:
    return web.json_response(value, status=status, headers=headers)
