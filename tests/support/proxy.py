"""A TCP proxy that counts what passes: for what a server cannot tell of its clients.

It can also spoil what the server says, as broken networks and servers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Proxy:
    """Passes connections on to `port` on loopback; counts them and their bytes.

    `spoil` gives what a client gets in place of the server's bytes; where that is less, it
    is the connection's end.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self.spoil: Callable[[bytes], bytes] | None = None
        self.connections = 0
        self.sent = 0
        self.received = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        behind, into = await asyncio.open_connection("127.0.0.1", self._target)

        async def upstream() -> None:
            while data := await reader.read(65536):
                self.sent += len(data)
                into.write(data)
                await into.drain()
            into.close()

        async def downstream() -> None:
            while data := await behind.read(65536):
                self.received += len(data)
                passed = data if self.spoil is None else self.spoil(data)
                writer.write(passed)
                await writer.drain()
                if len(passed) < len(data):
                    raise ConnectionAbortedError("spoiled")
            writer.close()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(upstream())
                group.create_task(downstream())
        except* ConnectionError:
            into.close()
            writer.close()
