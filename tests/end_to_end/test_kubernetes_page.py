"""docs/kubernetes.md: its gateways run in a row, its symptoms are those of real ones."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp
import grpc
import pytest

from k8strace import metrics
from k8strace.kube.provider import tracer_provider
from k8strace.kube.tracing_config import parse
from tests.support.backend import Backend
from tests.support.clients import Client, recorded
from tests.support.gateway import METRICS_PORT, GatewayProcess

pytestmark = pytest.mark.slow

PAGE = Path("docs/kubernetes.md").read_text()
YAML = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PRINTING, NODE, CLUSTER = [text for text in YAML if "service:" in text]
(TRACING,) = [text for text in YAML if "TracingConfiguration" in text]
LINES = re.findall(r"^(?:warn|error) .*$", PAGE, re.MULTILINE)
NAMES = set(re.findall(r"`((?:otelcol|k8strace)_\w+)", PAGE))
CLIENT_HELLO = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"  # as much of it as is looked at
EVERYTHING = "samplingRatePerMillion: 1000000"


def gateway(
    config: str, folder: Path, backend: str = "", *sets: str, http: bool = False
) -> GatewayProcess:
    """A gateway of the page, on free ports and in `folder`."""
    for inside, outside in (
        ("/run/k8strace/otlp.sock", str(folder / "otlp.sock")),
        ("/var/lib/k8strace", str(folder / "store")),
        ("192.0.2.20:4317", backend),
        ("tempo.observability.svc:4317", backend),
        ("localhost:13133", "127.0.0.1:0"),
        ("0.0.0.0:13133", "127.0.0.1:0"),
    ):
        config = config.replace(inside, outside)
    (folder / "store").mkdir(exist_ok=True)
    path = folder / "gateway.yaml"
    path.write_text(config)
    ports = ["receivers.otlp.protocols.grpc.endpoint=127.0.0.1:0", METRICS_PORT]
    if http:
        ports.append("receivers.otlp.protocols.http.endpoint=127.0.0.1:0")
    given = [part for one in (*ports, *sets) for part in ("--set", one)]
    return GatewayProcess("--config", str(path), *given, out=folder / "out")


def normal(line: str) -> str:
    """A log line without what differs from run to run."""
    line = re.sub(r"^\S+Z (\w+) +", r"\1 ", line)
    line = re.sub(r"\b(127\.0\.0\.1):\d+", r"\1:PORT", line)
    return re.sub(r"next attempt in [\d.]+ s", "next attempt in N s", line)


def documented(what: str) -> str:
    """The page's line that has it."""
    (line,) = [line for line in LINES if what in line]
    return normal(line)


async def shown(process: GatewayProcess, what: str) -> str:
    """The gateway's line that has it."""
    return normal((await process.wait_for_log(f"^.*{re.escape(what)}.*$"))[0])


async def test_spans_pass_from_a_component_through_both_gateways(tmp_path: Path) -> None:
    """By the page's TracingConfiguration, over the socket, the network and the disk."""
    node, cluster = tmp_path / "node", tmp_path / "cluster"
    node.mkdir()
    cluster.mkdir()
    async with Backend() as backend:
        async with gateway(CLUSTER, cluster, backend.endpoint, http=True) as second:
            assert await second.wait_for_log("pipeline traces: stored")
            async with gateway(NODE, node, await second.address("grpc")) as first:
                text = TRACING.replace("/run/k8strace", str(node))
                config = parse(text.replace("samplingRatePerMillion: 100", EVERYTHING))
                tracing = tracer_provider(config, "component")
                tracer = tracing.provider.get_tracer("test")
                for _ in range(100):
                    tracer.start_span("span").end()
                await asyncio.to_thread(tracing.shut_down)
                assert tracing.sent == 100
                async with Client(await first.address("grpc")) as client:
                    for body in recorded():
                        await client.send(body)
                await first.at_rest()
            async with aiohttp.ClientSession() as session:
                url = f"http://{await second.address('http')}/v1/traces"
                headers = {"Content-Type": "application/x-protobuf"}
                async with session.post(url, data=recorded()[0], headers=headers) as answer:
                    assert answer.status == 200
            samples = await second.at_rest()
            accepted = samples.sum("otelcol_receiver_accepted_spans_total")
            await backend.wait_for_spans(int(accepted))
            assert (
                backend.spans
                == accepted
                == samples.sum("otelcol_exporter_sent_spans_total")
            )


