"""The page's tables come from what was measured."""

from __future__ import annotations

import pytest

from benchmarks.peers.docs import PAGE, TARGETS, conditions, filled, targets
from benchmarks.peers.matrix import cells
from benchmarks.peers.results import Measured, Results, machine
from tests.support.peers import run


def test_sections_are_replaced_and_the_rest_stays() -> None:
    page = "a\n<!-- one -->\nold\n<!-- /one -->\nb\n"
    new = filled(page, {"one": "new\n"})
    assert new == "a\n<!-- one -->\nnew\n<!-- /one -->\nb\n"
    assert filled(new, {"one": "new\n"}) == new


def test_a_page_without_the_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="<!-- two -->"):
        filled("<!-- one --><!-- /one -->", {"two": ""})


def test_the_page_has_all_marks() -> None:
    filled(PAGE.read_text(), {"conditions": "", "targets": "", "matrix": ""})


def test_targets_are_cells() -> None:
    assert {name for name, _, _ in TARGETS} <= {cell.name for cell in cells()}


def test_targets_reached_and_missed() -> None:
    results = Results()
    for name, theirs in (("receive/none/512", 20.0), ("forward/none/512", 9.9)):
        one = {"k8strace": run(cpu=1.0), "collector": run(cpu=theirs)}
        results = results.put(name, Measured({}, 100, (one,)))
    lines = [line.replace(" ", "") for line in targets(results).splitlines()]
    assert "|`receive/none/512`|CPU|1/18|1/20.0|yes|" in lines
    assert "|`forward/none/512`|CPU|1/10|1/9.9|no|" in lines
    assert "|`receive/none/1`|CPU|1/5|||" in lines


def test_conditions_name_what_ran_and_what_did_not() -> None:
    titles = {"k8strace": "k8strace", "rotel": "Rotel"}
    missing = {"rotel": "rotel is not here"}
    results = Results(machine(), "make bench-peers", "now", titles, missing)
    results = results.put("a", Measured({"k8strace": "0.1 (abc)"}, 1, ()))
    text = conditions(results)
    assert "- k8strace 0.1 (abc)\n" in text
    assert "- Rotel: not measured\n" in text
    assert "`make bench-peers`" in text
