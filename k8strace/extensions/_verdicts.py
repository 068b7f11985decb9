"""What was found out about callers: kept for a while, and asked for once at a time.

- Nothing that a caller showed is kept: only a digest of it, with a key of this process's.
- Those that may not have a room of their own: who sends rubbish drives out nobody else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from os import urandom
from time import monotonic
from typing import NamedTuple

from k8strace.auth import RETRY_AFTER, Verdict
from k8strace.errors import RefusedError
from k8strace.extensions._tokens import bearer

MAX_KNOWN = 4096  # callers that may; each counts some hundred bytes
MAX_DENIED = 4096

_KEY = urandom(32)
_NO_TOKEN = Verdict(denial="the authorization is not Bearer and a token")


class Found(NamedTuple):
    """A verdict, and the seconds for which it holds."""

    verdict: Verdict
    seconds: float


Ask = Callable[[bytes], Awaitable[Found]]


class Verdicts:
    """Finds out by `ask`, at most `at_a_time` of them together."""

    def __init__(self, ask: Ask, at_a_time: int) -> None:
        self._ask = ask
        self._turns = asyncio.Semaphore(at_a_time)
        self._known: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()
        self._denied: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Verdict]] = {}
        self._times_forgotten = 0

    def recall(self, credential: bytes) -> Verdict | None:
        """What is known and still holds."""
        digest = _digest(credential)
        for room in (self._known, self._denied):
            kept = room.get(digest)
            if kept is None:
                continue
            verdict, until = kept
            if monotonic() < until:
                room.move_to_end(digest)
                return verdict
            del room[digest]
        return None

    async def ask(self, credential: bytes) -> Verdict:
        """Find it out; those that ask for the same wait together."""
        digest = _digest(credential)
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._find(digest, credential))
            self._asking[digest] = task
            task.add_done_callback(lambda done: self._ended(digest, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # which is `close`, and not the caller
                raise RefusedError("authentication has stopped", RETRY_AFTER) from None
            raise

    def forget(self) -> None:
        """What was found out, and what is being found out, holds no more."""
        self._times_forgotten += 1
        self._known.clear()
        self._denied.clear()

    async def close(self) -> None:
        """Ask no more."""
        tasks = tuple(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.forget()

    async def _find(self, digest: bytes, credential: bytes) -> Verdict:
        async with self._turns:
            times_forgotten = self._times_forgotten
            verdict, seconds = await self._ask(credential)
        room, most = self._known, MAX_KNOWN
        if verdict.denial is not None:
            room, most = self._denied, MAX_DENIED
        if seconds > 0 and times_forgotten == self._times_forgotten:
            room[digest] = verdict, monotonic() + seconds
            while len(room) > most:
                room.popitem(last=False)
        return verdict

    def _ended(self, digest: bytes, task: asyncio.Task[Verdict]) -> None:
        self._asking.pop(digest, None)
        if not task.cancelled():
            task.exception()  # who asked may be gone


class BearerVerdicts(Verdicts):
    """Of callers that have to show a bearer token, about which `judge` is asked."""

    def __init__(self, judge: Callable[[str], Awaitable[Found]], at_a_time: int) -> None:
        super().__init__(self._find_bearer, at_a_time)
        self._judge = judge

    def recall(self, credential: bytes) -> Verdict | None:
        known = super().recall(credential)
        return known or (_NO_TOKEN if bearer(credential) is None else None)

    async def _find_bearer(self, credential: bytes) -> Found:
        token = bearer(credential)
        return Found(_NO_TOKEN, 0) if token is None else await self._judge(token)


def _digest(credential: bytes) -> bytes:
    return blake2b(credential, key=_KEY, digest_size=16).digest()
