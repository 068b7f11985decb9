"""What was found out about callers: kept for a while, and asked for once at a time.

- Nothing that a caller showed is kept: only a digest of it, with a key of this process's.
- Those that may not have a room of their own: who sends rubbish drives out nobody else.
- A question for whose answer nobody waits any more is not asked, or broken off; those that
  wait for their turn take turns by host and connection. How many wait is the gates' to say.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import blake2b
from os import urandom
from time import monotonic
from typing import NamedTuple

from k8strace.auth import RETRY_AFTER, Verdict
from k8strace.errors import RefusedError
from k8strace.extensions._tokens import bearer
from k8strace.fair_line import FairLine

MAX_KNOWN = 4096  # callers that may; each counts some hundred bytes
MAX_DENIED = 4096

_KEY = urandom(32)
_NO_TOKEN = Verdict(denial="the authorization is not Bearer and a token")


class Found(NamedTuple):
    """A verdict, and the seconds for which it holds."""

    verdict: Verdict
    seconds: float


Ask = Callable[[bytes], Awaitable[Found]]


class _Question:
    """What is to be found out, first for `peer`; without `task` it waits for its turn."""

    def __init__(self, digest: bytes, credential: bytes, peer: str) -> None:
        self.digest = digest
        self.credential = credential
        self.peer = peer
        self.task: asyncio.Task[Verdict] | None = None
        self.waiters: set[asyncio.Future[Verdict]] = set()


class Verdicts:
    """Finds out by `ask`, at most `at_a_time` of them together.

    `ask` may be cancelled: then it ends when what it has begun is over.
    """

    def __init__(self, ask: Ask, at_a_time: int) -> None:
        self._ask = ask
        self._at_a_time = at_a_time
        self._known: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()
        self._denied: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()
        self._asking: dict[bytes, _Question] = {}
        self._line: FairLine[_Question] = FairLine()
        self._running: set[asyncio.Task[Verdict]] = set()
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

    async def ask(self, credential: bytes, peer: str = "") -> Verdict:
        """Find it out; those that ask for the same wait together. Raises RefusedError."""
        digest = _digest(credential)
        question = self._asking.get(digest)
        if question is None:
            question = self._asking[digest] = _Question(digest, credential, peer)
            self._line.add(peer, question)
            self._begin()
        waiter: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        question.waiters.add(waiter)
        try:
            return await waiter
        finally:
            question.waiters.discard(waiter)
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # the caller may have been cancelled just now
            if not question.waiters:
                self._give_up(question)

    def forget(self) -> None:
        """What was found out, and what is being found out, holds no more."""
        self._times_forgotten += 1
        self._known.clear()
        self._denied.clear()

    async def close(self) -> None:
        """Ask no more."""
        for question in tuple(self._asking.values()):
            self._give_up(question)
            _tell(question, RefusedError("authentication has stopped", RETRY_AFTER))
        if self._running:
            await asyncio.wait(tuple(self._running))
        self.forget()

    def _begin(self) -> None:
        """Ask what is next in the line, as far as there are turns."""
        loop = asyncio.get_running_loop()
        while len(self._line) and len(self._running) < self._at_a_time:
            question = self._line.take()
            question.task = task = loop.create_task(self._find(question))
            self._running.add(task)
            task.add_done_callback(partial(self._ended, question))

    def _give_up(self, question: _Question) -> None:
        """Who asks for it from now on asks anew."""
        if self._asking.get(question.digest) is question:
            del self._asking[question.digest]
        if question.task is None:
            self._line.remove(question.peer, question)
        else:
            question.task.cancel()

    async def _find(self, question: _Question) -> Verdict:
        times_forgotten = self._times_forgotten
        verdict, seconds = await self._ask(question.credential)
        room, most = self._known, MAX_KNOWN
        if verdict.denial is not None:
            room, most = self._denied, MAX_DENIED
        if seconds > 0 and times_forgotten == self._times_forgotten:
            room[question.digest] = verdict, monotonic() + seconds
            while len(room) > most:
                room.popitem(last=False)
        return verdict

    def _ended(self, question: _Question, task: asyncio.Task[Verdict]) -> None:
        self._running.discard(task)
        if self._asking.get(question.digest) is question:
            del self._asking[question.digest]
        self._begin()
        if task.cancelled():
            _tell(question, RefusedError("authentication has stopped", RETRY_AFTER))
        elif (error := task.exception()) is not None:
            _tell(question, error)
        else:
            for waiter in question.waiters:
                if not waiter.done():
                    waiter.set_result(task.result())


def _tell(question: _Question, error: BaseException) -> None:
    for waiter in question.waiters:
        if not waiter.done():
            waiter.set_exception(error)


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
