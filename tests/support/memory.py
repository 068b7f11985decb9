"""A process that has as much memory as a test says."""

from __future__ import annotations

import pytest

from k8strace import memory_guard


class Memory:
    """What the process's resident memory is said to be, and how often it was trimmed.

    `own` is what it had before there was any span.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.own = 0
        self.resident = 0
        self.after_trim: int | None = None
        self.trims = 0
        monkeypatch.setattr(memory_guard, "own_memory", lambda: self.own)
        monkeypatch.setattr(memory_guard, "resident_memory", lambda: self.resident)
        monkeypatch.setattr(memory_guard, "trim", self.trim)
        monkeypatch.setattr(memory_guard, "keep_free", lambda _: True)
        monkeypatch.setattr(memory_guard, "slack", lambda _: 0)

    async def trim(self) -> None:
        self.trims += 1
        if self.after_trim is not None:
            self.resident = self.after_trim
