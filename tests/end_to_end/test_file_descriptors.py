"""A flood of connections takes the file descriptors of nobody else."""

from __future__ import annotations

import asyncio
import resource
from contextlib import suppress

import pytest

from tests.end_to_end.conftest import Start
from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.requests import request

NATIVE = ("--set", "receivers.otlp.protocols.grpc.engine=native")


@pytest.mark.slow
async def test_a_flood_of_connections(start: Start) -> None:
    async with Backend() as backend, start(backend.endpoint, *NATIVE) as gateway:
        endpoint = await gateway.address("grpc")
        pid = gateway.process.pid
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == most
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, most))
        host, _, port = endpoint.rpartition(":")
        async with Client(endpoint) as client:
            await client.send(request(5))
            writers = []
            refused = 0
            for _ in range(200):
                reader, writer = await asyncio.open_connection(host, port)
                writers.append(writer)
                with suppress(ConnectionError):
                    refused += await asyncio.wait_for(reader.read(1), 20) == b""
            assert 100 < refused < 200
            await gateway.wait_for_log("refused 1 connections.*too many files")
            await client.send(request(5))
            for writer in writers:
                writer.close()
        async with asyncio.timeout(20):
            while True:
                async with Client(endpoint) as client:
                    with suppress(Exception):
                        await client.send(request(5))
                        break
        await backend.wait_for_spans(15)
        await gateway.at_rest()
