"""What exporters decode and print is in the budget first, and made a little at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from msgspec import structs

from k8strace import background, passes
from k8strace.budget import Budget, Lease
from k8strace.errors import RefusedError, RejectedError
from k8strace.exporters import _decoding
from k8strace.exporters._debug_text import detailed, normal
from k8strace.exporters._decoding import (
    BUDGET_SHARE,
    MAX_BYTES,
    MAX_FIELDS,
    MAX_SPAN,
    PAST_SHARE,
    PER_FIELD,
    gathered,
    printed,
)
from k8strace.exporters._delivery import TooLargeError
from k8strace.exporters._otlp_json import encode
from k8strace.passes import Spare
from k8strace.payload import Payload
from tests.support.pipeline import payload
from tests.support.requests import parse
from tests.support.wire import field, span
from tests.support.wire import request as written

MIB = 1024 * 1024
PEER = "10.0.0.1:1"


def held(body: bytes, budget: Budget) -> Payload:
    return Payload((body,), 1, len(body), lease=Lease(budget, len(body), PEER))


@pytest.mark.parametrize("fragments", [normal, detailed, encode])
async def test_what_is_printed_is_held_until_it_is_done_with(
    fragments: Callable[..., Iterator[bytes]],
) -> None:
    budget = Budget(64 * MIB)
    one = held(payload(100).chunks[0], budget)
    before = budget.used
    made, loan = await printed(one, Spare(budget), fragments)
    assert b"".join(made) == b"".join(fragments(parse(one.chunks)))
    assert loan.lease is not None
    assert budget.used == before + loan.lease.held
    assert loan.lease.size == sum(map(len, made))
    loan.end()
    assert budget.used == before


@pytest.mark.parametrize(
    "body", [b"\x0a\x7f", payload(1).chunks[0].replace(b"Get", b"G\xff\xfe")]
)
async def test_what_cannot_be_read_is_rejected(body: bytes) -> None:
    budget = Budget(64 * MIB)
    one = held(body, budget)
    before = budget.used
    with pytest.raises(RejectedError, match="cannot be decoded") as caught:
        await printed(one, Spare(budget), detailed)
    assert caught.value.reason == "decode_error"
    assert budget.used == before


async def test_without_room_nothing_is_decoded() -> None:
    budget = Budget(16 * MIB)
    spare = Spare(budget)
    one = held(payload(10).chunks[0], budget)
    full = Lease(budget, budget.limit - budget.used, PEER)
    first, past_it = await printed(one, spare, detailed)  # so that what fills it goes on
    with pytest.raises(RefusedError, match="budget is used up"):
        await printed(one, spare, detailed, until=0.0)
    waiting = asyncio.ensure_future(printed(one, spare, detailed))
    await asyncio.sleep(0)
    assert not waiting.done()
    past_it.end()
    del full
    again, other = await waiting
    assert again == first
    other.end()


async def test_only_small_steps_go_past_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passes, "MAX_WAIT", 0.01)
    fields = 10_000
    budget = Budget(PER_FIELD * fields * PAST_SHARE // 2)
    large = held(written(span(more=field(9, b"") * fields)), budget)
    two = held(written(*[span(more=field(9, b"") * (fields // 2))] * 2), budget)
    two = structs.replace(two, spans=2)
    full = Lease(budget, budget.limit - budget.used, PEER)
    spare = Spare(budget)
    with pytest.raises(TooLargeError):  # so that it is halved
        await printed(two, spare, encode)
    with pytest.raises(RefusedError):
        await printed(large, spare, encode)
    _, loan = await printed(held(written(span()), budget), spare, encode)
    assert budget.used > budget.limit
    loan.end()
    del full
    for one in (two, large):
        _, loan = await printed(one, spare, encode)
        loan.end()


@pytest.mark.parametrize("share", [1, 2 * BUDGET_SHARE])
async def test_a_span_that_takes_too_much_of_the_budget_is_not_decoded(share: int) -> None:
    fields = 10_000
    body = written(span(more=field(9, b"") * fields))
    budget = Budget(share * PER_FIELD * fields)
    one = held(body, budget)
    if share > BUDGET_SHARE:
        _, loan = await printed(one, Spare(budget), encode)
        loan.end()
        return
    with pytest.raises(TooLargeError, match="too large to be printed in the") as caught:
        await printed(one, Spare(budget), encode)
    assert caught.value.reason == "msg_too_large"


@pytest.mark.parametrize(
    "more", [field(9, b"") * MAX_FIELDS, field(5, bytes(MAX_SPAN))], ids=["fields", "bytes"]
)
async def test_a_span_that_would_hold_up_others_is_not_decoded(more: bytes) -> None:
    budget = Budget(1024 * MIB)
    with pytest.raises(TooLargeError, match="too large to be printed: at most") as caught:
        await printed(held(written(span(more=more)), budget), Spare(budget), encode)
    assert caught.value.reason == "msg_too_large"


def test_steps_have_fewer_fields_than_a_span_may_have() -> None:
    assert MAX_BYTES // 2 < MAX_FIELDS  # a field takes two bytes at least


@pytest.mark.parametrize("length", [1, 5_000])
async def test_others_go_on_meanwhile(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    now = 0.0
    turns = 0

    def fragments() -> Iterator[bytes]:
        nonlocal now
        for _ in range(1_000):
            now += background.TURN
            yield b"x" * length

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(background, "monotonic", lambda: now)
    task = asyncio.ensure_future(others())
    made = await gathered(fragments())
    task.cancel()
    assert b"".join(made) == b"x" * length * 1_000
    assert max(map(len, made)) < _decoding.SLICE + length
    assert turns >= 1_000 // min(_decoding.LOOK, _decoding.LOOK_BYTES // length + 1)
