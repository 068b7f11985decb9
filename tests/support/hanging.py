"""Mounts that hang: reading from them ends as late as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import pytest

from k8strace import threads


@contextmanager
def hanging() -> Iterator[Callable[[], None]]:
    """Threads begin no job on files of others until what it gives is called."""
    held: list[tuple[Hanging, threads.Job]] = []
    hangs = True

    class Hanging(threads.Begun):
        def __init__(self, job: threads.Job) -> None:
            self.is_held = hangs
            self._is_done = False
            if hangs:
                held.append((self, job))
            else:
                super().__init__(job)

        def wait(self, seconds: float) -> bool:
            return not self.is_held and super().wait(seconds)

        def go_on(self, job: threads.Job) -> None:
            self.is_held = False
            super().__init__(job)

    def answer() -> None:
        nonlocal hangs
        hangs = False
        while held:
            one, job = held.pop()
            one.go_on(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("k8strace.files.Begun", Hanging)
        try:
            yield answer
        finally:
            answer()


def until(look: Callable[[], object], expected: object, seconds: float = 20) -> None:
    """Look until that is seen."""
    end = monotonic() + seconds
    while (found := look()) != expected:
        assert monotonic() < end, f"it is {found!r}"
        sleep(0.001)
