"""What was measured is kept, and given up when something else would run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.results import Measured, Results, load, machine, store
from tests.support.peers import run

VERSIONS = {"k8strace": "1", "collector": "2"}


def test_stored_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "below" / "results.json"
    assert load(path) == Results()
    measured = Measured(VERSIONS, 10, ({"k8strace": run(), "collector": run(cpu=2.0)},))
    results = Results(machine(), "make", "now", {"k8strace": "k8strace"}).put(
        "a/b/1", measured
    )
    store(path, results)
    assert load(path) == results
    assert [one.name for one in path.parent.iterdir()] == ["results.json"]


def test_a_cell_goes_on_where_it_stopped() -> None:
    measured = Measured(VERSIONS, 10, ({"k8strace": run()},))
    results = Results().put("a/b/1", measured)
    assert results.rounds("a/b/1", VERSIONS, 10) is measured


def test_other_versions_and_loads_begin_anew() -> None:
    results = Results().put("a/b/1", Measured(VERSIONS, 10, ({"k8strace": run()},)))
    newer = {**VERSIONS, "k8strace": "2"}
    assert results.rounds("a/b/1", newer, 10) == Measured(newer, 10)
    assert results.rounds("a/b/1", {**VERSIONS, "rotel": "1"}, 10).rounds == ()
    assert results.rounds("a/b/1", VERSIONS, 20).rounds == ()
    assert results.rounds("a/b/512", VERSIONS, 10).rounds == ()


def test_a_failed_side_may_be_tried_again_only_afresh() -> None:
    failed = Measured(VERSIONS, 10, ({"k8strace": run()},), {"collector": "why"})
    assert Results().put("a", failed).rounds("a", VERSIONS, 10).failed == {
        "collector": "why"
    }
