"""A gateway of several processes: which they are, and loads that outlive them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from tests.support.clients import Client
from tests.support.gateway import WORKER, GatewayProcess, Samples
from tests.support.requests import request, span_ids

RETRIED = (  # the last where a connection waited long for a worker that was starting
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


def processes(gateway: GatewayProcess) -> dict[int, int]:
    """The process that became ready last in each slot.

    All are known when a gateway is entered, and after `wait_until_ready` and `kill`.
    """
    return {int(match[2]): int(match[1]) for match in gateway.matches(WORKER)}


async def kill(gateway: GatewayProcess, slot: int) -> None:
    """SIGKILL for a worker; returns when another one serves in its place."""
    seen = len(gateway.log)
    os.kill(processes(gateway)[slot], signal.SIGKILL)
    await gateway.wait_for_log(rf"worker is ready: .* worker={slot}$", after=seen)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter once it is open
        return False


async def until_gone(pid: int, timeout: float = 30.0) -> None:
    async with asyncio.timeout(timeout):
        while is_alive(pid):  # noqa: ASYNC110 -- it is no child of ours
            await asyncio.sleep(0.02)


class Load:
    """Clients that send without pause, and again what was not answered.

    After a failure a client turns to the next endpoint. `sent` has the ids of all spans,
    `acknowledged` of those that were; `failed` counts unanswered requests, and `why` them
    by reason. What a request that is never to be sent again was answered with is in `told`,
    by its spans' ids.
    """

    def __init__(
        self,
        *endpoints: str,
        clients: int = 4,
        spans: int = 5,
        pause: float = 0.0,
        requests_a_connection: int = 50,
        may_be_told: bool = False,
    ) -> None:
        self._endpoints = endpoints
        self._clients = clients
        self._pause = pause
        self._requests = requests_a_connection
        self._may_be_told = may_be_told
        self._spans = spans
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self.sent: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.told: dict[bytes, grpc.StatusCode] = {}
        self.failed = 0
        self.why: Counter[str] = Counter()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.ensure_future(self._send(n)) for n in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def wait_for(self, number: int, what: str = "acknowledged") -> None:
        """Until `number` more are in or counted by the attribute `what`."""
        goal = self._number(what) + number
        async with asyncio.timeout(60):
            while self._number(what) < goal:
                self._changed.clear()
                await self._changed.wait()
                for task in self._tasks:
                    if task.done():
                        task.result()

    def _number(self, what: str) -> int:
        value = getattr(self, what)
        return value if isinstance(value, int) else len(value)

    def message(self) -> ExportTraceServiceRequest:
        """The next request."""
        return request(self._spans)

    async def _send(self, number: int) -> None:
        endpoint = number
        message: ExportTraceServiceRequest | None = None
        try:
            while not self._stopping:
                # A connection of its own now and then, so that all workers get some.
                async with Client(self._endpoints[endpoint % len(self._endpoints)]) as one:
                    message = await self._send_some(one, message)
                if message is not None:
                    endpoint += 1
        finally:
            self._changed.set()

    async def _send_some(
        self, client: Client, message: ExportTraceServiceRequest | None
    ) -> ExportTraceServiceRequest | None:
        """Some requests, beginning with `message`; gives the one to send elsewhere."""
        for _ in range(self._requests):
            if message is None:
                message = self.message()
                self.sent.update(span_ids(message))
            while not await self._is_taken(client, message):
                self._changed.set()
                if self._stopping:
                    return message
                await asyncio.sleep(0.01)
                if len(self._endpoints) > 1:
                    return message
            message = None
            self._changed.set()
            if self._stopping:
                break
            if self._pause:
                await asyncio.sleep(self._pause)
        return None

    async def _is_taken(self, client: Client, message: ExportTraceServiceRequest) -> bool:
        try:
            await client.send(message)
        except grpc.aio.AioRpcError as error:
            if error.code() in RETRIED:
                self.failed += 1
                self.why[f"{error.code().name}: {error.details()}"] += 1
                return False
            if not self._may_be_told:
                raise
            self.told.update(dict.fromkeys(span_ids(message), error.code()))
            return True
        self.acknowledged.update(span_ids(message))
        return True


class Scrapes:
    """Scrapes without pause; fails where a counter falls or is gone."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._task: asyncio.Task[None] | None = None
        self._last: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.number = 0

    async def __aenter__(self) -> Scrapes:
        self._task = asyncio.ensure_future(self._scrape())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        if self._task.done():
            self._task.result()
        self._task.cancel()
        await asyncio.wait((self._task,))
        self.check(await self._gateway.metrics())

    async def _scrape(self) -> None:
        while True:
            self.check(await self._gateway.metrics())
            self.number += 1
            await asyncio.sleep(0.01)

    def check(self, samples: Samples) -> None:
        counters = {
            (one.name, tuple(sorted(one.labels.items()))): one.value
            for one in samples.samples
            if one.name.endswith(("_total", "_bucket", "_count", "_sum"))
        }
        for name, value in self._last.items():
            assert counters.get(name, -1) >= value, (name, value, counters.get(name))
        self._last = counters
