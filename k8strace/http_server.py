"""A small HTTP server for what the gateway says of itself: health and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from k8strace.addresses import join_address, listening_sockets

Handler = Callable[[web.BaseRequest], Awaitable[web.Response]]


class HTTPServer:
    """Answers GET on given paths; one that ends in / stands for all that is below it."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._runner: web.ServerRunner | None = None
        self.address = ""

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError that names the address."""
        sockets = await listening_sockets(host, port)
        bound_host, bound_port = sockets[0].getsockname()[:2]
        server = web.Server(self._answer, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        for one in sockets:
            await web.SockSite(runner, one).start()
        self._runner = runner
        self.address = join_address(bound_host, bound_port)

    async def stop(self) -> None:
        """Stop listening; does nothing when it isn't."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

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
