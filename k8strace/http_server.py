"""A small HTTP server for what the gateway says of itself: health and metrics."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, InvalidURLError

from k8strace.addresses import join_address, listening_sockets
from k8strace.grpc.native_listener import Listener

MAX_CONNECTIONS = 64  # out of the descriptors that other listeners leave
LAST_WORDS = 1.0  # seconds for requests that run when it stops

Handler = Callable[[web.BaseRequest], Awaitable[web.Response]]

_QUOTED = re.compile(r"""b?(['"]).*\1""")

log = logging.getLogger(__name__)


def malformed(error: BaseException | None) -> str:
    """What is wrong with a request that is no HTTP, without anything of what it says:
    that may be a credential."""
    if not isinstance(error, BadHttpMessage) or isinstance(error, InvalidURLError):
        return "malformed request"
    reason, _, _ = error.message.partition("\n")
    return _QUOTED.sub("…", reason).rstrip(" :")


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether what aiohttp logs is an error of ours, and not a peer's, who is told."""
    return not (record.exc_info and isinstance(record.exc_info[1], BadHttpMessage))


log.addFilter(_is_ours)


class HTTPServer:
    """Answers GET on given paths; one that ends in / stands for all that is below it."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._server: web.Server | None = None
        self._listeners: list[Listener] = []
        self.address = ""

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError that names the address."""
        sockets = await listening_sockets(host, port)
        bound_host, bound_port = sockets[0].getsockname()[:2]
        self._server = server = web.Server(self._answer, access_log=None, logger=log)
        self._listeners = [
            Listener(one, server, None, self._make_room, _no_tls, reserve=0)
            for one in sockets
        ]
        for listener in self._listeners:
            listener.start()
        self.address = join_address(bound_host, bound_port)

    async def stop(self) -> None:
        """Stop listening; does nothing when it isn't."""
        listeners, self._listeners = self._listeners, []
        server, self._server = self._server, None
        for listener in listeners:
            await listener.stop()
        if server is not None:
            server.pre_shutdown()
            await server.shutdown(LAST_WORDS)

    def _make_room(self) -> bool:
        """Probes must get in whatever hangs on to its connection: the oldest one goes."""
        server = self._server
        if server is None:
            return False
        if len(server.connections) >= MAX_CONNECTIONS:
            server.connections[0].force_close()
        return True

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        handler = self._handler(request.path)
        if handler is None:
            return web.Response(status=404, text="404: Not Found")
        if request.method not in ("GET", "HEAD"):
            headers = {"Allow": "GET, HEAD"}
            return web.Response(status=405, text="405: Method Not Allowed", headers=headers)
        return await handler(request)

    def _handler(self, path: str) -> Handler | None:
        for known, handler in self._handlers.items():
            if path == known or (known.endswith("/") and path.startswith(known)):
                return handler
        return None


def _no_tls(reason: str, peer: str, text: str) -> None:
    raise AssertionError((reason, peer, text))