async def test_the_printing_one_runs_as_it_stands(tmp_path: Path) -> None:
    async with gateway(PRINTING, tmp_path) as process:
        async with Client(await process.address("grpc")) as client:
            await client.send(recorded()[0])
        await process.at_rest()
        assert await process.stop() == 0
    assert "authentication" in process.out


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("it speaks HTTP/1.1", "decode_error"),
        ("it speaks gRPC", "decode_error"),
        ("it speaks TLS", "tls"),
    ],
)
async def test_no_spans_because_the_protocol_is_wrong(
    what: str, reason: str, tmp_path: Path
) -> None:
    async with gateway(CLUSTER, tmp_path, "127.0.0.1:1", http=True) as process:
        if what.endswith("gRPC"):
            async with Client(await process.address("http")) as client:
                with pytest.raises(grpc.aio.AioRpcError):
                    await client.send(recorded()[0], timeout=5)
        else:
            hello = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n\r\n"
            if what.endswith("TLS"):
                hello = CLIENT_HELLO
            await speak(await process.address("grpc"), hello)
        assert await shown(process, what) == documented(what)
        samples = await process.metrics()
        assert samples.sum("otelcol_receiver_accepted_spans_total") == 0
        assert samples.sum("k8strace_requests_rejected_total", reason=reason) >= 1


async def speak(address: str, data: bytes) -> None:
    """Say something on a connection, and wait until it is closed."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 20)
    writer.close()


RETRIES: Sequence[str] = (
    "exporters.otlp.retry_on_failure={initial_interval: 100ms, max_interval: 200ms, "
    "max_elapsed_time: 10s}",  # in which the queue is looked at, and found full
    "exporters.otlp.sending_queue.queue_size=300000",
)


async def test_dropped_batches_because_the_backend_is_away(tmp_path: Path) -> None:
    async with gateway(NODE, tmp_path, "127.0.0.1:1", *RETRIES) as process:
        async with Client(await process.address("grpc")) as client:
            await client.send(recorded()[0])
            samples = await process.metrics()
            assert samples.sum("otelcol_exporter_queue_size") > 150_000
            assert samples.sum("otelcol_exporter_queue_capacity") == 300_000
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.send(recorded()[0], timeout=3)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        details = caught.value.details() or ""
        assert f"code = Unavailable desc = {details}`" in PAGE
        assert await shown(process, "did not take 512 spans") == documented("did not take")
        assert await shown(process, "dropped spans") == documented("dropped spans")
        samples = await process.at_rest()
        assert samples.sum("otelcol_receiver_refused_spans_total") == 512
        assert samples.sum("otelcol_exporter_send_failed_spans_total") == 512
        assert samples.sum("k8strace_spans_dropped_total", reason="retry_exhausted") == 512
        assert samples.sum("k8strace_requests_rejected_total", reason="memory") == 0


async def test_metrics_are_those_of_a_gateway(tmp_path: Path) -> None:
    """But for those that have no samples as long as nothing is lost."""
    async with gateway(NODE, tmp_path, "127.0.0.1:1") as process:
        samples = await process.metrics()
    there = {sample.name for sample in samples.samples}
    assert NAMES - there == {
        "k8strace_spans_dropped_total",
        "k8strace_spans_rejected_total",
    }
    declared = [one for one in vars(metrics).values() if isinstance(one, metrics.Series)]
    assert NAMES - there <= {f"{one.name}_total" for one in declared}
