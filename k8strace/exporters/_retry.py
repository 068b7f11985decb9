"""The options of `retry_on_failure`, and the time between one attempt and the next."""

from __future__ import annotations

import random

from k8strace.component import Config
from k8strace.units import Duration


class RetryConfig(Config, frozen=True, kw_only=True):
    """`retry_on_failure`: exponential backoff; `max_elapsed_time` 0 never gives up."""

    enabled: bool = True
    initial_interval: Duration = Duration(5.0)
    randomization_factor: float = 0.5
    multiplier: float = 1.5
    max_interval: Duration = Duration(30.0)
    max_elapsed_time: Duration = Duration(300.0)

    def __post_init__(self) -> None:
        if not self.enabled:
            return
        for name in ("initial_interval", "multiplier", "max_interval", "max_elapsed_time"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"`{name}` must be non-negative, found {getattr(self, name)}"
                )
        if not 0 <= self.randomization_factor <= 1:
            raise ValueError(
                f"`randomization_factor` must be within [0, 1], "
                f"found {self.randomization_factor}"
            )
        if self.max_elapsed_time > 0:
            for name in ("initial_interval", "max_interval"):
                if self.max_elapsed_time < getattr(self, name):
                    raise ValueError(
                        f"`max_elapsed_time` ({self.max_elapsed_time}) must not be less "
                        f"than `{name}` ({getattr(self, name)})"
                    )


class Backoff:
    """How long to wait before each next attempt at one delivery that began at `start`."""

    __slots__ = ("_config", "_end", "_interval")

    def __init__(self, config: RetryConfig, start: float) -> None:
        self._config = config
        self._interval: float = config.initial_interval
        elapsed = config.max_elapsed_time
        self._end = start + elapsed if elapsed else float("inf")

    def reset(self) -> None:
        """Begin with the initial interval again; the time to give up stays."""
        self._interval = self._config.initial_interval

    def delay(
        self, now: float, retry_after: float | None, longest: float = float("inf")
    ) -> float | None:
        """Seconds to wait from `now`, None to give up.

        A destination that said how long to wait (`retry_after`) is not asked earlier, but
        nobody waits for more than `longest`.
        """
        config = self._config
        if not config.enabled:
            return None
        spread = config.randomization_factor
        delay = self._interval * random.uniform(1 - spread, 1 + spread)
        self._interval = min(self._interval * config.multiplier, config.max_interval)
        delay = min(max(delay, retry_after or 0.0), longest)
        return delay if now + delay <= self._end else None
