"""The heartbeat that measures how long the event loop is held up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from k8strace import loop_lag
from k8strace.loop_lag import LoopLag
from k8strace.metrics import LOOP_LAG, LOOP_OWN_LAG, Metrics
from tests.support.gateway import Samples


async def beaten(metrics: Metrics, condition: Callable[[], bool]) -> None:
    """Return when a condition about the beats is true."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def beats(metrics: Metrics, above: float = 0.0, *, own: bool = False) -> float:
    """The beats that came later than a bound."""
    series = LOOP_OWN_LAG if own else LOOP_LAG
    *counts, _ = metrics.histogram(series).values
    first = series.buckets.index(above) + 1 if above else 0
    return sum(counts[first:])


def waited_so_far() -> float:
    """Seconds that this thread has waited for a CPU."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


async def test_what_holds_the_loop_up_is_seen() -> None:
    metrics = Metrics()
    lag = LoopLag(metrics)
    lag.start()
    await beaten(metrics, lambda: beats(metrics) >= 2)
    before = beats(metrics, 0.2)  # a busy machine holds it up, too
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    await beaten(metrics, lambda: beats(metrics, 0.2) > before)
    lag.stop()
    lag.stop()
    after = beats(metrics)
    await asyncio.sleep(5 * loop_lag.INTERVAL)
    assert beats(metrics) == after == beats(metrics, own=True)


async def test_what_the_machine_has_kept_is_not_the_loops_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if the thread had waited for a CPU while it slept."""
    waited = 0.0
    monkeypatch.setattr(LoopLag, "_read_waited", lambda _: waited)
    metrics = Metrics()
    lag = LoopLag(metrics)
    lag.start()
    await beaten(metrics, lambda: beats(metrics) >= 2)
    begun = time.monotonic()
    time.sleep(0.5)  # noqa: ASYNC251
    waited += time.monotonic() - begun
    await beaten(metrics, lambda: beats(metrics, 0.2) >= 1)
    lag.stop()
    assert beats(metrics, 0.2, own=True) == beats(metrics, 0.2) - 1


async def test_the_wait_for_a_cpu_is_this_threads() -> None:
    metrics = Metrics()
    lag = LoopLag(metrics)
    lag.start()
    before = waited_so_far()
    assert before <= lag._read_waited()
    lag.stop()
    assert lag._read_waited() == 0.0


async def test_without_schedstat_all_lag_is_the_loops_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(os, "open", missing)
    metrics = Metrics()
    lag = LoopLag(metrics)
    lag.start()
    await beaten(metrics, lambda: beats(metrics) >= 2)
    lag.stop()
    wall, own = metrics.histogram(LOOP_LAG), metrics.histogram(LOOP_OWN_LAG)
    assert wall.values == own.values


def test_the_helper_of_tests_counts_late_beats() -> None:
    name = "k8strace_loop_own_lag_seconds"
    text = f"# TYPE {name} histogram\n" + "".join(
        f'{name}_bucket{{le="{bound}"}} {count}\n'
        for bound, count in (("0.01", 5), ("0.02", 7), ("0.05", 8), ("+Inf", 10))
    )
    assert Samples(text).late_beats() == 3
