"""The backend of what is forwarded, a process: `python -m benchmarks.peers.sink`.

It prints its address, and for each line of stdin what came until then (`Arrived`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from contextlib import suppress

import msgspec
import uvloop

from k8strace import _fastpath
from k8strace.budget import Budget
from k8strace.grpc import Call, ServerSettings
from k8strace.grpc.native import Server

PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
BUDGET = 1 << 30
BYTES_RECEIVED = 128  # where tcp_info has tcpi_bytes_received (linux/tcp.h)


class Arrived(msgspec.Struct, frozen=True):
    """`size` is of the messages, `wire_size` of all that came over TCP, in bytes."""

    requests: int
    spans: int
    size: int
    wire_size: int


class Sink:
    """Takes every request and counts."""

    def __init__(self) -> None:
        self.requests = 0
        self.spans = 0
        self.size = 0

    async def answer(self, call: Call) -> bytes:
        self.requests += 1
        self.spans += _fastpath.count((call.message,)).spans
        self.size += len(call.message)
        return b""


def received(port: int) -> int:
    """Bytes that came over the open connections to this process's `port`."""
    size = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            descriptor = os.dup(int(name))
            try:
                sock = socket.socket(fileno=descriptor)
            except OSError:
                os.close(descriptor)
                continue
            with sock:
                if sock.family != socket.AF_INET or sock.getsockname()[1] != port:
                    continue
                sock.getpeername()  # fails for the one that listens
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                size += int(struct.unpack_from("=Q", info, BYTES_RECEIVED)[0])
    return size


async def main() -> None:
    sink = Sink()
    settings = ServerSettings(endpoint="127.0.0.1:0")
    server = Server(settings, {PATH: sink.answer}, Budget(BUDGET), lambda *_: None)
    address = await server.start()
    port = int(address.rpartition(":")[2])
    print(address, flush=True)  # noqa: T201
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        arrived = Arrived(sink.requests, sink.spans, sink.size, received(port))
        print(msgspec.json.encode(arrived).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main())
