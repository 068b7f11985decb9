"""A run of the gateway: start, reload, drain, and what signals do in the middle of them."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.metrics_core import Metric

from k8strace.config import Loaded, load
from k8strace.errors import ConfigError
from k8strace.graph import Graph
from k8strace.metrics import Metrics, Rows
from k8strace.receivers.otlp import OTLP
from k8strace.service import Gateway
from k8strace.signals import ENDED, Signals
from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.gateway import Samples
from tests.support.pipeline import until
from tests.support.ports import free_port
from tests.support.requests import request

PROTOCOLS = """
receivers: {{otlp: {{protocols: {{
  grpc: {{endpoint: "{grpc}", transport: {transport}}},
  http: {{endpoint: "{http}", transport: {transport}}}}}}}}}
exporters: {{otlp: {{endpoint: "http://{backend}", timeout: 60s}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [otlp]}}}}
"""
CONFIG = """
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: "{grpc}"}}}}}}}}
exporters:
  nop:
  otlp: {{endpoint: "http://{backend}", timeout: 60s}}
service:
  telemetry:
    metrics:
      readers: [{{pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: 0}}}}}}}}]
  pipelines: {{traces: {{receivers: [otlp], exporters: [{exporter}]}}}}
"""


def config(
    exporter: str = "nop", grpc: str = "127.0.0.1:0", backend: str = "localhost:1"
) -> Loaded:
    text = CONFIG.format(exporter=exporter, grpc=grpc, backend=backend)
    return load([f"yaml:{text}"])


class Run(logging.Handler):
    """A gateway that runs in this process; `lines` is its log."""

    def __init__(self, loaded: Loaded, shutdown_timeout: float = 20.0) -> None:
        super().__init__()
        self.configuration: Callable[[], Loaded] = lambda: loaded
        self.gateway = Gateway(lambda: self.configuration(), shutdown_timeout, Signals())
        self.lines: list[str] = []
        self._changed = asyncio.Event()
        self.ended = asyncio.ensure_future(self.gateway.run(loaded))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._changed.set()

    async def said(self, pattern: str, times: int = 1) -> str:
        """Wait until `times` lines match; the first group of the last of them."""
        async with asyncio.timeout(20):
            while True:
                self._changed.clear()
                found = [m for line in self.lines if (m := re.search(pattern, line))]
                if len(found) >= times:
                    return found[times - 1].group(found[times - 1].re.groups)
                assert not self.ended.done(), self.lines
                await self._changed.wait()

    async def send(self, spans: int, starts: int = 1) -> None:
        async with Client(await self.said(r"grpc on (\S+)", starts)) as client:
            await client.send(request(spans))

    async def metrics(self, starts: int = 1) -> Samples:
        url = await self.said(r"metrics on (http:\S+)", starts)
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return Samples(await response.text())


@pytest.fixture
def run() -> Iterator[Callable[..., Run]]:
    ours = logging.getLogger("k8strace")
    runs: list[Run] = []

    def make(*arguments: object) -> Run:
        runs.append(Run(*arguments))  # type: ignore[arg-type]
        ours.addHandler(runs[-1])
        return runs[-1]

    yield make
    for one in runs:
        ours.removeHandler(one)


Make = Callable[..., Run]


async def test_counters_and_the_uptime_outlive_a_reload(run: Make) -> None:
    gateway = run(config())
    await gateway.send(7)
    before = await gateway.metrics()
    gateway.gateway.signals.note(signal.SIGHUP)
    await gateway.said("is ready", 2)
    await gateway.send(5, starts=2)
    after = await gateway.metrics(starts=2)
    assert after.sum("otelcol_receiver_accepted_spans_total") == 12
    uptime = "otelcol_process_uptime_seconds_total"
    assert after.sum(uptime) > before.sum(uptime) > 0
    assert after.sum("otelcol_process_memory_rss_bytes") > 0
    gateway.gateway.signals.note(signal.SIGTERM)
    assert await gateway.ended == 0


async def test_graphs_and_pages_are_not_made_on_the_event_loop(
    run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take as long as there are components."""
    made: list[tuple[str, bool]] = []
    build, families = Graph._build, Metrics.families

    def is_on_loop() -> bool:
        return threading.get_ident() == own

    def built(graph: Graph) -> None:
        made.append(("graph", is_on_loop()))
        build(graph)

    def shown(metrics: Metrics, rows: Rows) -> Iterator[Metric]:
        for family in families(metrics, rows):
            made.append(("page", is_on_loop()))
            yield family

    own = threading.get_ident()
    monkeypatch.setattr(Graph, "_build", built)
    monkeypatch.setattr(Metrics, "families", shown)
    gateway = run(config())
    await gateway.metrics()
    gateway.gateway.signals.note(signal.SIGHUP)
    await gateway.said("is ready", 2)
    gateway.gateway.signals.note(signal.SIGTERM)
    assert await gateway.ended == 0
    assert set(made) == {("graph", False), ("page", False)}


