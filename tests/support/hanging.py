"""Mounts that hang: reading from them never ends, or as late as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import pytest

from k8strace import threads


@contextmanager
def hanging() -> Iterator[Callable[[], None]]:
    """Meanwhile threads begin no job on files of others; what it gives lets them begin."""
    begun: list[tuple[threads.Begun, threads.Job]] = []

    class Hanging(threads.Begun):
        def __init__(self, job: threads.Job) -> None:
            begun.append((self, job))
            self._is_done = False

        def wait(self, seconds: float) -> bool:
            return not begun and super().wait(seconds)

    def answer() -> None:
        while begun:
            one, job = begun.pop()
            threads.Begun.__init__(one, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("k8strace.files.Begun", Hanging)
        yield answer
        answer()


def until(look: Callable[[], object], expected: object, seconds: float = 20) -> None:
    """Look until that is seen."""
    end = monotonic() + seconds
    while (found := look()) != expected:
        assert monotonic() < end, f"it is {found!r}"
        sleep(0.001)
