"""What is measured: the cells of the matrix, their names, and how they are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

SIZES = (1, 10, 100, 512, 4096)
SPAN_SIZES = (100, 600, 2048, 8192)  # bytes, beside those of all other cells
SIZED = (1, 10)  # spans a request whose size is varied
SAMPLED = 10  # percent
MEMORY_SECONDS = 30.0
MEMORY_SIZE = 512
KUBE = "kube"

Scenario = Literal["receive", "http", "sample", "forward", "store"]
Compression = Literal["none", "gzip"]

SCENARIOS: dict[Scenario, str] = {
    "receive": "receive → nop",
    "http": "receive over HTTP → nop",
    "sample": f"sampler {SAMPLED} % → batch → nop",
    "forward": "batch → OTLP out",
    "store": "queue on disk → OTLP out",
}
COMPRESSIONS: tuple[Compression, ...] = ("none", "gzip")
PLAIN: tuple[Scenario, ...] = ("http", "store")  # measured without compression only


class Cell(msgspec.Struct, frozen=True):
    """One comparison: the same load through the same pipeline of each side.

    `payload` is a number of spans, whose requests are seeded, "10x600" for spans of about
    600 bytes each, or "kube", requests that a kube-apiserver sent. With `seconds` the load
    goes on for so long, and it is the memory that is compared; else its number of requests
    is fixed.
    """

    scenario: Scenario
    compression: Compression
    payload: str
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """As `ONLY=` takes it, such as "receive/none/512" or "memory-forward/none/512"."""
        scenario = f"memory-{self.scenario}" if self.seconds else self.scenario
        return f"{scenario}/{self.compression}/{self.payload}"

    @property
    def spans(self) -> int:
        """Spans a request; 0 where requests differ in that."""
        return 0 if self.payload == KUBE else int(self.payload.partition("x")[0])

    @property
    def span_size(self) -> int:
        """About how many bytes a span has; 0 where that is not varied."""
        return int(self.payload.partition("x")[2] or 0)

    @property
    def is_sent(self) -> bool:
        """Whether spans go on to a backend."""
        return self.scenario in ("forward", "store")

    @property
    def protocol(self) -> Literal["grpc", "http"]:
        """By which the side gets its requests."""
        return "http" if self.scenario == "http" else "grpc"


def cells(sizes: Sequence[int] = SIZES) -> list[Cell]:
    """The whole matrix, in the order in which it is measured."""
    payloads = [*map(str, sizes), KUBE]
    matrix = [
        Cell(scenario, compression, payload)
        for scenario in SCENARIOS
        for compression in COMPRESSIONS
        for payload in payloads
        if scenario not in PLAIN or (compression == "none" and payload != KUBE)
    ]
    scenarios: tuple[Scenario, ...] = ("receive", "forward")
    by_span = [
        Cell(scenario, "none", f"{spans}x{size}")
        for scenario in scenarios
        for spans in SIZED
        if spans in sizes
        for size in SPAN_SIZES
    ]
    memory = [
        Cell(scenario, "none", str(MEMORY_SIZE), MEMORY_SECONDS) for scenario in scenarios
    ]
    return matrix + by_span + memory


def choose(all_cells: Sequence[Cell], only: str) -> list[Cell]:
    """The cells whose name one of the patterns in `only` matches; all if it is empty.

    Patterns stand between spaces or commas; `*` is any text, and a pattern without all
    three parts matches what begins with it: "receive", "receive/none". Raises ValueError
    for a pattern that matches nothing.
    """
    patterns = only.replace(",", " ").split()
    for pattern in patterns:
        if not any(_matches(cell.name, pattern) for cell in all_cells):
            raise ValueError(f"{pattern!r} matches no cell, such as {all_cells[0].name!r}")
    return [
        cell
        for cell in all_cells
        if not patterns or any(_matches(cell.name, pattern) for pattern in patterns)
    ]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}/*")
