"""Runs a coroutine without a task as far as it goes without waiting.

Most requests have nothing to wait for. They run from the first byte to the answer inside
the callback that brought the byte; only one that suspends becomes a task, and goes on from
where it stands.
"""

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar, final

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

@final
class Done(Generic[_T]):
    """The result of a coroutine that had nothing to wait for."""

    @property
    def value(self) -> _T: ...
    def __init__(self, value: _T) -> None: ...

@final
class Rest(Coroutine[Any, Any, _T_co]):
    """What is left of a coroutine after its first suspension.

    It is a coroutine itself: await it, or make a task of it. It is no `async def`, because
    a task that is cancelled before its first step would not even enter that, and what was
    begun would never learn of it.
    """

    def __init__(self, coro: Coroutine[Any, Any, _T_co], waits_for: Any) -> None: ...
    def run(self) -> Coroutine[Any, Any, _T_co]:
        """Itself, the coroutine of a task."""

    def __await__(self) -> Rest[_T_co]: ...
    def __iter__(self) -> Rest[_T_co]: ...
    def __next__(self) -> Any: ...
    def send(self, value: Any) -> Any: ...
    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None) -> Any: ...
    def close(self) -> None: ...

def begin(coro: Coroutine[Any, Any, _T]) -> Done[_T] | Rest[_T]:
    """Run `coro` up to its end or its first suspension; raises what it raises."""
