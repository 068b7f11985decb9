"""Replays a recording through a gateway and compares what arrives, span by span.

The gateway is a process of its own between real gRPC: a client that sends the recorded
requests as they were sent, and a backend that takes what comes out of its batches.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.replay import Recorded, RecordingError, Sender, recorded
from tests.support.backend import Backend
from tests.support.gateway import GatewayProcess, Samples, with_free_ports
from tests.support.requests import span_ids

CONFIG = """
receivers:
  otlp: {{protocols: {{grpc: }}}}
processors:
  batch:
exporters:
  otlp: {{endpoint: "http://{backend}"}}
service:
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [otlp]}}
"""
ACCEPTED = "otelcol_receiver_accepted_spans_total"
SENT = "otelcol_exporter_sent_spans_total"


class Replay:
    """One recording's way through a gateway."""

    def __init__(self, paths: Sequence[Path], connections: int) -> None:
        self._paths = paths
        self._connections = connections
        self._sent: Counter[bytes] = Counter()

    async def run(self) -> list[str]:
        """Print what was sent; returns what is wrong with what arrived."""
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "gateway.yaml"
            async with Backend() as backend:
                config.write_text(CONFIG.format(backend=backend.endpoint))
                out = Path(folder) / "out.txt"
                async with GatewayProcess(*with_free_ports(config), out=out) as gateway:
                    sender = Sender(
                        await gateway.address("grpc"), connections=self._connections
                    )
                    await sender.send(self._requests())
                    sys.stdout.write(sender.report())
                    try:
                        samples = await gateway.wait_for_metric(SENT, self.spans)
                    except TimeoutError:
                        samples = await gateway.metrics()
                    status = await gateway.stop()
                return [
                    *self._differences(backend.ids),
                    *self._counted(samples),
                    *([f"the gateway ended with {status}"] if status else []),
                    *(["requests were refused"] if sender.refused else []),
                ]

    def _requests(self) -> Iterator[Recorded]:
        for request in recorded(self._paths):
            self._sent.update(span_ids(ExportTraceServiceRequest.FromString(request.body)))
            yield request

    def _differences(self, arrived: Counter[bytes]) -> list[str]:
        lost, more = self._sent - arrived, arrived - self._sent
        return [
            f"{spans.total()} spans {what}"
            for spans, what in (
                (lost, "did not arrive"),
                (more, "arrived unasked or twice"),
            )
            if spans
        ]

    def _counted(self, samples: Samples) -> list[str]:
        return [
            f"{name} is {counted:.0f}, not {self.spans}"
            for name in (ACCEPTED, SENT)
            if (counted := samples.sum(name)) != self.spans
        ]

    @property
    def spans(self) -> int:
        return self._sent.total()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where the recording is bad or a span is missing."""
    parser = argparse.ArgumentParser(prog="python -m scripts.kube_spans")
    parser.add_argument("paths", nargs="+", type=Path, help=".pb files, folders, archives")
    parser.add_argument("--connections", type=int, default=2)
    options = parser.parse_args(argv)
    replay = Replay(options.paths, options.connections)
    try:
        wrong = asyncio.run(replay.run())
    except (OSError, RecordingError) as error:
        wrong = [str(error)]
    for line in wrong:
        sys.stderr.write(f"error: {line}\n")
    if not wrong:
        sys.stdout.write(f"all {replay.spans} spans arrived, and are counted so\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
