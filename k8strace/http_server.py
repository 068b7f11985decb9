"""A small HTTP server for what the gateway says of itself: health and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from k8strace.addresses import join_address

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HTTPServer:
    """Answers GET on given paths."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError that names the address."""
        app = web.Application(client_max_size=1024)
        app.add_routes([web.get(path, handler) for path, handler in self._handlers.items()])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError as error:
            await runner.cleanup()
            where = join_address(host, port)
            raise OSError(
                error.errno, f"cannot listen on {where}: {error.strerror}"
            ) from error
        self._runner = runner
        bound_host, bound_port = runner.addresses[0][:2]
        self.address = join_address(bound_host, bound_port)

    async def stop(self) -> None:
        """Stop listening; does nothing when it isn't."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
