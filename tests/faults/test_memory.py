"""Attacks on memory: no process passes its limit, others are served, and all ends free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import yaml

from tests.faults.attacks import ATTACKS, Attack
from tests.faults.conftest import Fault
from tests.faults.processes import peak_memory
from tests.faults.results import Peak
from tests.support.backend import Backend
from tests.support.certificates import self_signed
from tests.support.clients import Client
from tests.support.engine import MIB
from tests.support.gateway import METRICS_PORT, GatewayProcess, Samples
from tests.support.requests import request
from tests.support.sanitizers import unsanitized

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("descriptors"),
    unsanitized("they take more memory than the limit leaves"),
]

LIMITS = (128, 300, 1024)  # MiB
SHORT = 128  # of these for the short form
AT_LEAST = 100  # requests of those who mean well
PAUSE = 0.02  # seconds between two of them
A_CONNECTION = 20  # requests that are sent on one before another is made
MIXTURES = {
    "connections": ("idle connections", "streams without messages", "tls handshakes"),
    "messages": ("small announcements", "bombs", "large messages", "metadata"),
    "all": tuple(ATTACKS),
}


class Honest:
    """A sender on connections of its own, which sends again what it was told to."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.seconds: list[float] = []  # until each was taken
        self.refused = 0  # to be sent again
        self.spans = 0

    async def __aenter__(self) -> Honest:
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        if self._task is not None:
            await self._task

    async def wait_for(self, number: int) -> None:
        """Until so many more are taken."""
        assert self._task is not None
        goal = len(self.seconds) + number
        async with asyncio.timeout(120):
            while len(self.seconds) < goal:
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(PAUSE)

    async def _run(self) -> None:
        while not self._stopping:
            async with Client(self._endpoint) as client:
                sent = 0
                while sent < A_CONNECTION and not self._stopping:
                    await self._send(client)
                    await asyncio.sleep(PAUSE)
                    sent += 1

    async def _send(self, client: Client) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        message = request(2)
        while True:
            try:
                await client.send(message)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise  # nobody would send it again
                self.refused += 1
                await asyncio.sleep(PAUSE)
            else:
                break
        self.spans += 2
        self.seconds.append(loop.time() - begun)

    def within(self, share: float) -> float:
        """The seconds within which this share of them was taken."""
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))]


def config(folder: Path, backend: str, limit: int) -> str:
    """The path of a configuration with two receivers, one of them with TLS."""
    tls = self_signed(folder).files
    plain = {"endpoint": "127.0.0.1:0", "include_metadata": True}
    values = {
        "receivers": {
            "otlp": {"protocols": {"grpc": plain}},
            "otlp/tls": {"protocols": {"grpc": {"endpoint": "127.0.0.1:0", "tls": tls}}},
        },
        "processors": {
            "memory_limiter": {"check_interval": "100ms", "limit_mib": limit},
            "batch": {"timeout": "20ms"},
        },
        "exporters": {
            "otlp": {
                "endpoint": f"http://{backend}",
                "sending_queue": {"queue_size": 1_000_000},
            }
        },
        "service": {
            "pipelines": {
                "traces": {
                    "receivers": ["otlp", "otlp/tls"],
                    "processors": ["memory_limiter", "batch"],
                    "exporters": ["otlp"],
                }
            }
        },
    }
    path = folder / "memory.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@asynccontextmanager
async def attacked(tmp_path: Path, limit: int) -> AsyncIterator[GatewayProcess]:
    """A gateway, which is free of all that it held when the attack is over."""
    async with Backend(keep=False) as backend:
        arguments = ("--config", config(tmp_path, backend.endpoint, limit))
        gateway = GatewayProcess(
            *arguments, "--set", METRICS_PORT, out=tmp_path / "out.txt"
        )
        async with gateway:
            yield gateway
            samples = await gateway.wait_for_samples(is_free, 60)
            assert samples.sum("k8strace_spans_dropped_total") == 0
            await gateway.at_rest()
            assert await gateway.stop() == 0
            assert "Traceback" not in "\n".join(gateway.log)


def is_free(samples: Samples) -> bool:
    return not any(
        samples.sum(f"k8strace_budget_{what}_bytes") for what in ("used", "upkeep")
    )


async def withstand(
    fault: Fault, tmp_path: Path, names: tuple[str, ...], limit: int
) -> None:
    async with attacked(tmp_path, limit) as gateway:
        secured = (await gateway.wait_for_log(r"grpc on (\S+) with TLS"))[1]
        plain = (await gateway.wait_for_log(r"grpc on (\S+:\d+) (?!with TLS)"))[1]
        attacks = []
        async with Honest(plain) as honest:
            await honest.wait_for(5)
            for name in names:
                row = ATTACKS[name]
                count = max(fault.of(row.short, row.long) // len(names), 1)
                attacks.append((row.run, Attack(plain, secured, count)))
            async with asyncio.timeout(fault.of(120, 1200)):
                await asyncio.gather(*(run(attack) for run, attack in attacks))
            await honest.wait_for(AT_LEAST)
            peak = peak_memory(gateway.process.pid)
            for _, attack in attacks:
                attack.release()
            await honest.wait_for(5)
        peak = max(peak, peak_memory(gateway.process.pid))
    assert peak <= limit * MIB, f"{peak / MIB:.1f} MiB of {limit}"
    fault.peak = Peak(
        attack=fault.name,
        connections=sum(attack.count for _, attack in attacks),
        limit=limit,
        peak=round(peak / MIB),
        requests=len(honest.seconds),
        refused=honest.refused,
        seconds=round(honest.within(0.99), 3),
    )
    if fault.is_long:
        assert honest.within(0.99) <= 1, fault.peak


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(one, id=f"{one} MiB", marks=() if one == SHORT else pytest.mark.long)
        for one in LIMITS
    ],
)
@pytest.mark.parametrize("name", [*ATTACKS, *(f"mixed {name}" for name in MIXTURES)])
async def test_attack(fault: Fault, tmp_path: Path, name: str, limit: int) -> None:
    fault.name = name
    names = MIXTURES.get(name.removeprefix("mixed "), (name,))
    await withstand(fault, tmp_path, names, limit)
