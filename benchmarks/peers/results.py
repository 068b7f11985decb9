"""What was measured, kept in a file, so that a long run goes on where it stopped."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

from benchmarks.peers.measure import Run

Round = dict[str, Run]
"""A run of each side that can do the cell, one after the other."""


class Measured(msgspec.Struct, frozen=True):
    """The rounds of a cell, and which sides, in which versions, ran them.

    A side that failed has no more rounds; `failed` says how.
    """

    versions: dict[str, str]
    requests: int
    rounds: tuple[Round, ...] = ()
    failed: dict[str, str] = {}


class Results(msgspec.Struct, frozen=True):
    """All cells by name. `missing` says why sides were not measured, by name."""

    machine: dict[str, str] = {}
    command: str = ""
    time: str = ""
    titles: dict[str, str] = {}
    missing: dict[str, str] = {}
    cells: dict[str, Measured] = {}

    def rounds(self, cell: str, versions: dict[str, str], requests: int) -> Measured:
        """What stands of a cell; nothing where other versions or another load ran."""
        found = self.cells.get(cell)
        if found and (found.versions, found.requests) == (versions, requests):
            return found
        return Measured(versions, requests)

    def put(self, cell: str, measured: Measured) -> Results:
        return msgspec.structs.replace(self, cells={**self.cells, cell: measured})


def load(path: Path) -> Results:
    """From the file, if there is one."""
    if not path.exists():
        return Results()
    return msgspec.json.decode(path.read_bytes(), type=Results)


def store(path: Path, results: Results) -> None:
    """Replace the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    new.replace(path)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{pages / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
