"""Durations and sizes as the collector writes them."""

from __future__ import annotations

import re

MIB = 1024 * 1024

_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,  # U+00B5
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


class Duration(float):
    """Seconds; written as Go writes durations ("1m30s", "200ms", "0")."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read Go's duration syntax (time.ParseDuration).

        Raises ValueError that names the text.
        """
        rest = text.strip()
        sign = -1.0 if rest.startswith("-") else 1.0
        rest = rest.removeprefix("-").removeprefix("+")
        if rest == "0":
            return cls(0.0)
        total, position = 0.0, 0
        while position < len(rest):
            term = _TERM.match(rest, position)
            if term is None:
                break
            total += float(term[1]) * _UNITS[term[2]]
            position = term.end()
        if not rest or position < len(rest):
            raise ValueError(
                f"invalid duration {text!r}: write a number and a unit, "
                "such as 200ms, 5s, 1m30s"
            )
        return cls(sign * total)

    def __str__(self) -> str:
        for unit, size in (("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 1e-3)):
            count = self / size
            if self and round(count, 9) == int(round(count, 9)):
                return f"{round(count)}{unit}"
        return f"{float(self):g}s"

    def __repr__(self) -> str:
        return f"Duration({float(self)!r})"
