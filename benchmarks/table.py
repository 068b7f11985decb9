"""The one table that `make bench` prints: microseconds a span.

In-process operations show the median of their wall time, receivers the CPU time of the
server's process, user and system. The last column compares with protobuf at 512 spans: its
parse, or a server that parses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

COMPARED_AT = 512  # spans: a full batch of a kube-apiserver
PARSE, SERVER = "protobuf_parse", "protobuf"


def rows(benchmarks: Iterable[Any]) -> dict[str, dict[int, float]]:
    """Microseconds a span by operation and by spans a request."""
    found: dict[str, dict[int, float]] = {}
    for one in benchmarks:
        spans = (one.params or {}).get("spans")
        if spans is None:
            continue
        name = one.name.partition("[")[0].removeprefix("test_")
        options = " ".join(part for part in one.param.split("-") if part != str(spans))
        figure = one.extra_info.get("server_us_per_span")
        if figure is None:
            figure = one.stats.median / spans * 1e6
        found.setdefault(f"{name} {options}".strip(), {})[spans] = figure
    return found


def table(benchmarks: Iterable[Any]) -> str:
    """The table as Markdown; empty when nothing was measured."""
    found = rows(benchmarks)
    sizes = sorted({spans for row in found.values() for spans in row})
    if not sizes:
        return ""
    head = [
        "µs a span, by spans a request",
        *map(str, sizes),
        f"protobuf = 1, at {COMPARED_AT}",
    ]
    lines = [head, ["---", *["---:" for _ in head[1:]]]]
    for name, row in found.items():
        rival = _rival(name, found).get(COMPARED_AT)
        figure = row.get(COMPARED_AT)
        ratio = f"{figure / rival:.3f}" if figure is not None and rival else ""
        cells = [f"{row[size]:.3f}" if size in row else "" for size in sizes]
        lines.append([name, *cells, ratio])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "| "
        + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))
        + " |\n"
        for line in lines
    )


def _rival(name: str, found: dict[str, dict[int, float]]) -> dict[int, float]:
    operation, _, options = name.partition(" ")
    if operation in ("grpc", "http", SERVER):
        return found.get(f"{SERVER} {options}", {})
    return found.get(PARSE, {})
