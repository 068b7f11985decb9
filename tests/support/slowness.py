"""What asyncio's debug mode says of callbacks that took 0.1 s: of the machine alone."""

from __future__ import annotations

import logging

_BEGINNING = "Executing "


def is_no_slowness(record: logging.LogRecord) -> bool:
    """A filter of what loops log."""
    return not str(record.msg).startswith(_BEGINNING)


def without_slowness(err: str) -> str:
    """What a process wrote to stderr, but for that."""
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_BEGINNING))
