"""Samples of what was lost, and how much lately."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace import losses
from k8strace.losses import LONGEST, SLOTS, TICK, Loss, Losses, Sample

LOSS = Loss("exporters", "otlp", "dropped", "queue_full")
OTHER = LOSS._replace(reason="shutdown")


def sample(text: str = "full") -> Sample:
    return Sample(1.0, "10.0.0.1:1", "apiserver", text)


def test_before_the_first_look_nothing_is_recent() -> None:
    known = Losses()
    assert known.lately(LOSS, 7, 60) == 0
    assert known.remembered == 0


def test_what_was_there_before_the_first_look_is_old() -> None:
    known = Losses()
    known.observe(1000.0, {LOSS: 7})
    assert known.lately(LOSS, 7, LONGEST) == 0
    assert known.lately(LOSS, 9, 60) == 2


def test_a_loss_that_is_new_is_recent_until_its_time_is_over() -> None:
    known = Losses()
    known.observe(0.0, {})
    assert known.lately(LOSS, 5, 60) == 5
    known.observe(TICK, {LOSS: 5})
    known.observe(TICK + 55, {LOSS: 5})
    assert known.lately(LOSS, 5, 60) == 5
    known.observe(2 * TICK + 60, {LOSS: 5})
    assert known.lately(LOSS, 5, 60) == 0
    assert known.lately(LOSS, 5, 600) == 5
    assert known.remembered == 2 * TICK + 60


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 9)), max_size=40),
    st.sampled_from([60.0, 600.0, LONGEST]),
)
def test_windows_agree_with_all_that_was_counted(
    steps: list[tuple[int, int]], seconds: float
) -> None:
    """Each step: some ticks later, so many more; now and then for longer than an hour."""
    known = Losses()
    tick, total = 1000, 0
    known.observe(tick * TICK, {LOSS: total})
    counted: Counter[int] = Counter()
    for ticks, more in steps:
        tick, total = tick + ticks, total + more
        counted[tick] += more  # seen by the look at this tick
        known.observe(tick * TICK, {LOSS: total})
    start = tick - seconds // TICK
    expected = sum(more for at, more in counted.items() if at > start)
    assert known.lately(LOSS, total, seconds) == expected


def test_more_looks_in_one_tick_change_nothing() -> None:
    known = Losses()
    known.observe(0.0, {})
    known.observe(TICK, {LOSS: 1})
    known.observe(TICK + 1, {LOSS: 5})
    assert known.lately(LOSS, 5, 0) == 4


def test_the_last_sample_is_kept_and_told() -> None:
    known = Losses()
    told: list[tuple[Loss, Sample]] = []
    known.on_sample = lambda *one: told.append(one)
    known.note(LOSS, sample("one"))
    known.note(LOSS, sample("two"))
    assert known.samples == {LOSS: sample("two")}
    assert told == [(LOSS, sample("one")), (LOSS, sample("two"))]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "MAX_LOSSES", 1)
    known = Losses()
    known.observe(0.0, {})
    for loss in (LOSS, OTHER):
        known.note(loss, sample())
    known.observe(TICK, {LOSS: 1, OTHER: 1})
    assert list(known.samples) == [LOSS]
    assert known.lately(LOSS, 1, 60) == 1
    assert known.lately(OTHER, 1, 60) == 0
    for tick in range(2, 2 * SLOTS):
        known.observe(tick * TICK, {LOSS: tick})
    assert [len(ring) for ring in known._rings.values()] == [SLOTS]
