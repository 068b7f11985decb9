"""`python -m k8strace.demo`: sends traces shaped as a kube-apiserver's.

They are made by the OpenTelemetry SDK and sent by its OTLP/gRPC exporter.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from k8strace.arguments import non_negative, positive_int

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

DEFAULT_ENDPOINT = "localhost:4317"
SERVICES = ("apiserver", "etcd")
BATCH = 512  # spans in a request, as in Kubernetes' components
QUEUE = 16 * BATCH  # what the SDK holds; it is emptied long before
FLUSH_AT = 8 * BATCH
CONNECT_TIMEOUT = 5.0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m k8strace.demo",
        description="Send traces shaped as a kube-apiserver's with the OpenTelemetry SDK.",
    )
    result.add_argument(
        "--endpoint",
        default=DEFAULT_ENDPOINT,
        metavar="HOST:PORT",
        help=f"where an OTLP/gRPC receiver listens (default: {DEFAULT_ENDPOINT})",
    )
    result.add_argument(
        "--requests",
        type=positive_int,
        default=20,
        metavar="N",
        help="requests to the apiserver, of about 10 spans each (default: 20)",
    )
    result.add_argument(
        "--rate",
        type=non_negative,
        default=0.0,
        metavar="R",
        help="requests a second (default: as fast as possible)",
    )
    result.add_argument(
        "--seed",
        type=int,
        default=None,
        metavar="S",
        help="makes the same traces each time, but for their times",
    )
    result.add_argument("--gzip", action="store_true", help="compress what is sent")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where nobody listens or spans were refused."""
    options = parser().parse_args(argv)
    endpoint = options.endpoint.removeprefix("http://").rstrip("/")
    if problem := _unreachable(endpoint):
        sys.stderr.write(f"error: nothing listens on {endpoint}: {problem}\n")
        return 1
    try:
        tally = _send(endpoint, options)
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: the demo needs the OpenTelemetry SDK ({error}): "
            "pip install k8strace[demo]\n"
        )
        return 1
    sys.stdout.write(tally.report(endpoint))
    return 1 if tally.refused else 0


class Tally:
    """What became of the spans."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.traces: set[int] = set()
        self.refused = 0
        self._start = time.monotonic()

    def count(self, service: str, spans: Sequence[ReadableSpan], taken: bool) -> None:
        if not taken:
            self.refused += len(spans)
            return
        self.sent[service] += len(spans)
        self.traces.update(span.context.trace_id for span in spans if span.context)

    def report(self, endpoint: str) -> str:
        seconds = time.monotonic() - self._start
        parts = ", ".join(f"{name} {self.sent[name]}" for name in SERVICES)
        return (
            f"sent to {endpoint} in {seconds:.1f} s:\n"
            f"  spans    {self.sent.total()} ({parts})\n"
            f"  traces   {len(self.traces)}\n"
            f"  refused  {self.refused} spans\n"
        )


def _send(endpoint: str, options: argparse.Namespace) -> Tally:
    """Make and send the traces; raises ModuleNotFoundError without the SDK."""
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from k8strace._kube_spans import Cluster

    tally = Tally()
    cluster = Cluster(
        Random(options.seed),
        {
            service: BatchSpanProcessor(
                _counting(
                    OTLPSpanExporter(
                        endpoint=endpoint,
                        insecure=True,
                        compression=Compression.Gzip if options.gzip else None,
                    ),
                    service,
                    tally,
                ),
                max_queue_size=QUEUE,
                max_export_batch_size=BATCH,
            )
            for service in SERVICES
        },
    )
    waiting, start = 0, time.monotonic()
    for index in range(options.requests):
        if options.rate:
            time.sleep(max(0.0, start + index / options.rate - time.monotonic()))
        waiting += cluster.serve(time.time_ns())
        if waiting >= FLUSH_AT:
            cluster.flush()
            waiting = 0
    cluster.flush()
    cluster.shutdown()
    return tally


def _counting(exporter: SpanExporter, service: str, tally: Tally) -> SpanExporter:
    """`exporter`, with what it says of each batch counted."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Counting(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = exporter.export(spans)
            tally.count(service, spans, result is SpanExportResult.SUCCESS)
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Counting()


def _unreachable(endpoint: str) -> str:
    """Why nobody can be reached at `endpoint`; empty where somebody listens."""
    host, _, port = endpoint.rpartition(":")
    try:
        address = (host.strip("[]"), int(port))
        socket.create_connection(address, CONNECT_TIMEOUT).close()
    except ValueError:
        return "an endpoint is written host:port"
    except OSError as error:
        return error.strerror or str(error)
    return ""


if __name__ == "__main__":
    # An interrupt as an exception would be lost where it lands in one of gRPC's callbacks.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
