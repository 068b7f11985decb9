"""Which cells there are, and how they are chosen."""

from __future__ import annotations

import pytest

from benchmarks.peers.matrix import SIZED, SIZES, SPAN_SIZES, Cell, cells, choose


def names(only: str) -> list[str]:
    return [cell.name for cell in choose(cells(), only)]


def test_the_whole_matrix() -> None:
    found = names("")
    by_span = 2 * len(SIZED) * len(SPAN_SIZES)
    whole = 3 * 2 * (len(SIZES) + 1) + 2 * len(SIZES) + by_span + 2
    assert len(found) == len(set(found)) == whole
    assert found[0] == "receive/none/1"
    assert found[-1] == "memory-forward/none/512"


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("receive/none/512", ["receive/none/512"]),
        ("*/gzip/512", ["receive/gzip/512", "sample/gzip/512", "forward/gzip/512"]),
        ("sample/none/1, sample/none/10", ["sample/none/1", "sample/none/10"]),
        ("forward/none/1x*", [f"forward/none/1x{size}" for size in SPAN_SIZES]),
        ("memory-*", ["memory-receive/none/512", "memory-forward/none/512"]),
    ],
)
def test_patterns(only: str, expected: list[str]) -> None:
    assert names(only) == expected


def test_a_pattern_stands_for_what_begins_with_it() -> None:
    assert names("forward/gzip") == [f"forward/gzip/{one}" for one in [*SIZES, "kube"]]
    assert len(names("receive")) == 2 * (len(SIZES) + 1) + len(SIZED) * len(SPAN_SIZES)


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="'recieve' matches no cell"):
        names("receive/none/1 recieve")


def test_other_sizes() -> None:
    found = [cell.name for cell in choose(cells((7,)), "receive/none")]
    assert found == ["receive/none/7", "receive/none/kube"]


def test_cells_know_their_spans() -> None:
    assert (Cell("receive", "none", "10").spans, Cell("receive", "none", "kube").spans) == (
        10,
        0,
    )
    assert Cell("receive", "none", "10").span_size == 0
    sized = Cell("receive", "none", "10x2048")
    assert (sized.spans, sized.span_size) == (10, 2048)
