"""Computes from a recording of a control plane what its traces cost, at each sampling rate.

Traces are kept or left out as a whole, whatever is in them, so that everything is in
proportion to the rate.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from isal import igzip
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from k8strace.replay import RecordingError, recorded

RATES = (100, 1_000, 10_000, 100_000, 1_000_000)  # per million
WINDOW = 30  # seconds
DAY = 86_400
MILLION = 1_000_000


class Figures(NamedTuple):
    """Of a recording of all traces; rates are a second's, over `WINDOW` seconds."""

    requests: int
    spans: int
    size: int  # bytes of protobuf
    packed: int  # bytes, gzip
    idle: float  # spans
    loaded: float  # spans
    served: float  # requests, when most spans ended


def figures(paths: Sequence[Path]) -> Figures:
    """What the recording has. Raises OSError or RecordingError where it is none."""
    size = packed = 0
    spans: Counter[int] = Counter()  # by the second of their end
    requests: Counter[int] = Counter()
    for request in recorded(paths):
        size += len(request.body)
        packed += len(igzip.compress(request.body))
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            is_apiserver = any(
                one.key == "service.name" and one.value.string_value == "apiserver"
                for one in resource.resource.attributes
            )
            for scope in resource.scope_spans:
                seconds = [one.end_time_unix_nano // 10**9 for one in scope.spans]
                spans.update(seconds)
                if is_apiserver:
                    requests.update(
                        second
                        for second, one in zip(seconds, scope.spans, strict=True)
                        if one.kind == Span.SPAN_KIND_SERVER
                    )
    rates = {start: _mean(spans, start) for start in _starts(spans)}
    busiest = max(rates, key=lambda start: rates[start])
    return Figures(
        requests.total(),
        spans.total(),
        size,
        packed,
        min(rates.values()),
        rates[busiest],
        _mean(requests, busiest),
    )


def _starts(seconds: Iterable[int]) -> range:
    """Of the windows that lie between the first and the last second, whole."""
    first, last = min(seconds), max(seconds)
    return range(first, max(first + 1, last - WINDOW + 1))


def _mean(events: Counter[int], start: int) -> float:
    return sum(events[start + second] for second in range(WINDOW)) / WINDOW


def report(found: Figures) -> str:
    """The figures, and what follows from them, as Markdown."""
    lines = [
        f"- {found.spans:,} spans of {found.requests:,} requests: "
        f"**{found.spans / found.requests:.1f} spans a request**",
        f"- **{found.size / found.spans:.0f} bytes a span**, "
        f"{found.packed / found.spans:.0f} with gzip",
        f"- idle: {found.idle:.1f} spans/s",
        f"- under load ({found.served:.0f} requests/s): {found.loaded:.0f} spans/s",
        "",
        "| `samplingRatePerMillion` | idle, a day | under this load, spans/s | a day | "
        "each 1,000 requests/s, spans/s | a day |",
        "|---:|---:|---:|---:|---:|---:|",
        *(_row(found, rate) for rate in RATES),
    ]
    return "\n".join(lines) + "\n"


def _row(found: Figures, rate: int) -> str:
    part = rate / MILLION
    size = found.size / found.spans
    each = 1000 * found.spans / found.requests
    cells = [
        f"{rate:,}",
        _bytes(found.idle * part * size * DAY),
        _number(found.loaded * part),
        _bytes(found.loaded * part * size * DAY),
        _number(each * part),
        _bytes(each * part * size * DAY),
    ]
    return f"| {' | '.join(cells)} |"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where the recording is bad."""
    parser = argparse.ArgumentParser(prog="python -m scripts.trace_costs")
    parser.add_argument("paths", nargs="+", type=Path, help=".pb files, folders, archives")
    try:
        found = figures(parser.parse_args(argv).paths)
    except (OSError, RecordingError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