@pytest.mark.parametrize("error", [ConfigError(["a.yaml:3: no"]), KeyError("a defect")])
async def test_what_cannot_be_read_changes_nothing(run: Make, error: Exception) -> None:
    def fail() -> Loaded:
        raise error

    gateway = run(config())
    await gateway.said("is ready")
    gateway.configuration = fail
    gateway.gateway.signals.note(signal.SIGHUP)
    await gateway.said("reload refused")
    assert any("the new configuration is wrong" in line for line in gateway.lines)
    await gateway.send(3)
    gateway.gateway.signals.note(signal.SIGINT)
    assert await gateway.ended == 0


async def test_what_does_not_start_gives_way_to_the_configuration_before(
    run: Make,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = run(config())
        await gateway.said("is ready")
        second = config("nop, otlp")
        gateway.configuration = lambda: second
        gateway.gateway.signals.note(signal.SIGHUP)
        await gateway.said("is ready", 2)
        gateway.configuration = lambda: config(grpc=f"127.0.0.1:{port}")
        gateway.gateway.signals.note(signal.SIGHUP)
        await gateway.said("is ready", 3)
    assert any(f"cannot listen on 127.0.0.1:{port}" in line for line in gateway.lines)
    # It is the second one that runs again, not the first.
    samples = await gateway.metrics(starts=3)
    assert samples.sum("otelcol_exporter_queue_capacity", exporter="otlp") == 1000
    gateway.gateway.signals.note(signal.SIGTERM)
    assert await gateway.ended == 0


async def test_nothing_is_started_when_a_stop_comes_during_a_reload(run: Make) -> None:
    release = asyncio.Event()

    async def hang(_: object) -> None:
        await release.wait()

    async with Backend() as backend:
        backend.answer = hang
        gateway = run(config("otlp", backend=backend.endpoint))
        await gateway.send(4)
        gateway.gateway.signals.note(signal.SIGHUP)
        await gateway.said("reloading")
        gateway.gateway.signals.note(signal.SIGTERM)
        release.set()
        assert await gateway.ended == 0
    assert backend.spans == 4
    assert sum("is ready" in line for line in gateway.lines) == 1


async def connect(address: str) -> None:
    """Make a connection, as `address` is logged."""
    if address.startswith("unix:"):
        _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
    writer.close()


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_who_connects_during_a_reload_waits_for_the_new_graph(
    run: Make, transport: str, tmp_path: Path
) -> None:
    release = asyncio.Event()

    async def hang(_: object) -> None:
        await release.wait()

    unix = transport == "unix"
    places = [str(tmp_path / name) if unix else "127.0.0.1:0" for name in ("g", "h")]
    async with Backend() as backend:
        backend.answer = hang
        text = PROTOCOLS.format(
            grpc=places[0], http=places[1], transport=transport, backend=backend.endpoint
        )
        gateway = run(load([f"yaml:{text}"]))
        await gateway.send(4)
        await until(lambda: backend.calls == 1)
        addresses = [await gateway.said(rf"{name} on (\S+)") for name in ("grpc", "http")]
        gateway.gateway.signals.note(signal.SIGHUP)
        await gateway.said("reloading")
        # The third that receivers have of a drain is short where no request is under way:
        # for most of this time what they listened on is given back.
        waiting = asyncio.create_task(gateway.send(5))
        for _ in range(50):
            for address in addresses:
                await connect(address)
            await asyncio.sleep(0.01)
        assert not waiting.done()
        assert sum("is ready" in line for line in gateway.lines) == 1
        release.set()
        await gateway.said("is ready", 2)
        await waiting
        assert await gateway.said(r"http on (\S+)", 2) == addresses[1]
        gateway.gateway.signals.note(signal.SIGTERM)
        assert await gateway.ended == 0
        assert backend.spans == 9
    for address in addresses:
        with pytest.raises(OSError, match=r"refused|No such file|Connect call"):
            await connect(address)


async def test_the_log_says_that_the_port_of_grpcio_is_closed_in_a_reload(
    run: Make,
) -> None:
    """gRPC's library listens by itself: it takes no socket that is open already."""
    address = f"127.0.0.1:{free_port()}"
    text = (
        "{receivers: {otlp: {protocols: {grpc: {engine: grpcio, endpoint: '%s'}}}},"
        " exporters: {nop: }, service: {telemetry: {metrics: {level: none}},"
        " pipelines: {traces: {receivers: [otlp], exporters: [nop]}}}}"
    )
    gateway = run(load([f"yaml:{text % address}"]))
    await gateway.send(1)
    gateway.gateway.signals.note(signal.SIGHUP)
    await gateway.said("is ready", 2)
    (line,) = [one for one in gateway.lines if "is closed until" in one]
    assert line.startswith(f"otlp: the port of grpc ({address})")
    await gateway.send(1, 2)
    gateway.gateway.signals.note(signal.SIGTERM)
    assert await gateway.ended == 0


async def test_a_stop_closes_the_port_before_it_drains(run: Make) -> None:
    release = asyncio.Event()

    async def hang(_: object) -> None:
        await release.wait()

    async with Backend() as backend:
        backend.answer = hang
        gateway = run(config("otlp", backend=backend.endpoint))
        await gateway.send(4)
        await until(lambda: backend.calls == 1)
        address = await gateway.said(r"grpc on (\S+)")
        gateway.gateway.signals.note(signal.SIGTERM)
        while True:
            try:
                await connect(address)
            except OSError:
                break
            await asyncio.sleep(0.01)
        assert not gateway.ended.done()
        release.set()
        assert await gateway.ended == 0


async def test_sockets_of_a_start_that_fails_are_closed(run: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        port = free_port()
        text = CONFIG.format(
            grpc=f"127.0.0.1:{port}", backend="localhost:1", exporter="nop"
        )
        text = text.replace("service:", "service:\n  extensions: [health_check]")
        text += f"extensions: {{health_check: {{endpoint: {busy}}}}}"
        gateway = run(load([f"yaml:{text}"]))
        with pytest.raises(ConfigError, match="in use"):
            await gateway.ended
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM])
async def test_a_second_stop_ends_a_drain_at_once(run: Make, first: signal.Signals) -> None:
    never = asyncio.Event()

    async def hang(_: object) -> None:
        await never.wait()

    async with Backend() as backend:
        backend.answer = hang
        gateway = run(config("otlp", backend=backend.endpoint), 3600.0)
        await gateway.send(4)
        gateway.gateway.signals.note(first)
        await gateway.said("draining")
        if first is signal.SIGHUP:
            gateway.gateway.signals.note(signal.SIGTERM)
        gateway.gateway.signals.note(signal.SIGINT)
        assert await gateway.ended == ENDED
        never.set()
    await gateway_said(gateway, "4 spans were not delivered component=exporters/otlp")


