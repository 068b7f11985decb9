"""Tables, and the ratios in them."""

from __future__ import annotations

import pytest

from benchmarks.peers.matrix import Cell
from benchmarks.peers.measure import Run
from benchmarks.peers.report import (
    arrived,
    cpu_a_request,
    cpu_a_span,
    number,
    peak,
    ratios,
    table,
    tables,
)
from benchmarks.peers.results import Measured, Results
from tests.support.peers import run

CELL = Cell("forward", "none", "10")
TITLES = {"k8strace": "k8strace", "collector": "Collector", "rotel": "Rotel"}


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|\n ").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and "---" not in line
    ]


def test_figures_of_a_run() -> None:
    one = run(cpu=0.5)
    assert cpu_a_request(one) == pytest.approx(5000)
    assert cpu_a_span(one) == pytest.approx(500)
    assert peak(one) == 50 * 2**20


def test_ratios_are_of_the_same_round() -> None:
    rounds = (
        {"k8strace": run(cpu=1.0), "collector": run(cpu=10.0)},
        {"k8strace": run(cpu=2.0), "collector": run(cpu=30.0)},
    )
    assert ratios(Measured({}, 1, rounds), "collector", cpu_a_span) == [10.0, 15.0]
    assert ratios(Measured({}, 1, rounds), "rotel", cpu_a_span) == []


def test_a_table_of_a_cell() -> None:
    rounds = tuple(
        {"k8strace": run(cpu=ours), "collector": run(cpu=theirs, peak=100 * 2**20)}
        for ours, theirs in ((0.001, 0.01), (0.002, 0.01), (0.001, 0.03))
    )
    measured = Measured({}, 100, rounds, {"rotel": "it ended"})
    text = tables(Results(titles=TITLES).put(CELL.name, measured), [CELL], "## ")
    assert text.startswith("## batch → OTLP out, none\n\n| spans a request")
    head, *found = rows(text)
    assert head[-1] == "arrived"
    ours, theirs, failed = (" ".join(row) for row in found)
    assert ours == "10 k8strace 10.0 1.00 1 500 2.00 410 50 1 all"
    assert theirs == (
        "10 Collector 100 10.0 10.0 (5.0 to 30.0) 500 2.00 410 100 2.0 (2.0 to 2.0) all"
    )
    assert failed.split() == ["10", "Rotel", "failed"]


def test_cells_that_were_not_measured_have_no_table() -> None:
    assert tables(Results(), [CELL]) == ""


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([run()], "all"),
        ([run(), run(arrived=998)], "2 lost"),
        ([run(arrived=1003)], "3 twice"),
        ([run(refused=7), run()], "all; 7 refused"),
        ([run(arrived=None)], "not told"),
    ],
)
def test_what_arrived(runs: list[Run], text: str) -> None:
    assert arrived(runs) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,234"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.1234, "0.123"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_columns_are_aligned() -> None:
    text = table(("a", "b", "figure"), [["x", "long", "1"], ["yy", "", "10"]])
    assert text == (
        "| a   | b    | figure |\n"
        "| --- | ---- | -----: |\n"
        "| x   | long |      1 |\n"
        "| yy  |      |     10 |\n"
    )
