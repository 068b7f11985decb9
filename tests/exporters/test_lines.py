"""Log lines of which there may be many."""

from __future__ import annotations

import logging

import pytest

from k8strace.exporters import _lines
from k8strace.exporters._lines import BURST, PERIOD, Lines


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr(_lines, "monotonic", lambda: clock[0])
    return clock


def lines() -> Lines:
    return Lines(logging.LoggerAdapter(logging.getLogger("k8strace"), {}))


def test_a_few_of_a_kind_are_written_then_counted(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = lines()
    for number in range(BURST + 5):
        log.write("kind", logging.ERROR, "line %d", number)
    assert [record.getMessage() for record in caplog.records] == [
        f"line {number}" for number in range(BURST)
    ]
    now[0] += PERIOD
    caplog.clear()
    log.write("kind", logging.ERROR, "line %d", 99)
    log.write("kind", logging.ERROR, "line %d", 100)
    assert [record.getMessage() for record in caplog.records] == [
        "line 99 (and 5 more such lines were left out)",
        "line 100",
    ]


def test_kinds_do_not_hide_each_other(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = lines()
    for _ in range(BURST + 1):
        log.write("one", logging.WARNING, "one")
    log.write("two", logging.WARNING, "two")
    assert caplog.records[-1].getMessage() == "two"
    assert len(caplog.records) == BURST + 1
