"""Runs a coroutine without a task as far as it goes without waiting.

Most requests have nothing to wait for. They run from the first byte to the answer inside
the callback that brought the byte; only one that suspends becomes a task, and goes on from
where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Done(Generic[T]):
    """The result of a coroutine that had nothing to wait for."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class Rest(Generic[T]):
    """What is left of a coroutine after its first suspension: await it, in any task."""

    __slots__ = ("_coro", "_waits_for")

    def __init__(self, coro: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._coro = coro
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._waits_for
        step: Callable[[Any], Any]
        while True:
            try:
                argument = yield waits_for
            except BaseException as error:
                step, argument = self._coro.throw, error
            else:
                step = self._coro.send
            try:
                waits_for = step(argument)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                # An error that stays here is in a cycle with this frame, and its other
                # frames hold payloads, whose bytes would stay in the budget.
                del argument

    async def run(self) -> T:
        """The same as a coroutine, for whoever makes a task of it."""
        return await self


def begin(coro: Coroutine[Any, Any, T]) -> Done[T] | Rest[T]:
    """Run `coro` up to its end or its first suspension; raises what it raises."""
    try:
        waits_for = coro.send(None)
    except StopIteration as stop:
        return Done(stop.value)
    return Rest(coro, waits_for)
