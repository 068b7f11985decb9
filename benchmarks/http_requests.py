"""What a request of OTLP/HTTP costs the gateway, in CPU.

    python -m benchmarks.http_requests [--seconds 4] [--connections 4]

The gateway runs in a process of its own, with its receiver and an exporter that does
nothing. The load is sent by connections that wait for each response, as OTLP clients do;
the median of the rounds is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.grpc_engines import ROUNDS, cpu, request
from tests.support.ports import free_port

SIZES = (1, 10, 512)
HEAD = (
    "POST /v1/traces HTTP/1.1\r\nHost: localhost:{port}\r\n"
    "User-Agent: OTel-OTLP-Exporter\r\nContent-Type: application/x-protobuf\r\n"
    "Accept-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n"
)
CONFIG = """
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}
exporters:
  nop:
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [nop]}}
"""


class Sender(asyncio.Protocol):
    """Sends a request, again as soon as the one before is answered."""

    def __init__(self, data: bytes, until: float) -> None:
        self._data = data
        self._until = until
        self.count = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(exc or ConnectionError("the gateway has gone"))

    def data_received(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 200 "), data
        self.count += 1
        if time.monotonic() < self._until:
            self._transport.write(self._data)
        else:
            self.over.set_result(None)
            self._transport.close()


async def load(port: int, spans: int, options: argparse.Namespace) -> int:
    """Send for as long as asked for; returns the number of requests."""
    body = request(spans)
    data = HEAD.format(port=port, length=len(body)).encode() + body
    end = time.monotonic() + options.seconds
    loop = asyncio.get_running_loop()
    senders = [
        (await loop.create_connection(lambda: Sender(data, end), "127.0.0.1", port))[1]
        for _ in range(options.connections)
    ]
    for sender in senders:
        await sender.over
    return sum(sender.count for sender in senders)


def wait_for(port: int) -> None:
    async def connect() -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    asyncio.run(asyncio.wait_for(connect(), 20))


def measure(spans: int, options: argparse.Namespace) -> tuple[float, float]:
    """Microseconds of the gateway's CPU a request; requests a second."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "gateway.yaml")
        config.write_text(CONFIG.format(port=port))
        command = [sys.executable, "-m", "k8strace.gateway", "--config", str(config)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as gateway:
            try:
                wait_for(port)
                before = cpu(gateway.pid)
                count = uvloop.run(load(port, spans, options))
                used = cpu(gateway.pid) - before
            finally:
                gateway.kill()
    return used / count * 1e6, count / options.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=4)
    options = parser.parse_args()
    out = sys.stdout
    out.write("spans  us/request  us/span  requests/s\n")
    for spans in SIZES:
        found = [measure(spans, options) for _ in range(ROUNDS)]
        cost, rate = map(statistics.median, zip(*found, strict=True))
        out.write(f"{spans:5}  {cost:10.1f}  {cost / spans:7.3f}  {rate:10.0f}\n")
        out.flush()


if __name__ == "__main__":
    main()
