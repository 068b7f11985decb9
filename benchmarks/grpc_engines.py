"""What a request costs each gRPC engine's server, and the native client, in CPU.

    python -m benchmarks.grpc_engines [--seconds 4] [--connections 4] [--in-flight 8]

Each server runs in a process of its own and takes OTLP requests of the given numbers of
spans, whose handler answers at once. The load is the native client's, in a process of its
own, the same for both engines; engines take turns, and the median of the rounds is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time

import uvloop
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.budget import Budget
from k8strace.grpc import Call, ClientSettings, ServerSettings
from k8strace.grpc.engines import server_factory
from k8strace.grpc.native import Client

PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
ENGINES = ("native", "grpcio")
SIZES = (1, 512)
ROUNDS = 3
TICKS = os.sysconf("SC_CLK_TCK")


def request(spans: int) -> bytes:
    """Spans of about 410 bytes, with eight attributes and an event."""
    message = ExportTraceServiceRequest()
    scope = message.resource_spans.add().scope_spans.add()
    for number in range(spans):
        span = scope.spans.add(
            trace_id=number.to_bytes(15, "big") + b"\1",
            span_id=number.to_bytes(7, "big") + b"\1",
            name="List(v1.Pod)",
            start_time_unix_nano=1_700_000_000_000_000_000,
            end_time_unix_nano=1_700_000_000_500_000_000,
        )
        for key in range(8):
            attribute = span.attributes.add(key=f"attribute.number.{key}")
            attribute.value.string_value = "value of it" * 2
        span.events.add(name="something happened", time_unix_nano=1_700_000_000_000_000_000)
    return message.SerializeToString()


async def serve(engine: str) -> None:
    async def answer(_: Call) -> bytes:
        return b""

    factory = server_factory(engine)  # type: ignore[arg-type]
    settings = ServerSettings(endpoint="127.0.0.1:0")
    server = factory(settings, {PATH: answer}, Budget(1 << 28), lambda *_: None)
    sys.stdout.write(f"{await server.start()}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def load(address: str, spans: int, options: argparse.Namespace) -> int:
    """Send for as long as asked for; returns the number of requests."""
    body = (request(spans),)
    end = time.monotonic() + options.seconds
    count = 0

    async def send(client: Client) -> None:
        nonlocal count
        while time.monotonic() < end:
            await client.call(PATH, body, timeout=20)
            count += 1

    settings = ClientSettings(target=address, compression="none")
    clients = [Client(settings) for _ in range(options.connections)]
    for client in clients:
        await client.start()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            for _ in range(options.in_flight):
                group.create_task(send(client))
    for client in clients:
        await client.stop()
    return count


def cpu(pid: int) -> float:
    """Seconds of user and system time of a process, all its threads."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(engine: str, spans: int, options: argparse.Namespace) -> tuple[float, ...]:
    """Microseconds of CPU a request, the server's and the client's; requests a second."""
    command = [sys.executable, "-m", "benchmarks.grpc_engines", "--serve", engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            before, own = cpu(server.pid), time.process_time()
            count = uvloop.run(load(address, spans, options))
            used, own = cpu(server.pid) - before, time.process_time() - own
        finally:
            server.kill()
    return used / count * 1e6, own / count * 1e6, count / options.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=8)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
        return
    out = sys.stdout
    out.write("spans  engine   us/request  us/span  client's us/request  requests/s\n")
    for spans in SIZES:
        found: dict[str, list[tuple[float, ...]]] = {engine: [] for engine in ENGINES}
        for _ in range(ROUNDS):
            for engine in ENGINES:
                found[engine].append(measure(engine, spans, options))
        for engine, results in found.items():
            cost, own, rate = map(statistics.median, zip(*results, strict=True))
            out.write(
                f"{spans:5}  {engine:7}  {cost:10.1f}  {cost / spans:7.3f}  {own:19.1f}  "
                f"{rate:10.0f}\n"
            )


if __name__ == "__main__":
    main()
