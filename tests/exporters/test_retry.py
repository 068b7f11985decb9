"""The time between attempts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.config import decode
from k8strace.errors import ConfigError
from k8strace.exporters._retry import Backoff, RetryConfig
from k8strace.units import Duration


def test_the_defaults_are_the_collectors() -> None:
    config = RetryConfig()
    assert config.enabled
    assert config.initial_interval == Duration(5)
    assert config.randomization_factor == 0.5
    assert config.multiplier == 1.5
    assert config.max_interval == Duration(30)
    assert config.max_elapsed_time == Duration(300)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"initial_interval": "-1s"}, "`initial_interval` must be non-negative"),
        ({"max_interval": "-1s"}, "`max_interval` must be non-negative"),
        ({"multiplier": -0.5}, "`multiplier` must be non-negative"),
        ({"max_elapsed_time": "-1s"}, "`max_elapsed_time` must be non-negative"),
        ({"randomization_factor": 1.5}, "`randomization_factor` must be within [0, 1]"),
        ({"max_elapsed_time": "2s"}, "must not be less than `initial_interval` (5s)"),
        (
            {"max_elapsed_time": "6s"},
            "`max_elapsed_time` (6s) must not be less than `max_interval` (30s)",
        ),
    ],
)
def test_what_cannot_work_is_an_error(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        decode(RetryConfig, values)
    assert text in str(error.value)


def test_what_is_off_is_not_checked() -> None:
    assert not decode(RetryConfig, {"enabled": False, "multiplier": -1}).enabled


def exact(**options: Any) -> RetryConfig:
    return RetryConfig(randomization_factor=0, **options)


def test_intervals_grow_up_to_the_maximum() -> None:
    config = exact(multiplier=2, max_interval=Duration(30))
    backoff = Backoff(config, 0)
    assert [backoff.delay(0, None) for _ in range(5)] == [5, 10, 20, 30, 30]
    backoff.reset()
    assert backoff.delay(0, None) == 5


def test_a_destination_that_says_how_long_is_not_asked_earlier() -> None:
    backoff = Backoff(exact(), 0)
    assert backoff.delay(0, 60.0) == 60
    assert backoff.delay(0, 0.1) == 7.5


def test_it_ends_where_the_next_attempt_would_be_too_late() -> None:
    backoff = Backoff(exact(multiplier=1), 100)
    assert backoff.delay(395, None) == 5
    assert backoff.delay(395.001, None) is None
    assert backoff.delay(200, 201.0) is None
    backoff.reset()
    assert backoff.delay(400, None) is None


def test_zero_never_ends() -> None:
    backoff = Backoff(exact(max_elapsed_time=Duration(0)), 0)
    assert backoff.delay(1e9, None) == 5


def test_off_means_one_attempt() -> None:
    assert Backoff(RetryConfig(enabled=False), 0).delay(0, 0.1) is None


@given(
    st.floats(0, 1),
    st.floats(0, 4),
    st.floats(0, 10),
    st.floats(0, 100),
    st.lists(st.none() | st.floats(0, 1000), max_size=20),
)
def test_every_delay_is_within_its_bounds(
    spread: float,
    multiplier: float,
    initial: float,
    most: float,
    throttles: list[float | None],
) -> None:
    config = RetryConfig(
        randomization_factor=spread,
        multiplier=multiplier,
        initial_interval=Duration(initial),
        max_interval=Duration(most),
        max_elapsed_time=Duration(0),
    )
    backoff = Backoff(config, 0)
    for throttle in throttles:
        delay = backoff.delay(0, throttle)
        assert delay is not None
        assert delay >= (throttle or 0)
        limit = max(initial, most) * (1 + spread)
        assert delay <= max(limit, throttle or 0) * (1 + 1e-9)
