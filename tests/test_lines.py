"""Log lines of which there may be many."""

from __future__ import annotations

import logging

import pytest

from k8strace.lines import Lines, printable, without_controls
from tests.support.pipeline import until


def lines(period: float = 3600.0) -> Lines:
    adapter = logging.LoggerAdapter(logging.getLogger("k8strace"), {"component": "batch"})
    return Lines(adapter, period)


async def test_the_first_is_written_at_once_and_the_others_are_one_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = lines()
    for number in range(5):
        log.write("kind", logging.ERROR, "line %d", number, fields={"peer": f"p{number}"})
    assert [record.getMessage() for record in caplog.records] == ["line 0"]
    log.flush()
    log.flush()
    first, second = (record.__dict__ for record in caplog.records)
    assert "times" not in first
    assert (second["message"], second["times"], second["peer"]) == ("line 4", 4, "p4")
    assert first["component"] == second["component"] == "batch"


def test_without_a_loop_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    log = lines()
    log.write("kind", logging.WARNING, "one")
    log.write("kind", logging.WARNING, "two")
    assert [record.getMessage() for record in caplog.records] == ["one"]
    log.flush()
    assert [record.getMessage() for record in caplog.records] == ["one", "two"]


async def test_what_came_in_a_minute_is_written_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = lines(0.01)
    for number in (3, 4, 5):
        log.write("kind", logging.WARNING, "lost", number=number, unit="spans")
    await until(lambda: len(caplog.records) == 2)
    assert [record.__dict__["spans"] for record in caplog.records] == [3, 9]


async def test_after_a_quiet_minute_a_line_is_written_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = lines(0)  # a minute that is over at once
    log.write("kind", logging.WARNING, "one")
    log.write("kind", logging.WARNING, "two")
    assert [record.getMessage() for record in caplog.records] == ["one", "two"]


async def test_a_defect_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = lines()
    for number in (1, 2):
        try:
            int("oops")
        except ValueError as error:
            log.defect("failed on %d spans", number, error=error)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("failed on 1 spans\nTraceback")
    assert "ValueError: " in line


async def test_kinds_do_not_hide_each_other(caplog: pytest.LogCaptureFixture) -> None:
    log = lines()
    for kind in ("one", "two", "one"):
        log.write(kind, logging.WARNING, kind)
    assert [record.getMessage() for record in caplog.records] == ["one", "two"]


HOSTILE = "grün\u2028\ud800\x1b[2J\x9b\u202ex"


def test_text_from_outside_is_one_line_without_controls() -> None:
    escaped = "grün\\u2028\\ud800\\x1b[2J\\x9b\\u202ex"
    assert printable(HOSTILE, 99) == escaped
    assert printable("a\nb\r", 99) == "a\\nb\\r"
    assert printable("x" * 10, 10) == "x" * 10
    assert printable("x" * 11, 10) == "x" * 9 + "…"
    assert len(printable("\U000e0001" * 100, 50)) == 50
    assert without_controls(f"{HOSTILE}\n  at {HOSTILE}") == f"{escaped}\n  at {escaped}"


async def test_a_fault_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = lines()
    log.fault("cannot take %d spans", 3, error=OSError(28, "No space left on device"))
    log.fault("cannot take %d spans", 4, error=MemoryError())
    log.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "cannot take 3 spans: OSError: [Errno 28] No space left on device",
        "cannot take 4 spans: MemoryError",
    ]
