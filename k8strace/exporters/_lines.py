"""Log lines about what happens again and again: a few of each kind, then a count."""

from __future__ import annotations

import logging
from time import monotonic

BURST = 10  # lines of one kind in one PERIOD
PERIOD = 10.0  # seconds


class Lines:
    """Writes at most BURST lines of a kind in each PERIOD.

    The first line after that says how many there were in between.
    """

    __slots__ = ("_kinds", "_log")

    def __init__(self, log: logging.LoggerAdapter[logging.Logger]) -> None:
        self._log = log
        self._kinds: dict[str, _Kind] = {}

    def write(self, kind: str, level: int, text: str, *args: object) -> None:
        """Log `text % args` as one of the lines of `kind`.

        No argument may be an exception: its frames would live as long as the record.
        """
        now = monotonic()
        state = self._kinds.get(kind)
        if state is None or now - state.start >= PERIOD:
            left_out = state.left_out if state is not None else 0
            state = self._kinds[kind] = _Kind(now)
            if left_out:
                text += " (and %d more such lines were left out)"
                args = (*args, left_out)
        if state.written >= BURST:
            state.left_out += 1
            return
        state.written += 1
        self._log.log(level, text, *args)


class _Kind:
    __slots__ = ("left_out", "start", "written")

    def __init__(self, start: float) -> None:
        self.start = start
        self.written = 0
        self.left_out = 0
