"""The table of faults, and where it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.fault_table import with_table
from tests.faults.results import Result, load, store, table

ONE = Result(
    fault="gateway killed",
    mode="delivered",
    load="100 kills",
    sent=12_000,
    acknowledged=11_990,
    delivered=11_995,
    duplicated=40,
    lost=0,
)
LOSSY = Result(
    fault="worker killed",
    mode="in memory",
    load="3 kills",
    sent=100,
    acknowledged=90,
    delivered=88,
    duplicated=0,
    lost=2,
    note="what was counted",
)


def test_results_are_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    assert load(path) == {}
    store(path, "a", ONE)
    store(path, "b", LOSSY)
    assert list(load(path).items()) == [("a", ONE), ("b", LOSSY)]


def test_the_table_shows_numbers_and_notes() -> None:
    head, rule, one, lossy, empty, note = table([LOSSY, ONE]).splitlines()
    assert len({len(line) for line in (head, rule, one, lossy)}) == 1
    assert " ".join(one.split()).endswith("| 12,000 | 11,990 | 11,995 | 40 | 0 |")
    assert lossy.endswith(" 2 (1) |")
    assert (empty, note) == ("", "(1) what was counted.")


def test_the_table_goes_between_its_marks() -> None:
    page = "before\n<!-- faults -->\nold\n<!-- /faults -->\nafter\n"
    assert with_table(page, "new\n") == page.replace("old", "new")
    with pytest.raises(ValueError, match="faults"):
        with_table("no marks", "new")
