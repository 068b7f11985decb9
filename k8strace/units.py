"""Durations and sizes as the collector writes them."""

from __future__ import annotations

import re
from decimal import Decimal

MIB = 1024 * 1024

_NANOSECONDS = {
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "µs": 1_000,  # U+00B5
    "μs": 1_000,  # U+03BC
    "ns": 1,
}
_SHOWN = ("h", "m", "s", "ms", "us", "ns")
_LONGEST = 2**63 - 1  # nanoseconds: Go's time.Duration ends there, after 292 years
_TERM = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


class Duration(float):
    """Seconds, in whole nanoseconds; written as Go writes durations ("1m30s", "0")."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read Go's duration syntax (time.ParseDuration).

        Raises ValueError that names the text.
        """
        rest = text.strip()
        sign = -1 if rest.startswith("-") else 1
        rest = rest[1:] if rest.startswith(("-", "+")) else rest
        if rest == "0":
            return cls(0.0)
        total, position = Decimal(0), 0
        while position < len(rest):
            term = _TERM.match(rest, position)
            if term is None:
                break
            total += Decimal(term[1]) * _NANOSECONDS[term[2]]
            position = term.end()
        if not rest or position < len(rest):
            raise ValueError(
                f"invalid duration {text!r}: write a number and a unit, "
                "such as 200ms, 5s, 1m30s"
            )
        if total > _LONGEST:
            raise ValueError(f"invalid duration {text!r}: longer than 292 years")
        return cls(sign * int(total) / 1e9)

    def __str__(self) -> str:
        count = round(self * 1e9)
        if not count:
            return "0s"
        unit = next(unit for unit in _SHOWN if count % _NANOSECONDS[unit] == 0)
        return f"{count // _NANOSECONDS[unit]}{unit}"

    def __repr__(self) -> str:
        return f"Duration({float(self)!r})"
