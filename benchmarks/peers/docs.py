"""Write the tables of docs/benchmarks.md anew: `make bench-peers-docs`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.peers.__main__ import RESULTS
from benchmarks.peers.matrix import Cell, cells
from benchmarks.peers.measure import CONNECTIONS, IN_FLIGHT
from benchmarks.peers.report import Figure, cpu_a_request, peak, ratios, table, tables
from benchmarks.peers.results import Results, load

PAGE = Path("docs/benchmarks.md")

# What is compared with the Collector's, its figure over ours, and how large it is to be.
TARGETS: tuple[tuple[str, Figure, float], ...] = (
    ("receive/none/1", cpu_a_request, 5),
    ("receive/none/512", cpu_a_request, 18),
    ("http/none/1", cpu_a_request, 2),
    ("http/none/512", cpu_a_request, 12),
    ("sample/none/512", cpu_a_request, 18),
    ("forward/none/512", cpu_a_request, 10),
    ("forward/gzip/512", cpu_a_request, 10),
    ("memory-receive/none/512", peak, 2),
    ("memory-forward/none/512", peak, 2),
)


def targets(results: Results) -> str:
    """How far each target is reached; empty cells where nothing was measured."""
    rows = []
    for name, figure, wanted in TARGETS:
        measured = results.cells.get(name)
        found = ratios(measured, "collector", figure) if measured else []
        reached = f"1/{median(found):.1f}" if found else ""
        is_reached = "" if not found else "yes" if median(found) >= wanted else "no"
        what = "peak memory" if figure is peak else "CPU"
        rows.append([f"`{name}`", what, f"1/{wanted:.0f}", reached, is_reached])
    head = ("cell", "", "target", "measured", "reached")
    return table(head, rows)


def conditions(results: Results) -> str:
    """Where and of what the figures are."""
    machine = results.machine
    versions: dict[str, set[str]] = {}
    for measured in results.cells.values():
        for side, version in measured.versions.items():
            versions.setdefault(side, set()).add(version)
    lines = [
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory']}, "
        f"Linux {machine['kernel']}, Python {machine['python']}; {results.time}",
        *(
            f"- {results.titles[side]} {', '.join(sorted(found))}"
            for side, found in versions.items()
        ),
        *(
            f"- {results.titles[side]}: not measured"
            for side in results.missing
            if side not in versions
        ),
        f"- {CONNECTIONS} connections with {IN_FLIGHT} requests in flight each; "
        f"`{results.command}`",
    ]
    return "\n".join(lines) + "\n"


def filled(page: str, sections: dict[str, str]) -> str:
    """The page with the text between each pair of its marks replaced."""
    for name, text in sections.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = page.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found and found_end):
            raise ValueError(f"{begin} … {end} is not in the page")
        page = f"{before}{begin}\n{text}{end}{after}"
    return page


def main(all_cells: Sequence[Cell]) -> int:
    results = load(RESULTS)
    if not results.cells:
        sys.stderr.write("nothing was measured: make bench-peers\n")
        return 2
    sections = {
        "conditions": conditions(results),
        "targets": targets(results),
        "matrix": "\n" + tables(results, all_cells, "### ") + "\n",
    }
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), sections), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(cells()))
