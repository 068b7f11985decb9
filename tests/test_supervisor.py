"""The supervisor with its workers, as processes of their own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from k8strace import supervisor
from k8strace.component import Endpoint
from k8strace.config import load
from k8strace.errors import ConfigError
from k8strace.metrics import Metrics
from k8strace.signals import Signals
from k8strace.supervisor import Plan, Supervisor, _ending
from tests.support.clients import Client
from tests.support.gateway import GatewayProcess, run_gateway
from tests.support.requests import request
from tests.support.workers import kill, processes, until_gone

FREE = {"endpoint": "127.0.0.1:0"}
READERS = [{"pull": {"exporter": {"prometheus": {"host": "127.0.0.1", "port": 0}}}}]


def config(protocols: dict[str, Any], exporter: str = "nop", **options: Any) -> str:
    return yaml.safe_dump(
        {
            "receivers": {"otlp": {"protocols": protocols}},
            "exporters": {exporter: options or None},
            "extensions": {"health_check": FREE},
            "service": {
                "workers": 2,
                "extensions": ["health_check"],
                "telemetry": {"metrics": {"readers": READERS}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": [exporter]}},
            },
        }
    )


def start(
    path: Path, text: str, *arguments: str, env: Mapping[str, str] | None = None
) -> GatewayProcess:
    (path / "gateway.yaml").write_text(text)
    arguments = ("--config", str(path / "gateway.yaml"), *arguments)
    return GatewayProcess(*arguments, out=path / "out.txt", env=env)


def grpc(engine: str = "native", **options: str) -> dict[str, Any]:
    return {"grpc": FREE | {"engine": engine} | options}


def test_who_gets_what() -> None:
    metrics = Metrics()
    plan = Plan(load([f"yaml:{config(grpc())}"]), metrics)
    assert plan.endpoints == {"otlp": {"grpc": Endpoint("127.0.0.1:0")}}
    assert [str(one) for one in plan.front.service.extensions] == ["health_check"]
    assert plan.front.service.pipelines == {}
    assert plan.worker.service.extensions == ()
    assert plan.worker.service.workers == plan.workers == 2
    assert "pipeline traces: in memory" in plan.promises
    # The supervisor shows all of it, though it runs no pipeline.
    assert plan.overview.metrics is metrics
    assert [one.name for one in plan.overview.pipelines] == ["traces"]
    assert "workers: 2" in plan.overview.configuration()


def test_how_a_process_ended() -> None:
    assert _ending(1) == "ended with status 1"
    assert _ending(-9) == "was ended by SIGKILL"


async def test_workers_that_hang_are_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging:
        def __init__(self, slot: int) -> None:
            self.slot = slot
            self.state = "starting"
            self.up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    loaded = load([f"yaml:{config(grpc())}"])
    one = Supervisor(lambda: loaded, 1.0, Signals())
    monkeypatch.setattr(one, "_launch", lambda slot, _: Hanging(slot))
    monkeypatch.setattr(supervisor, "START_TIMEOUT", 0.01)
    with pytest.raises(ConfigError, match=r"workers do not serve after 0.01 s: 0, 1"):
        await one._launch_all(Plan(loaded, one.metrics))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_all_workers_take_connections(tmp_path: Path, engine: str) -> None:
    protocols = grpc(engine) | {"http": FREE}
    async with start(tmp_path, config(protocols)) as gateway:
        endpoint = await gateway.address("grpc")
        url = f"http://{await gateway.address('http')}/v1/traces"
        body = request(1).SerializeToString()
        headers = {"Content-Type": "application/x-protobuf"}
        for _ in range(32):  # connections of their own: the system spreads them
            async with Client(endpoint) as client:
                await client.send(body)
            async with aiohttp.ClientSession(headers=headers) as session:
                async with session.post(url, data=body) as response:
                    assert response.status == 200
        samples = await gateway.at_rest()
        for transport in ("grpc", "http"):
            counted = samples.sum(
                "otelcol_receiver_accepted_spans_total", transport=transport
            )
            assert counted == 32
        assert samples.sum("k8strace_workers", state="ready") == 2
        # Workers tell of it once a second.
        await gateway.wait_for_metric("k8strace_budget_used_bytes", 0)
        # Two workers, and the supervisor that says so.
        assert samples.sum("otelcol_process_memory_rss_bytes") > 3 * 20 * 1024 * 1024
        assert await gateway.stop() == 0
    ours = [line for line in gateway.log if "grpc on" in line]
    assert [line.rpartition(" ")[2] for line in sorted(ours, key=lambda one: one[-1])] == [
        *("worker=0", "worker=1")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("abstract", [False, True])
async def test_a_unix_socket_is_shared(tmp_path: Path, abstract: bool) -> None:
    name = "@" + str(tmp_path) if abstract else str(tmp_path / "otlp.sock")
    dialled = f"unix-abstract:{tmp_path}" if abstract else f"unix:{name}"
    text = config(grpc(endpoint=name, transport="unix"))
    async with start(tmp_path, text) as gateway:
        for slot in (0, 1):
            await kill(gateway, slot)
            async with Client(dialled) as client:
                await client.send(request(5))
        samples = await gateway.at_rest()
        assert samples.sum("otelcol_receiver_accepted_spans_total") == 10
        assert await gateway.stop() == 0
    assert not (tmp_path / "otlp.sock").exists()


async def test_grpcio_shares_no_unix_socket(tmp_path: Path) -> None:
    text = config(grpc("grpcio", endpoint=str(tmp_path / "s"), transport="unix"))
    for command in ([], ["validate"]):
        status, _, err = await run_gateway(*command, "--config", f"yaml:{text}")
        assert status == 1
        assert "write engine: native" in err


@pytest.mark.parametrize("what", ["receiver", "metrics", "health", "exporter"])
async def test_what_cannot_start_is_said_and_nothing_runs(
    tmp_path: Path, what: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        plain = yaml.safe_load(config(grpc()))
        if what == "receiver":
            plain["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] = address
        elif what == "health":
            plain["extensions"]["health_check"]["endpoint"] = address
        elif what == "metrics":
            reader = {"host": "127.0.0.1", "port": taken.getsockname()[1]}
            readers = [{"pull": {"exporter": {"prometheus": reader}}}]
            plain["service"]["telemetry"]["metrics"]["readers"] = readers
        else:
            missing = str(tmp_path / "no" / "file")
            plain["exporters"] = {"file": {"path": missing}}
            plain["service"]["pipelines"]["traces"]["exporters"] = ["file"]
        status, _, err = await run_gateway("--config", f"yaml:{yaml.safe_dump(plain)}")
    assert status == 1
    where = {
        "receiver": f": receivers::otlp: cannot listen on {address}: Address already",
        "metrics": f": service::telemetry::metrics: cannot listen on {address}",
        "health": f": extensions::health_check: cannot listen on {address}",
        "exporter": f": exporters::file: {tmp_path}/no/file-",
    }
    assert where[what] in err, err
    assert "worker is ready" not in err or what == "exporter"


@pytest.mark.slow
async def test_each_worker_writes_its_own_file_and_goes_on_after_a_death(
    tmp_path: Path,
) -> None:
    text = config(grpc(), "file", path=str(tmp_path / "spans.json"))
    for old in ("spans-0.json", "spans-1.json"):
        (tmp_path / old).write_text("of an earlier run\n")
    async with start(tmp_path, text) as gateway:
        for turn in range(3):
            async with Client(await gateway.address("grpc")) as client:
                for _ in range(5):
                    await client.send(request(1))
            if turn < 2:
                await kill(gateway, turn)
        assert await gateway.stop() == 0
    lines = [
        line
        for slot in (0, 1)
        for line in (tmp_path / f"spans-{slot}.json").read_text().splitlines()
    ]
    assert sum('"traceId"' in line for line in lines) == 15
    assert "of an earlier run" not in lines
    assert not (tmp_path / "spans.json").exists()


@pytest.mark.slow
async def test_the_number_of_workers_changes_with_a_reload(tmp_path: Path) -> None:
    text = config(grpc())
    async with start(tmp_path, text) as gateway:
        address = await gateway.address("grpc")
        for workers in (3, 1):
            async with Client(address) as client:
                await client.send(request(5))
            seen, former = len(gateway.log), processes(gateway)
            changed = text.replace("workers: 2", f"workers: {workers}")
            # The port that the system chose stays with the receiver.
            (tmp_path / "gateway.yaml").write_text(changed)
            gateway.signal(signal.SIGHUP)
            await gateway.wait_until_ready(after=seen)
            for pid in former.values():
                await until_gone(pid)
            await gateway.wait_for_metric("k8strace_workers", workers)
        samples = await gateway.at_rest()
        assert samples.sum("otelcol_receiver_accepted_spans_total") == 10
        async with Client(address) as client:
            await client.send(request(5))
        assert await gateway.stop() == 0


@pytest.mark.slow
async def test_a_reload_that_cannot_start_changes_nothing(tmp_path: Path) -> None:
    good = config(grpc())
    bad = config(grpc(), "file", path=str(tmp_path / "no" / "spans"))
    async with start(tmp_path, good) as gateway:
        first = processes(gateway)
        address = await gateway.address("grpc")
        (tmp_path / "gateway.yaml").write_text(bad)
        gateway.signal(signal.SIGHUP)
        await gateway.wait_for_log("reload refused")
        assert any("exporters::file: " in line for line in gateway.log)
        assert processes(gateway) == first
        async with Client(address) as client:
            await client.send(request(5))
        url = f"http://{await gateway.address('health')}/"
        assert (await gateway.get(url))[0] == 200
        # What the supervisor serves itself is put back, too.
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            seen = len(gateway.log)
            (tmp_path / "gateway.yaml").write_text(good.replace("port: 0", f"port: {port}"))
            gateway.signal(signal.SIGHUP)
            await gateway.wait_for_log("reload refused", after=seen)
        await gateway.wait_for_log("metrics on", after=seen)
        url = f"http://{(await gateway.wait_for_log(r'health on http://(.*?)/', seen))[1]}/"
        assert (await gateway.get(url))[0] == 200
        assert await gateway.stop() == 0


async def test_one_process_does_not_become_several(tmp_path: Path) -> None:
    text = config(grpc())
    async with start(tmp_path, text.replace("workers: 2", "workers: 1")) as gateway:
        assert not processes(gateway)
        (tmp_path / "gateway.yaml").write_text(text)
        gateway.signal(signal.SIGHUP)
        await gateway.wait_for_log("must be started anew")
        await gateway.wait_for_log("reload refused")
        assert await gateway.stop() == 0


# Python runs it at the start of each process.
WAIT_FOR_LOCK = """
import fcntl, sys
if "--worker" in sys.orig_argv:
    fcntl.flock(open({path!r}), fcntl.LOCK_SH)
"""


async def test_a_stop_while_workers_start(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "sitecustomize.py").write_text(WAIT_FOR_LOCK.format(path=str(gate)))
    env = {"PYTHONPATH": str(tmp_path)}
    with gate.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        gateway = start(tmp_path, config(grpc()), env=env)
        await gateway.start()
        await gateway.wait_for_log("metrics on")
        gateway.signal(signal.SIGTERM)
        await gateway.wait_for_log("stopping")
    assert await gateway.wait() == 0
    assert not any("is ready with" in line for line in gateway.log)


@pytest.mark.slow
async def test_a_worker_that_hangs_is_killed_in_the_end(tmp_path: Path) -> None:
    timeout = ("--shutdown-timeout", "60")
    async with start(tmp_path, config(grpc()), *timeout) as gateway:
        pid = processes(gateway)[0]
        os.kill(pid, signal.SIGSTOP)
        gateway.signal(signal.SIGTERM)
        await gateway.wait_for_log("stopping")
        gateway.signal(signal.SIGTERM)
        assert await gateway.wait() == 130
        await until_gone(pid)
