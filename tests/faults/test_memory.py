"""Attacks on memory: no process passes its limit, others are served, and all ends free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.faults.attacks import ATTACKS, Attack, Endpoints, Row
from tests.faults.conftest import Fault
from tests.faults.processes import peak_memory
from tests.faults.results import Peak
from tests.support.backend import Backend
from tests.support.certificates import self_signed
from tests.support.clients import Client
from tests.support.engine import MIB
from tests.support.gateway import METRICS_PORT, GatewayProcess, Samples
from tests.support.ports import free_port
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
    "all": tuple(name for name, row in ATTACKS.items() if row.pipeline == "batch"),
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


PIPELINES: dict[str, dict[str, Any]] = {
    "batch": {"batch": {"timeout": "20ms"}},
    "split": {
        "batch": {
            "timeout": "20ms",
            "send_batch_size": 1000,
            "send_batch_max_size": 1000,
        }
    },
    "sampler": {
        "probabilistic_sampler": {"sampling_percentage": 50},
        "batch": {"timeout": "20ms"},
    },
    "file": {},
    "debug": {},
}
"""The processors behind `memory_limiter`; exporters of that name are beside the backend."""


def config(
    folder: Path, pipeline: str, to: Endpoints, others: tuple[str, str], limit: int
) -> str:
    """The path of a configuration of three receivers, one with TLS, one that asks the
    second of `others` for each token; the first of them is the backend."""
    tls = self_signed(folder).files
    backend, issuer = others
    asking = {"auth": {"authenticator": "k8s_token_review"}}
    protocols = (
        ("otlp", to.grpc, to.http, {"include_metadata": True}),
        ("otlp/tls", to.grpc_tls, to.http_tls, {"tls": tls}),
        ("otlp/auth", to.grpc_auth, to.http_auth, asking),
    )
    exporters: dict[str, Any] = {
        "otlp": {
            "endpoint": f"http://{backend}",
            "sending_queue": {"queue_size": 1_000_000},
        }
    }
    if pipeline == "file":
        exporters["file"] = {"path": str(folder / "spans.json")}
    if pipeline == "debug":
        exporters["debug"] = {"verbosity": "detailed"}
    processors = {
        "memory_limiter": {"check_interval": "100ms", "limit_mib": limit},
        **PIPELINES[pipeline],
    }
    receivers = {
        name: {
            "protocols": {
                "grpc": {"endpoint": grpc, **options},
                # No head comes too late: who holds on makes way for others, or nobody does.
                "http": {"endpoint": http, "read_header_timeout": "0s", **options},
            }
        }
        for name, grpc, http, options in protocols
    }
    values = {
        "receivers": receivers,
        "processors": processors,
        "exporters": exporters,
        "extensions": {"k8s_token_review": {"endpoint": f"http://{issuer}"}},
        "service": {
            "extensions": ["k8s_token_review"],
            "pipelines": {
                "traces": {
                    "receivers": [*receivers],
                    "processors": [*processors],
                    "exporters": [*exporters],
                }
            },
        },
    }
    path = folder / "memory.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@asynccontextmanager
async def silence() -> AsyncIterator[str]:
    """The endpoint of a server that never answers."""
    async with AsyncExitStack() as stack:

        async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stack.callback(writer.transport.abort)

        server = await asyncio.start_server(keep, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
        server.close()


class Hanging:
    """An answer of the backend that comes when it is released."""

    def __init__(self) -> None:
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def __call__(self, _: object) -> None:
        await self._released.wait()


@asynccontextmanager
async def attacked(
    tmp_path: Path, row: Row, to: Endpoints, limit: int, hanging: Hanging
) -> AsyncIterator[GatewayProcess]:
    """A gateway, which is free of all that it held when the attack is over."""
    async with Backend(keep=False) as backend, silence() as issuer:
        if row.hangs:
            backend.answer = hanging
        others = backend.endpoint, issuer
        arguments = ("--config", config(tmp_path, row.pipeline, to, others, limit))
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
    to = Endpoints(*(f"127.0.0.1:{free_port()}" for _ in Endpoints._fields))
    first, hanging = ATTACKS[names[0]], Hanging()
    async with attacked(tmp_path, first, to, limit, hanging) as gateway:
        attacks = []
        async with Honest(to.grpc) as honest:
            await honest.wait_for(5)
            for name in names:
                row = ATTACKS[name]
                count = max(fault.of(row.short, row.long) // len(names), 1)
                attacks.append((row.run, Attack(to, count)))
            async with asyncio.timeout(fault.of(120, 1200)):
                await asyncio.gather(*(run(attack) for run, attack in attacks))
            await honest.wait_for(AT_LEAST)
            peak = peak_memory(gateway.process.pid)
            late = round((await gateway.metrics()).late_beats())
            for _, attack in attacks:
                attack.release()
            hanging.release()
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
        late=late,
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
