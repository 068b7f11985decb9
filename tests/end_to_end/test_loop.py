"""Nothing holds the event loop for 20 ms of its own time, whoever tries to."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest

from tests.support.clients import Client
from tests.support.gateway import METRICS_PORT, GatewayProcess
from tests.support.requests import request

CONFIG = """
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "127.0.0.1:0", auth: {authenticator: basicauth}}
exporters:
  file: {path: %s, format: proto, flush_interval: 10ms, rotation: {max_megabytes: 1}}
extensions:
  basicauth:
    htpasswd:
      # Of "right", by Apache's md5crypt.
      inline: "ann:$$apr1$$saltsalt$$%s"
service:
  extensions: [basicauth]
  telemetry: {logs: {level: debug}}
  pipelines: {traces: {receivers: [otlp], exporters: [file]}}
"""
HASH = "S.4SHjbjuljtTxlMAnDS//"
ROUNDS = 5
"""The machine holds tests up in ways that the kernel doesn't tell of, and seldom: what the
gateway does holds it up each time."""


def credential(password: bytes) -> tuple[tuple[str, str], ...]:
    encoded = base64.b64encode(b"ann:" + password).decode()
    return (("authorization", f"Basic {encoded}"),)


async def long_passwords(client: Client, address: str) -> None:
    for size in (1, 500, 6000, 6000):
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.send(b"", metadata=credential(os.urandom(size)))


async def malformed_connections(client: Client, address: str) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(100):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(bytes(64))
        writer.close()


async def records_for_a_file(client: Client, address: str) -> None:
    body = request(2000).SerializeToString()
    for _ in range(10):
        await client.send(body, metadata=credential(b"right"))


@pytest.mark.parametrize(
    "attack", [long_passwords, malformed_connections, records_for_a_file]
)
async def test_nothing_holds_the_loop_up(
    tmp_path: Path, attack: Callable[[Client, str], Awaitable[None]]
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG % (tmp_path / "spans.bin", HASH))
    arguments = ("--config", str(config), "--set", METRICS_PORT)
    async with GatewayProcess(*arguments, out=tmp_path / "out") as gateway:
        address = await gateway.address("grpc")
        async with Client(address) as client:
            late = []
            for _ in range(ROUNDS):
                before = await gateway.metrics()
                await attack(client, address)
                after = await gateway.metrics()
                late.append(after.late_beats() - before.late_beats())
                if not late[-1]:
                    break
            assert not late[-1], f"beats that came late, in each round: {late}"
        assert await gateway.stop() == 0
