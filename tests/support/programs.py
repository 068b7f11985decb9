"""Peers that are programs of others: built by make where there is Go, or installed."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).parent.parent.parent
LINE = 1 << 20  # bytes that a line of a program's output may have


def built(name: str, target: str = "go-peers") -> str:
    """The path of a program in Go; skips the test where `target` has not made it."""
    path = ROOT / ".venv" / "go" / "bin" / name
    if not path.exists():
        pytest.skip(f"{name} is not built: that takes Go, then `make {target}`")
    return str(path)


def installed(name: str, package: str) -> str:
    """The path of a program of the system; skips the test where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; Debian's package is {package}")
    return path


class Program:
    """A process; `out` is its stdout, `stdin` takes lines.

    It is started by `subprocess`, whatever the loop: uvloop runs Python's fork handlers in
    the child, where gRPC waits for threads that are not there.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        out: asyncio.StreamReader,
        stdin: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self.out = out
        self.stdin = stdin


@asynccontextmanager
async def running(
    *command: str, env: dict[str, str] | None = None
) -> AsyncIterator[Program]:
    """A process that is over afterwards; its stdin and stdout are a socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: ASYNC220
            command, env=env, stdin=theirs.fileno(), stdout=theirs.fileno()
        )
    out, stdin = await asyncio.open_unix_connection(sock=ours, limit=LINE)
    try:
        yield Program(process, out, stdin)
    finally:
        process.kill()
        process.wait()
        stdin.close()
        with suppress(OSError):
            await stdin.wait_closed()


async def output_of(
    *command: str, env: dict[str, str] | None = None, timeout: float = 60.0
) -> tuple[int, bytes]:
    """A program's status and what it wrote, after it ended by itself."""
    async with running(*command, env=env) as program:
        async with asyncio.timeout(timeout):
            out = await program.out.read()
        return program.process.wait(), out


async def listening(port: int, timeout: float = 20.0) -> None:
    """Until a program, which doesn't say it, takes connections."""
    async with asyncio.timeout(timeout):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


class GoResult(msgspec.Struct, frozen=True):
    """What came of the calls of one command; see grpcpeer's client.go."""

    id: int
    codes: dict[str, int]
    echoed: int
    message: str
    details: bytes | None
    trailer: dict[str, list[str]] | None

    @property
    def code(self) -> str:
        (code,) = self.codes
        return code


class GoClient:
    """A process with grpc-go's channels, which makes the calls that it is asked for."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._asked: dict[int, asyncio.Future[GoResult]] = {}
        self._reader = asyncio.ensure_future(self._read())

    async def call(self, path: str, within: float = 60.0, **command: Any) -> GoResult:
        """The result of a command: see grpcpeer's client.go for the fields.

        Its times are in milliseconds; `within` is in seconds, for all of it.
        """
        number = len(self._asked)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[GoResult] = loop.create_future()
        self._asked[number] = future
        line = {"id": number, "path": path, **command}
        self._program.stdin.write(json.dumps(line).encode() + b"\n")
        async with asyncio.timeout(within):
            return await future

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        async for line in self._program.out:
            result = msgspec.json.decode(line, type=GoResult)
            future = self._asked[result.id]
            if not future.done():
                future.set_result(result)


@asynccontextmanager
async def go_client(target: str, *options: str) -> AsyncIterator[GoClient]:
    command = (built("grpcpeer"), "client", "-target", target, *options)
    async with running(*command) as program:
        client = GoClient(program)
        try:
            yield client
        finally:
            await client.close()


class GoCall(msgspec.Struct, frozen=True):
    """A call that grpc-go's server got; see grpcpeer's server.go."""

    path: str
    size: int
    sha256: str
    encoding: str
    deadline: float
    peer: str
    metadata: dict[str, list[str]]
    ended: str


class GoServer:
    def __init__(self, address: str, program: Program) -> None:
        self.address = address
        self._program = program

    async def call(self, timeout: float = 20.0) -> GoCall:
        """The next call that was got and answered."""
        async with asyncio.timeout(timeout):
            return msgspec.json.decode(await self._program.out.readline(), type=GoCall)


@asynccontextmanager
async def go_server(*options: str) -> AsyncIterator[GoServer]:
    async with running(built("grpcpeer"), "server", *options) as program:
        first = json.loads(await program.out.readline())
        yield GoServer(first["address"], program)
