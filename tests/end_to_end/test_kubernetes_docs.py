"""The configuration of the Kubernetes documentation, with a real apiserver's spans."""

from __future__ import annotations

from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from tests.support.clients import Client, recorded
from tests.support.gateway import GatewayProcess, with_free_ports
from tests.support.requests import span_ids

CONFIG = Path(__file__).parent / "kubernetes-docs.yaml"


async def test_every_span_is_printed_and_counted(tmp_path: Path) -> None:
    requests = recorded()
    ids = [
        i for body in requests for i in span_ids(ExportTraceServiceRequest.FromString(body))
    ]
    arguments = with_free_ports(CONFIG)
    async with GatewayProcess(*arguments, out=tmp_path / "out") as gateway:
        async with Client(await gateway.address("grpc")) as client:
            for body in requests:
                assert not (await client.send(body)).HasField("partial_success")
        samples = await gateway.at_rest()
        assert samples.sum("otelcol_receiver_accepted_spans_total") == len(ids)
        assert samples.sum("otelcol_exporter_sent_spans_total", exporter="logging") == len(
            ids
        )
        assert await gateway.stop() == 0
    printed = [
        line.split(":")[1].strip()
        for line in gateway.out.splitlines()
        if line.startswith("    ID  ")
    ]
    assert printed == [i.hex() for i in ids]
