"""Counters in memory: found again, read by others, whole whenever their writer dies."""

from __future__ import annotations

import math
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace._counters import (
    COUNTER,
    DROPPED,
    GAUGE,
    HISTOGRAM,
    LEDGER,
    READING,
    Block,
    Histogram,
    Ledger,
    Value,
)

SIZE = 64 * 1024
KEYS = st.lists(st.text(max_size=20), min_size=1, max_size=4).map(tuple)
FIELDS = (
    *("received", "recovered", "sent", "filtered", "sampled_out", "rejected", "refused"),
    "parked",
)


@pytest.fixture
def shared() -> Iterator[int]:
    """A descriptor of memory that several processes may map."""
    descriptor = os.memfd_create("counters")
    os.ftruncate(descriptor, SIZE)
    yield descriptor
    os.close(descriptor)


def test_what_is_counted_without_a_block() -> None:
    value, ledger = Value(), Ledger()
    value.add(3)
    value.add(4)
    assert value.value == 7
    ledger.receive(10)
    ledger.send(4)
    ledger.park(3)
    ledger.park(-1)
    ledger.drop(1, "why")
    assert (ledger.parked, ledger.dropped, ledger.in_flight) == (2, {"why": 1}, 3)


@given(st.lists(st.floats(-10, 1000), max_size=50), st.sets(st.floats(0, 900), max_size=8))
def test_a_histogram_counts_as_prometheus_reads_it(
    observed: list[float], some: set[float]
) -> None:
    bounds = tuple(sorted(some))
    histogram = Histogram(bounds)
    for value in observed:
        histogram.observe(value)
    *counts, total = histogram.values
    assert len(counts) == len(bounds) + 1
    assert math.isclose(total, sum(observed), abs_tol=1e-6)
    for index, bound in enumerate(bounds):
        assert sum(counts[: index + 1]) == sum(value <= bound for value in observed)
    assert sum(counts) == len(observed)


@given(st.dictionaries(KEYS, st.integers(0, 2**62)), KEYS, st.lists(st.text(max_size=9)))
def test_a_successor_goes_on(
    counts: dict[tuple[str, ...], int], key: tuple[str, ...], reasons: list[str]
) -> None:
    memory = bytearray(SIZE)
    first = Block(memory)
    for one, number in counts.items():
        first.counter(*one).add(number)
    ledger = first.ledger(*key)
    for number, name in enumerate(FIELDS, 1):
        setattr(ledger, name, number)
    ledger.holds_answers = True
    for reason in reasons:
        ledger.drop(1, reason)
    first.histogram((1.0, 2.0), *key).observe(2)
    first.gauge(*key).set(0.5)
    first.reading(*key).set(9.5)

    second = Block(memory)
    assert sorted(second.entries()) == sorted(first.entries())
    for one, number in counts.items():
        assert second.counter(*one).value == number
        second.counter(*one).add(1)
        assert first.counter(*one).value == number + 1
    again = second.ledger(*key)
    assert [getattr(again, name) for name in FIELDS] == [*range(1, 9)]
    assert again.holds_answers
    assert again.dropped == {reason: reasons.count(reason) for reason in reasons}
    assert again.in_flight == ledger.in_flight
    assert second.histogram((1.0, 2.0), *key).values == (0, 1, 0, 2.0)
    assert (second.gauge(*key).value, second.reading(*key).value) == (0.5, 9.5)
    assert second.used == first.used


def test_entries_say_what_they_are() -> None:
    block = Block(bytearray(SIZE))
    block.counter("a", "x").add(2)
    gauge = block.gauge("b")
    block.reading("c").set(1.5)
    block.histogram((1.0,), "d").observe(3)
    block.ledger("exporters", "nop", "").drop(4, "why")
    assert gauge.value is None
    assert block.entries() == [
        (COUNTER, ("a", "x"), (2,)),
        (GAUGE, ("b",), ()),
        (READING, ("c",), (1.5,)),
        (HISTOGRAM, ("d",), (0, 1, 3.0)),
        (LEDGER, ("exporters", "nop", ""), (0,) * 11),
        (DROPPED, ("exporters", "nop", "", "why"), (4,)),
    ]
    gauge.set(0)
    assert block.entries()[1] == (GAUGE, ("b",), (0.0,))
    gauge.clear()
    assert block.entries()[1] == (GAUGE, ("b",), ())


def test_what_finds_no_room_counts_and_is_not_shown() -> None:
    block = Block(bytearray(256))
    values = [block.counter(f"counter {number}") for number in range(10)]
    for value in values:
        value.add(1)
    assert [value.value for value in values] == [1] * 10
    shown = len(block.entries())
    assert 0 < shown < 10
    assert block.refused == 10 - shown
    ledger = block.ledger("a", "b", "c")
    ledger.receive(2)
    ledger.drop(1, "why")
    assert ledger.in_flight == 1
    assert block.histogram((1.0,), "h").values == (0, 0, 0)
    assert block.used <= 256


@pytest.mark.parametrize("memory", [bytearray(8), bytearray(b"x" * SIZE)])
def test_memory_that_is_no_block(memory: bytearray) -> None:
    with pytest.raises(ValueError, match="counters"):
        Block(memory)


@given(st.data())
def test_damage_is_not_read(data: st.DataObject) -> None:
    memory = bytearray(4096)
    block = Block(memory)
    for number in range(8):
        block.ledger("exporters", str(number), "").drop(number, "why")
    used = block.used
    for _ in range(data.draw(st.integers(1, 20))):
        place = data.draw(st.integers(8, used - 1))
        memory[place] = data.draw(st.integers(0, 255))
    for entry in Block(memory).entries():
        assert len(entry) == 3
    block.counter("more").add(1)


WRITER = """
import mmap, sys
from k8strace._counters import Block
block = Block(mmap.mmap(int(sys.argv[1]), 0))
counter, ledger = block.counter("n"), block.ledger("exporters", "otlp", "")
print("begun", flush=True)
number = 0
while True:
    counter.add(1)
    ledger.receive(2 ** 33 + 1)
    ledger.drop(1, str(number % 100))
    block.counter("n", str(number % 300)).add(1)
    number += 1
"""


def writer(descriptor: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(descriptor)],
        pass_fds=[descriptor],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.stdout.close()
    return process


@pytest.mark.slow
def test_a_writer_may_be_killed_at_any_time(shared: int) -> None:
    """Read while it writes, killed again and again: numbers are whole and never fall."""
    reader = Block(mmap.mmap(shared, 0))
    before: dict[tuple[int, tuple[str, ...]], tuple[float, ...]] = {}
    for turn in range(12):
        process = writer(shared)
        try:
            for _ in range(3 + 40 * turn):
                now = {(kind, key): values for kind, key, values in reader.entries()}
                assert before.keys() <= now.keys()
                for place, values in before.items():
                    assert all(a <= b for a, b in zip(values, now[place], strict=True))
                for (kind, _), values in now.items():
                    assert kind != LEDGER or values[0] % (2**33 + 1) == 0
                before = now
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        # A successor, or who settles what the dead one left, can write to it.
        Block(mmap.mmap(shared, 0)).ledger("exporters", "otlp", "").drop(1, "settled")
    assert before[DROPPED, ("exporters", "otlp", "", "settled")] == (11,)
    counters = {key: values[0] for (kind, key), values in before.items() if kind == COUNTER}
    assert len(counters) == 301
