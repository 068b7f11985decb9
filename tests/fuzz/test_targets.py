"""The fuzzer's rules hold for its corpus, for what is near it, and for any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets import CORPUS, TARGETS, corpus

CHANGES = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 2), st.binary(max_size=4)), max_size=6
)
"""Where, how many bytes go, and what comes instead."""

named = pytest.mark.parametrize("name", TARGETS)


def mutated(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, new in changes:
        at %= len(data) + 1
        data = data[:at] + new + data[at + gone :]
    return data


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(corpus(name) for name in TARGETS)


@named
def test_the_corpus(name: str) -> None:
    for data in corpus(name):
        TARGETS[name](data)
        for size in range(0, len(data), max(1, len(data) // 100)):
            TARGETS[name](data[:size])


@named
@given(data=st.data(), changes=CHANGES, head=st.binary(min_size=2, max_size=2))
def test_what_is_near_the_corpus(
    name: str, data: st.DataObject, changes: list[tuple[int, int, bytes]], head: bytes
) -> None:
    seed = mutated(data.draw(st.sampled_from(corpus(name))), changes)
    TARGETS[name](head + seed[2:] if name.endswith(("_session", "_connection")) else seed)


@named
@given(data=st.binary(max_size=1000))
def test_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name](data)
