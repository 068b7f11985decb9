"""Log lines about what happens again and again: one of each kind a minute, with a count."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Hashable, Mapping
from contextlib import suppress
from time import monotonic

MAX_FAULT = 500  # characters of a fault's text
PERIOD = 60.0  # seconds between two lines of one kind


def printable(text: str, most: int) -> str:
    """`text` on one line, at most `most` characters, with escapes for control characters.

    Escaped is also what reorders text (bidirectional controls) and what UTF-8 cannot have
    (lone surrogates): text from peers goes to terminals and files.
    """
    shown = text[: most + 1]
    if not shown.isprintable():
        shown = _escaped(shown)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def without_controls(text: str) -> str:
    """`text` with escapes for control characters but for the ends of its lines."""
    if text.isprintable():
        return text
    return "\n".join(_escaped(line) for line in text.split("\n"))


def _escaped(text: str) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


class Lines:
    """Writes one line of a kind at once, and what comes in the minute after it as one more.

    A line says how many it stands for in the field of its `unit`, and of these it is the
    last one. Kinds are of a fixed number.
    """

    __slots__ = ("_kinds", "_log", "_period")

    def __init__(
        self, log: logging.LoggerAdapter[logging.Logger], period: float = PERIOD
    ) -> None:
        self._log = log
        self._period = period
        self._kinds: dict[Hashable, _Kind] = {}

    def write(
        self,
        kind: Hashable,
        level: int,
        text: str,
        *args: object,
        number: int = 1,
        unit: str = "times",
        fields: Mapping[str, object] | None = None,
    ) -> None:
        """Log `text % args` for `number` of what `unit` names, now or within a minute.

        No argument may be an exception: its frames would live as long as the record.
        """
        state = self._kinds.get(kind)
        if state is None:
            state = self._kinds[kind] = _Kind()
        state.line = _Line(level, text, args, unit, fields or {})
        state.number += number
        wait = state.next - monotonic()
        if wait <= 0:
            self._emit(state)
        elif state.timer is None:
            with suppress(RuntimeError):  # no loop runs: the next line or flush says it
                loop = asyncio.get_running_loop()
                state.timer = loop.call_later(wait, self._emit, state)

    def defect(self, text: str, *args: object, error: BaseException) -> None:
        """Log `text % args` and where `error`, which nobody expected, comes from."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        self.write("defect", logging.ERROR, f"{text}\n%s", *args, trace)

    def fault(self, text: str, *args: object, error: BaseException) -> None:
        """Log `text % args` and `error`, a fault of the machine that passes."""
        shown = printable(f"{type(error).__name__}: {error}".rstrip(": "), MAX_FAULT)
        self.write("fault", logging.ERROR, f"{text}: %s", *args, shown)

    def flush(self) -> None:
        """Write what waits for its minute to be over."""
        for state in self._kinds.values():
            self._emit(state)

    def _emit(self, state: _Kind) -> None:
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
        if state.line is None:
            return
        line, state.line = state.line, None
        number, state.number = state.number, 0
        state.next = monotonic() + self._period
        fields = {**(self._log.extra or {}), **line.fields}
        if line.unit != "times" or number > 1:
            fields[line.unit] = number
        # An adapter would put its own fields in place of these.
        self._log.logger.log(line.level, line.text, *line.args, extra=fields)


class _Line:
    __slots__ = ("args", "fields", "level", "text", "unit")

    def __init__(
        self,
        level: int,
        text: str,
        args: tuple[object, ...],
        unit: str,
        fields: Mapping[str, object],
    ) -> None:
        self.level = level
        self.text = text
        self.args = args
        self.unit = unit
        self.fields = fields


class _Kind:
    """`number` counts what no line has said yet, `line` is the last of it."""

    __slots__ = ("line", "next", "number", "timer")

    def __init__(self) -> None:
        self.line: _Line | None = None
        self.next = 0.0
        self.number = 0
        self.timer: asyncio.TimerHandle | None = None
