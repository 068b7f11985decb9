"""Durations as Go reads and writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.units import Duration

LONGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("0s", 0.0),
        ("5s", 5.0),
        ("+5s", 5.0),
        ("-5s", -5.0),
        (" 5s ", 5.0),
        ("200ms", 0.2),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("1.s", 1.0),
        (".5s", 0.5),
        ("2h45m10.5s", 9910.5),
        ("3us", 3e-6),
        ("3µs", 3e-6),
        ("3μs", 3e-6),
        ("1ns", 1e-9),
        ("0.1ns", 0.0),
        ("2562047h47m16.854775807s", LONGEST / 1e9),
    ],
)
def test_parses_what_go_parses(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "-", "+", "5", "5 s", "s", ".s", "-+5s", "--5s", "5d", "5S", "1e3s", "٣s", "5s x"],
)
def test_refuses_what_go_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="such as 200ms, 5s, 1m30s") as error:
        Duration.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["2562047h47m16.854775808s", "9" * 400 + "h"])
def test_refuses_what_is_too_long(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 292 years"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (90, "90s"),
        (7200, "2h"),
        (0.2, "200ms"),
        (1e-9, "1ns"),
        (-1.5, "-1500ms"),
    ],
)
def test_shows_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert str(Duration(seconds)) == text


@given(st.integers(-(2**62), 2**62))
def test_what_is_shown_is_read_back(nanoseconds: int) -> None:
    duration = Duration(nanoseconds / 1e9)
    # A float has room for each nanosecond up to 2**53 of them, and is rounded twice on the
    # way: up to a quarter of that (26 days) it makes no difference.
    assert Duration.parse(str(duration)) == pytest.approx(duration, rel=1e-15)
    if abs(nanoseconds) < 2**51:
        assert Duration.parse(str(duration)) == duration


@given(st.text())
def test_any_text_gives_a_duration_or_a_value_error(text: str) -> None:
    try:
        duration = Duration.parse(text)
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017
    else:
        assert abs(duration) <= LONGEST / 1e9
