"""Both engines beside the OpenTelemetry Collector, and fed by its load generator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest

from tests.conformance.test_client import client
from tests.support.backend import PATH, Backend
from tests.support.engine import ONE_LOOP, Rig
from tests.support.ports import free_port
from tests.support.programs import ROOT, built, listening, output_of, running
from tests.support.requests import request, span_ids
from tests.support.spans import Spans

pytestmark = [ONE_LOOP, pytest.mark.slow]
COLLECTOR = ROOT / ".venv" / "peers" / "collector"


@asynccontextmanager
async def collector(folder: Path, sink: str, compression: str) -> AsyncIterator[str]:
    """The address of a Collector that passes what it gets on to `sink`."""
    if not COLLECTOR.exists():
        pytest.skip("the Collector is not built: that takes Go, then `make peers`")
    port = free_port()
    address = f"127.0.0.1:{port}"
    exporter = {
        "endpoint": sink,
        "tls": {"insecure": True},
        "compression": compression,
        "sending_queue": {"enabled": False},
        "retry_on_failure": {"initial_interval": "100ms"},
    }
    traces = {"receivers": ["otlp"], "exporters": ["otlp_grpc"]}
    config = {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": address}}}},
        "exporters": {"otlp_grpc": exporter},
        "service": {
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "error"}},
            "pipelines": {"traces": traces},
        },
    }
    path = folder / "collector.json"
    path.write_text(json.dumps(config))
    async with running(str(COLLECTOR), "--config", str(path)):
        await listening(port)
        yield address


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_the_collector_sends_to_us(
    engine: ModuleType, compression: str, tmp_path: Path
) -> None:
    """What a client gave it; a refusal, with its delay, makes it send once more."""
    async with Rig(engine) as rig:
        rig.answer = spans = Spans(refusals=1)
        async with collector(tmp_path, rig.address, compression) as address:
            command = (built("grpcpeer"), "export", "-target", address, "-spans", "2000")
            status, out = await output_of(*command)
            assert (status, json.loads(out)["error"]) == (0, "")
        assert len(spans.ids) == 2000


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_we_send_to_the_collector(
    engine: ModuleType, compression: str, tmp_path: Path
) -> None:
    async with Backend() as backend:
        async with (
            collector(tmp_path, backend.endpoint, "none") as address,
            client(engine, address, compression=compression) as one,
        ):
            sent = [request(spans) for spans in (1, 10, 1000)]
            for message in sent:
                body = message.SerializeToString()
                await one.call(PATH, (body[:1], body[1:]), timeout=20)
        assert list(backend.ids) == [one for message in sent for one in span_ids(message)]


@pytest.mark.parametrize("batch", ["true", "false"])
async def test_telemetrygen(engine: ModuleType, batch: str) -> None:
    async with Rig(engine) as rig:
        rig.answer = spans = Spans()
        status, _ = await output_of(
            *(built("telemetrygen"), "traces", "--otlp-endpoint", rig.address),
            *("--otlp-insecure", "--traces", "40", "--workers", "5", "--rate", "0"),
            *("--child-spans", "3", f"--batch={batch}"),
        )
        assert status == 0
        assert len(spans.ids) == 40 * 5 * 4
