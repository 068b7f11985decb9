"""k8strace beside its rivals: `make bench-peers`.

Every cell of the matrix is run by each side in turn, round after round. What is measured is
kept, so that the next call goes on where this one stopped; results of other versions are
measured anew.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import msgspec

from benchmarks.peers.matrix import SIZES, Cell, cells, choose
from benchmarks.peers.measure import Helpers, measure, requests_of
from benchmarks.peers.processes import SideError, helper
from benchmarks.peers.report import cpu_a_request, cpu_a_span, number, tables
from benchmarks.peers.results import Measured, Results, Round, load, machine, store
from benchmarks.peers.sides import Kind, Missing, available
from k8strace import _fastpath

RESULTS = Path("benchmarks/peers/.results/peers.json")
MAX_ROUNDS = 100


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument("--only", default="", help="patterns of cells: receive/none/512 …")
    parser.add_argument("--sizes", type=_sizes, default=SIZES, help="spans a request")
    parser.add_argument("--rounds", type=_rounds, default=5)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured")
    parser.add_argument("--list", action="store_true", help="name the cells and end")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(one) for one in text.replace(",", " ").split())
    if not all(0 < size <= 8192 for size in sizes):
        raise argparse.ArgumentTypeError("sizes are 1 to 8192 spans")
    return sizes or SIZES


def _rounds(text: str) -> int:
    rounds = int(text)
    if not 0 < rounds <= MAX_ROUNDS:
        raise argparse.ArgumentTypeError(f"rounds are 1 to {MAX_ROUNDS}")
    return rounds


def run_round(
    measured: Measured, cell: Cell, kinds: Sequence[Kind], helpers: Helpers
) -> Measured:
    """Every side once, in the same order."""
    found: Round = {}
    failed = dict(measured.failed)
    for kind in kinds:
        if kind.name in failed:
            continue
        try:
            run = measure(cell, kind, helpers)
        except SideError as error:
            failed[kind.name] = str(error)
            say(f"{cell.name:22} {kind.title} failed: {error}")
        else:
            if run is not None:
                found[kind.name] = run
    rounds = (*measured.rounds, found)
    return msgspec.structs.replace(measured, rounds=rounds, failed=failed)


def run_cell(
    cell: Cell, kinds: Sequence[Kind], options: argparse.Namespace, results: Results
) -> Results:
    """The rounds that a cell lacks; each is stored when it is over."""
    wanted = 1 if cell.seconds else options.rounds
    versions = {kind.name: kind.version for kind in kinds}
    measured = results.rounds(cell.name, versions, requests_of(cell))
    if len(measured.rounds) >= wanted:
        return results
    with ExitStack() as stack:
        spec = msgspec.json.encode(cell).decode()
        generator = stack.enter_context(helper("benchmarks.peers.load", spec))
        sink = stack.enter_context(helper("benchmarks.peers.sink"))
        helpers = Helpers(generator, sink, sink.line())
        generator.line()
        while len(measured.rounds) < wanted:
            measured = run_round(measured, cell, kinds, helpers)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            results = msgspec.structs.replace(results.put(cell.name, measured), time=now)
            store(options.results, results)
            number_of = f"{len(measured.rounds)}/{wanted}"
            say(f"{cell.name:22} {number_of}  {progress(measured.rounds[-1])}")
    return results


def progress(one: Round) -> str:
    return "; ".join(
        f"{name} {number(cpu_a_request(run))} µs ({number(cpu_a_span(run))} a span)"
        for name, run in one.items()
    )


def main(argv: Sequence[str]) -> int:
    options = arguments(argv)
    all_cells = cells(options.sizes)
    try:
        chosen = choose(all_cells, options.only)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.list:
        say("\n".join(cell.name for cell in chosen))
        return 0
    if _fastpath.BUILD != "release":
        sys.stderr.write(f"a {_fastpath.BUILD} build: make build K8STRACE_BUILD=release\n")
        return 2
    sides = available(os.environ)
    kinds = [one for one in sides if isinstance(one, Kind)]
    missing = {one.name: one.why for one in sides if isinstance(one, Missing)}
    results = Results() if options.fresh else load(options.results)
    results = msgspec.structs.replace(
        results,
        machine=machine(),
        command=f"make bench-peers ROUNDS={options.rounds}",
        titles={one.name: one.title for one in sides},
        missing=missing,
    )
    for kind in kinds:
        say(f"{kind.title}: {kind.version}")
    for name, why in missing.items():
        say(f"{results.titles[name]} is not measured: {why}")
    for cell in chosen:
        results = run_cell(cell, kinds, options, results)
    say("\n" + tables(results, chosen))
    say(f"All of it: {options.results}")
    return int(any(results.cells[cell.name].failed for cell in chosen))


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise KeyboardInterrupt  # so that what was started ends too


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
