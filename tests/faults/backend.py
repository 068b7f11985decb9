"""A backend, a process: `python -m tests.faults.backend ADDRESS FILE`.

The ids of what it takes are appended to the file before it answers, so that they outlive
it. It says "ready" when it listens.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import cast

import uvloop

from k8strace import _fastpath
from k8strace.budget import Budget
from k8strace.grpc import Call, ServerSettings
from k8strace.grpc.native import Server
from tests.support.backend import PATH

BUDGET = 1 << 28


async def main(address: str, path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)

    async def answer(call: Call) -> bytes:
        (ids,) = _fastpath.fields((call.message,), "span_id")
        data = b"".join(cast("list[bytes]", ids))
        assert os.write(file, data) == len(data)
        return b""

    settings = ServerSettings(endpoint=address)
    server = Server(settings, {PATH: answer}, Budget(BUDGET), lambda *_: None)
    await server.start()
    print("ready", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
