"""What came of each fault, kept in a file, so that a long run goes on where it stopped."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable
from pathlib import Path

import msgspec

HEAD = ("fault", "mode", "load", "sent", "acknowledged", "delivered", "duplicated", "lost")
NUMBERS = 3  # the first column that is a number
PEAK_HEAD = (
    *("attack", "connections", "limit, MiB", "peak, MiB"),
    *("others' requests", "told to retry", "99 of 100 within, s"),
    "loop over 20 ms",
)


class Result(msgspec.Struct, frozen=True, kw_only=True, tag="fault"):
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


class Peak(msgspec.Struct, frozen=True, kw_only=True, tag="memory"):
    """An attack on memory that the gateway withstood, and what others saw of it.

    `limit` and `peak` are MiB. Of the `requests` of a sender that meant well 99 of 100 were
    taken within `seconds`, `refused` times it was told to come again. `late` is how often
    the event loop was held up for more than 20 ms of its own time.
    """

    attack: str
    connections: int
    limit: int
    peak: int
    requests: int
    refused: int
    seconds: float
    late: int


def load(path: Path) -> dict[str, Result | Peak]:
    """By test."""
    if not path.exists():
        return {}
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Result | Peak])


def store(path: Path, test: str, result: Result | Peak) -> None:
    """Add to the file, whole or not at all; several processes do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = {**load(path), test: result}
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
        new.replace(path)


def table(results: Iterable[Result | Peak]) -> str:
    """What came of faults as Markdown, with notes below."""
    rows: list[tuple[str, ...]] = [HEAD]
    notes: dict[str, int] = {}
    faults = [one for one in results if isinstance(one, Result)]
    for one in sorted(faults, key=lambda one: (one.fault, one.mode)):
        mark = f" ({notes.setdefault(one.note, len(notes) + 1)})" if one.note else ""
        numbers = [f"{getattr(one, name):,}" for name in HEAD[NUMBERS:]]
        numbers[-1] += mark
        rows.append((one.fault, one.mode, one.load, *numbers))
    text = _markdown(rows, NUMBERS)
    return text + "".join(f"\n({number}) {note}.\n" for note, number in notes.items())


def memory_table(results: Iterable[Result | Peak]) -> str:
    """What came of attacks on memory as Markdown."""
    peaks = [one for one in results if isinstance(one, Peak)]
    rows: list[tuple[str, ...]] = [PEAK_HEAD]
    for one in sorted(peaks, key=lambda one: (one.attack, one.limit)):
        numbers = (one.connections, one.limit, one.peak, one.requests, one.refused)
        texts = (f"{number:,}" for number in numbers)
        rows.append((one.attack, *texts, f"{one.seconds:g}", f"{one.late:,}"))
    return _markdown(rows, 1)


def _markdown(rows: list[tuple[str, ...]], first_number: int) -> str:
    """A head and rows as a table, numbers to the right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if number < first_number else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    rule = [
        "-" * width if number < first_number else "-" * (width - 1) + ":"
        for number, width in enumerate(widths)
    ]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines) + "\n"
