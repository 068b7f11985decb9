"""Runs a coroutine without a task as far as it goes without waiting.

Most requests have nothing to wait for. They run from the first byte to the answer inside
the callback that brought the byte; only one that suspends becomes a task, and goes on from
where it stands.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_TAKEN = object()


class Done(Generic[T]):
    """The result of a coroutine that had nothing to wait for."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class Rest(Coroutine[Any, Any, T]):
    """What is left of a coroutine after its first suspension.

    It is a coroutine itself: await it, or make a task of it. It is no `async def`, because
    a task that is cancelled before its first step would not even enter that, and what was
    begun would never learn of it.
    """

    __slots__ = ("_coro", "_waits_for")

    def __init__(self, coro: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._coro = coro
        self._waits_for = waits_for

    def run(self) -> Coroutine[Any, Any, T]:
        """Itself, the coroutine of a task."""
        return self

    def __await__(self) -> Rest[T]:
        return self

    def __iter__(self) -> Rest[T]:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        waits_for, self._waits_for = self._waits_for, _TAKEN
        return self._coro.send(value) if waits_for is _TAKEN else waits_for

    def throw(
        self,
        typ: Any,
        val: Any = None,
        tb: TracebackType | None = None,
    ) -> Any:
        error = val if isinstance(val, BaseException) else typ
        waits_for, self._waits_for = self._waits_for, _TAKEN
        try:
            if (
                waits_for is not _TAKEN
                and isinstance(error, CancelledError)
                and hasattr(waits_for, "cancel")
                and waits_for.cancel()
            ):
                # As a task does it: what is waited for is cancelled, and says so.
                return waits_for
            return self._coro.throw(error)
        finally:
            # An error that stays here is in a cycle with this frame, and its other frames
            # hold payloads, whose bytes would stay in the budget.
            del typ, val, tb, error

    def close(self) -> None:
        self._coro.close()


def begin(coro: Coroutine[Any, Any, T]) -> Done[T] | Rest[T]:
    """Run `coro` up to its end or its first suspension; raises what it raises."""
    try:
        waits_for = coro.send(None)
    except StopIteration as stop:
        return Done(stop.value)
    return Rest(coro, waits_for)
