"""What was found out about callers: kept for a while, asked for once at a time."""

from __future__ import annotations

import asyncio

import pytest

from k8strace.auth import Verdict
from k8strace.errors import RefusedError
from k8strace.extensions import _verdicts
from k8strace.extensions._verdicts import Found, Verdicts
from tests.support.pipeline import cancel

NO = Verdict(denial="no")


class Asked:
    """`verdicts` of those that are called by one letter; others are nobody."""

    def __init__(self, at_a_time: int = 2, seconds: float = 1000.0) -> None:
        self.asked: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.seconds = seconds
        self.error: Exception | None = None
        self.verdicts = Verdicts(self._ask, at_a_time)

    async def _ask(self, credential: bytes) -> Found:
        self.asked.append(credential)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        name = credential.decode()
        return Found(Verdict(name) if len(name) == 1 else NO, self.seconds)

    async def started(self, count: int) -> None:
        while len(self.asked) < count:  # noqa: ASYNC110 -- nobody sets an event for it
            await asyncio.sleep(0)


async def test_verdicts_are_kept() -> None:
    one = Asked()
    assert one.verdicts.recall(b"a") is None
    assert await one.verdicts.ask(b"a") == Verdict("a")
    assert one.verdicts.recall(b"a") == Verdict("a")
    assert await one.verdicts.ask(b"bad") == NO
    assert one.verdicts.recall(b"bad") == NO
    one.verdicts.forget()
    assert one.verdicts.recall(b"a") is one.verdicts.recall(b"bad") is None


async def test_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(_verdicts, "monotonic", lambda: now)
    one = Asked(seconds=10.0)
    await one.verdicts.ask(b"a")
    now = 9.9
    assert one.verdicts.recall(b"a") == Verdict("a")
    now = 10.0
    assert one.verdicts.recall(b"a") is None
    one.seconds = 0.0
    await one.verdicts.ask(b"a")
    assert one.verdicts.recall(b"a") is None


async def test_rubbish_drives_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_verdicts, "MAX_DENIED", 3)
    monkeypatch.setattr(_verdicts, "MAX_KNOWN", 2)
    one = Asked()
    await one.verdicts.ask(b"a")
    for number in range(10, 20):
        await one.verdicts.ask(b"%d" % number)
    assert one.verdicts.recall(b"a") == Verdict("a")
    kept = [one.verdicts.recall(b"%d" % number) for number in range(10, 20)]
    assert kept == [None] * 7 + [NO] * 3
    await one.verdicts.ask(b"b")
    assert one.verdicts.recall(b"a") == Verdict("a")
    await one.verdicts.ask(b"c")
    assert one.verdicts.recall(b"b") is None
    assert one.verdicts.recall(b"a") == Verdict("a")


async def test_the_same_is_asked_once_and_few_at_a_time() -> None:
    one = Asked()
    one.gate.clear()
    tasks = [
        asyncio.create_task(one.verdicts.ask(name)) for name in (b"a", b"a", b"b", b"c")
    ]
    await one.started(2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert one.asked == [b"a", b"b"]
    await cancel(tasks[0])
    one.gate.set()
    assert [await task for task in tasks[1:]] == [Verdict("a"), Verdict("b"), Verdict("c")]
    assert one.asked == [b"a", b"b", b"c"]


async def test_an_error_is_not_kept() -> None:
    one = Asked()
    one.error = RefusedError("down")
    with pytest.raises(RefusedError, match="down"):
        await one.verdicts.ask(b"a")
    one.error = None
    assert await one.verdicts.ask(b"a") == Verdict("a")


async def test_what_is_forgotten_meanwhile_is_not_kept() -> None:
    one = Asked()
    one.gate.clear()
    task = asyncio.create_task(one.verdicts.ask(b"a"))
    await one.started(1)
    one.verdicts.forget()
    one.gate.set()
    assert await task == Verdict("a")
    assert one.verdicts.recall(b"a") is None


async def test_closing_ends_what_is_asked() -> None:
    one = Asked()
    one.gate.clear()
    task = asyncio.create_task(one.verdicts.ask(b"a"))
    await one.started(1)
    await one.verdicts.close()
    with pytest.raises(RefusedError, match="stopped"):
        await task
    await one.verdicts.close()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_nobody_waits_for_any_more_is_not_asked() -> None:
    one = Asked(at_a_time=2)
    one.gate.clear()
    strangers = [
        asyncio.create_task(one.verdicts.ask(b"stranger %d" % number))
        for number in range(100)
    ]
    await one.started(2)
    for task in strangers:
        task.cancel()
    await asyncio.wait(strangers)
    await settle()
    assert one.verdicts._asking == {}
    one.gate.set()
    assert await one.verdicts.ask(b"a") == Verdict("a")
    assert one.asked == [b"stranger 0", b"stranger 1", b"a"]


async def test_who_asks_again_for_what_was_given_up_is_answered() -> None:
    one = Asked(at_a_time=1)
    one.gate.clear()
    first = asyncio.create_task(one.verdicts.ask(b"a"))
    await one.started(1)
    first.cancel()
    again = asyncio.create_task(one.verdicts.ask(b"a"))
    await asyncio.wait((first,))
    one.gate.set()
    assert await again == Verdict("a")


async def test_hosts_take_turns() -> None:
    one = Asked(at_a_time=1)
    one.gate.clear()
    ask = one.verdicts.ask
    tasks = [
        asyncio.create_task(ask(b"stranger %d" % number, "10.0.0.1:1"))
        for number in range(50)
    ]
    await one.started(1)
    tasks.append(asyncio.create_task(ask(b"a", "10.0.0.2:1")))
    tasks.append(asyncio.create_task(ask(b"b", "10.0.0.1:2")))
    await settle()
    one.gate.set()
    await asyncio.wait(tasks)
    assert one.asked.index(b"a") <= 2
    assert one.asked.index(b"b") <= 4


async def test_closing_tells_those_that_wait_for_their_turn() -> None:
    one = Asked(at_a_time=1)
    one.gate.clear()
    tasks = [asyncio.create_task(one.verdicts.ask(name)) for name in (b"a", b"b")]
    await one.started(1)
    await one.verdicts.close()
    for task in tasks:
        with pytest.raises(RefusedError, match="stopped"):
            await task
    assert one.asked == [b"a"]
