"""What came of each fault, kept in a file, so that a long run goes on where it stopped."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable
from pathlib import Path

import msgspec

HEAD = ("fault", "mode", "load", "sent", "acknowledged", "delivered", "duplicated", "lost")
NUMBERS = 3  # the first column that is a number


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that the gateway withstood, in spans, counted by their ids from outside.

    `delivered` are distinct ones that the backend has, `duplicated` those that came again,
    `lost` those that were acknowledged and never came. `note` says why some may be lost.
    """

    fault: str
    mode: str
    load: str
    sent: int
    acknowledged: int
    delivered: int
    duplicated: int
    lost: int
    note: str = ""


def load(path: Path) -> dict[str, Result]:
    """By test."""
    if not path.exists():
        return {}
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Result])


def store(path: Path, test: str, result: Result) -> None:
    """Add to the file, whole or not at all; several processes do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = {**load(path), test: result}
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
        new.replace(path)


def table(results: Iterable[Result]) -> str:
    """As Markdown, numbers to the right, notes below."""
    rows: list[tuple[str, ...]] = [HEAD]
    notes: dict[str, int] = {}
    for one in sorted(results, key=lambda one: (one.fault, one.mode)):
        mark = f" ({notes.setdefault(one.note, len(notes) + 1)})" if one.note else ""
        numbers = [f"{getattr(one, name):,}" for name in HEAD[NUMBERS:]]
        numbers[-1] += mark
        rows.append((one.fault, one.mode, one.load, *numbers))
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if number < NUMBERS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    rule = [
        "-" * width if number < NUMBERS else "-" * (width - 1) + ":"
        for number, width in enumerate(widths)
    ]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    lines += [f"\n({number}) {note}." for note, number in notes.items()]
    return "\n".join(lines) + "\n"