async def gateway_said(gateway: Run, text: str) -> None:
    assert any(text in line for line in gateway.lines), gateway.lines


async def test_sighup_does_not_cut_a_drain_short(run: Make) -> None:
    release = asyncio.Event()

    async def hang(_: object) -> None:
        await release.wait()

    async with Backend() as backend:
        backend.answer = hang
        gateway = run(config("otlp", backend=backend.endpoint))
        await gateway.send(4)
        for _ in range(100):
            gateway.gateway.signals.note(signal.SIGHUP)
        gateway.gateway.signals.note(signal.SIGTERM)
        await gateway.said("draining")
        gateway.gateway.signals.note(signal.SIGHUP)
        release.set()
        assert await gateway.ended == 0
    assert backend.spans == 4
    await gateway_said(gateway, "everything taken was delivered or counted")


async def test_what_a_reload_lost_is_not_counted_again(run: Make) -> None:
    gateway = run(config("otlp"), 0.0)
    await gateway.send(6)
    gateway.configuration = config
    gateway.gateway.signals.note(signal.SIGHUP)
    await gateway.said("drained; 6 spans could not be delivered in time")
    await gateway.said("is ready", 2)
    gateway.gateway.signals.note(signal.SIGTERM)
    assert await gateway.ended == 0
    await gateway_said(gateway, "everything taken was delivered or counted")


async def test_a_stop_during_the_start_gives_all_back(
    run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, start, addresses = asyncio.Event(), OTLP.start, dict[str, str]()

    async def hang(receiver: OTLP) -> None:
        await start(receiver)
        addresses.update(receiver.addresses)
        entered.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(OTLP, "start", hang)
    gateway = run(config())
    await entered.wait()
    gateway.gateway.signals.note(signal.SIGTERM)
    assert await gateway.ended == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*addresses["grpc"].split(":"))
    assert not any("is ready" in line for line in gateway.lines)


async def test_a_configuration_that_cannot_start_is_an_error(run: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = run(config(grpc=f"127.0.0.1:{port}"))
        with pytest.raises(ConfigError, match=f"receivers::otlp: .*:{port}: "):
            await gateway.ended
