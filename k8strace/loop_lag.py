"""How long the event loop keeps what is due waiting, measured by a heartbeat on it.

Two clocks: the wall's, which is what peers notice, and the loop's own, which is the wall's
less the time in which the thread could have run and got no CPU. A busy machine makes the
first one long; only code that holds the loop makes the second one long.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from time import monotonic

from k8strace.background import Ticker
from k8strace.metrics import LOOP_LAG, LOOP_OWN_LAG, Metrics

log = logging.getLogger("k8strace")

INTERVAL = 0.02  # seconds between two beats; what stands for less may fall between them


class LoopLag:
    """The heartbeat of the running loop's thread, from `start` to `stop`."""

    def __init__(self, metrics: Metrics) -> None:
        self._wall = metrics.histogram(LOOP_LAG)
        self._own = metrics.histogram(LOOP_OWN_LAG)
        self._ticker = Ticker(INTERVAL, self._beat, "measuring the loop's lag", log)
        self._schedstat = -1
        self._beaten = 0.0
        self._waited = 0.0

    def start(self) -> None:
        """Begin to beat, in the thread of the loop."""
        with suppress(OSError):  # a kernel without CONFIG_SCHED_INFO
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._waited = self._read_waited()
        self._beaten = monotonic()
        self._ticker.start()

    def stop(self) -> None:
        """Beat no more; may be called twice."""
        self._ticker.stop()
        if self._schedstat >= 0:
            os.close(self._schedstat)
            self._schedstat = -1

    def _beat(self) -> None:
        now, waited = monotonic(), self._read_waited()
        lag = max(now - self._beaten - INTERVAL, 0.0)
        self._wall.observe(lag)
        self._own.observe(max(lag - (waited - self._waited), 0.0))
        self._beaten, self._waited = now, waited

    def _read_waited(self) -> float:
        """Seconds that this thread has waited for a CPU so far; 0 where nobody knows."""
        if self._schedstat < 0:
            return 0.0
        return int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9
