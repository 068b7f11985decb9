"""Tables of what was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.peers.matrix import SCENARIOS, Cell
from benchmarks.peers.measure import Run
from benchmarks.peers.results import Measured, Results, Round
from benchmarks.peers.sides import US

Figure = Callable[[Run], float]

MIB = 2**20
TEXT_COLUMNS = 2  # the first of a table; the others are numbers
HEAD = (
    "spans a request",
    "",
    "CPU µs a request",
    "CPU µs a span",
    "CPU, ours = 1",
    "spans/s",
    "answered in ms, p99",
    "bytes out a span",
    "peak MiB",
    "peak, ours = 1",
    "arrived",
)


def tables(results: Results, cells: Sequence[Cell], mark: str = "") -> str:
    """One table for each pipeline and compression of `cells`, its heading after `mark`."""
    parts = []
    for title, some in _groups(cells).items():
        rows = [row for cell in some for row in _rows(cell, results)]
        if rows:
            parts.append(f"{mark}{title}\n\n{table(HEAD, rows)}")
    return "\n".join(parts)


def _groups(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        title = f"{SCENARIOS[cell.scenario]}, {cell.compression}"
        if cell.span_size:
            title += ", by the size of spans"
        if cell.seconds:
            title += f", at full speed for {cell.seconds:.0f} s"
        found.setdefault(title, []).append(cell)
    return found


def _rows(cell: Cell, results: Results) -> list[list[str]]:
    measured = results.cells.get(cell.name)
    if measured is None or not measured.rounds:
        return []
    rows = []
    for side in measured.rounds[0]:
        if side in measured.failed:
            continue
        runs = [one[side] for one in measured.rounds]
        rows.append(
            [
                label(cell),
                results.titles.get(side, side),
                number(median(cpu_a_request(run) for run in runs)),
                number(median(cpu_a_span(run) for run in runs)),
                "1" if side == US else _times(measured, side, cpu_a_span),
                f"{median(run.spans / run.seconds for run in runs):,.0f}",
                _milliseconds(median(run.p99 for run in runs)),
                number(median(run.wire_size / run.spans for run in runs))
                if cell.is_sent
                else "",
                f"{median(map(peak, runs)) / MIB:.0f}",
                "1" if side == US else _times(measured, side, peak),
                arrived(runs),
            ]
        )
    for side in measured.failed:
        empty = [""] * (len(HEAD) - TEXT_COLUMNS - 1)
        rows.append([label(cell), results.titles.get(side, side), *empty, "failed"])
    return rows


def label(cell: Cell) -> str:
    """The spans of a request, and their size where that is varied."""
    return f"{cell.spans} of {cell.span_size:,} B" if cell.span_size else cell.payload


def _milliseconds(seconds: float) -> str:
    """Nothing where nobody had measured it yet."""
    return number(seconds * 1000) if seconds else ""


def cpu_a_request(run: Run) -> float:
    """Microseconds."""
    return run.cpu / run.requests * 1e6


def cpu_a_span(run: Run) -> float:
    """Microseconds."""
    return run.cpu / run.spans * 1e6


def peak(run: Run) -> float:
    """Bytes."""
    return float(run.peak)


def ratios(measured: Measured, side: str, of: Figure) -> list[float]:
    """How many times ours a side's figure is, round by round."""
    return [of(one[side]) / of(one[US]) for one in _with_us(measured.rounds, side)]


def _with_us(rounds: Sequence[Round], side: str) -> list[Round]:
    return [one for one in rounds if side in one and US in one]


def _times(measured: Measured, side: str, of: Figure) -> str:
    found = ratios(measured, side, of)
    if not found:
        return ""
    low, high = min(found), max(found)
    spread = f" ({low:.1f} to {high:.1f})" if len(found) > 1 else ""
    return f"{median(found):.1f}{spread}"


def arrived(runs: Sequence[Run]) -> str:
    """Whether what was sent came out, and how often a request was refused on its way."""
    known = [run for run in runs if run.arrived is not None]
    if not known:
        return "not told"
    missing = sum(run.expected - (run.arrived or 0) for run in known)
    refused = sum(run.refused for run in runs)
    text = "all"
    if missing:
        text = f"{missing:,} lost" if missing > 0 else f"{-missing:,} twice"
    return f"{text}; {refused:,} refused" if refused else text


def number(value: float) -> str:
    """Three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    digits = 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown, its columns aligned; numbers to the right."""
    widths = [max(3, *map(len, column)) for column in zip(head, *rows, strict=True)]
    is_text = [number < TEXT_COLUMNS for number in range(len(head))]
    rule = [
        "-" * width if text else "-" * (width - 1) + ":"
        for width, text in zip(widths, is_text, strict=True)
    ]
    return "".join(
        "| "
        + " | ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, is_text, strict=True)
        )
        + " |\n"
        for line in (head, rule, *rows)
    )
