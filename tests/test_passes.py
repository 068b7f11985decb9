"""Passes take no more than was reserved, and give up where there is no room."""

from __future__ import annotations

import asyncio

import pytest

from k8strace import _fastpath, background, passes
from k8strace._fastpath import Cleaning, Counting, Sampling
from k8strace.budget import Budget, Lease
from k8strace.errors import MalformedPayloadError, RefusedError
from tests.support.wire import field, span
from tests.support.wire import request as written

MIB = 1024 * 1024
BAD = field(1, b"t" * 16) + field(2, b"s" * 7)
SAMPLE = (_fastpath.PROPORTIONAL, 100.0, 0, 4, True)


def body(spans: int, *more: bytes) -> bytes:
    return written(*[span(trace_id=b"\xff" * 16)] * spans, *more)


def leased(data: bytes, budget: Budget) -> Lease:
    return Lease(budget, len(data), "a")


@pytest.mark.parametrize("spans", [1, 30_000])
@pytest.mark.parametrize("deep", [False, True])
async def test_counting_is_the_same_however_it_is_done(spans: int, deep: bool) -> None:
    chunks = body(spans, BAD), body(2)
    assert await passes.count(chunks, deep=deep) == (spans + 2, 1, 0, 0)
    assert await passes.count(chunks, deep=deep) == _fastpath.count(chunks, deep)
    counting = Counting(chunks, deep)
    while not counting.is_done:
        await passes.step(counting)
    assert counting.take() == _fastpath.count(chunks, deep)


@pytest.mark.parametrize("spans", [1, 30_000])
async def test_what_changes_is_held_before_it_is_made(spans: int) -> None:
    budget = Budget(64 * MIB)
    data = body(spans)
    of = leased(data, budget)
    sampling = Sampling((data, b"", data), *SAMPLE)
    lease = await passes.complete(sampling, of, 0.0)
    assert lease is not None
    done = sampling.take()
    assert done == _fastpath.sample((data, b"", data), *SAMPLE)
    assert done.chunks != (data, data)
    assert lease.size == sum(map(len, done.chunks))
    assert budget.used == len(data) + lease.size


@pytest.mark.parametrize("spans", [3, 30_000])
async def test_what_does_not_change_takes_nothing(spans: int) -> None:
    budget = Budget(64 * MIB)
    data = body(spans)
    cleaning = Cleaning((data,))
    assert await passes.complete(cleaning, leased(data, budget), 0.0) is None
    chunks, kept = cleaning.take()
    assert (chunks[0] is data, kept) == (True, spans)


@pytest.mark.parametrize("spans", [3, 30_000])
async def test_bad_spans_are_cut_out(spans: int) -> None:
    data = body(spans, BAD, span())
    cleaning = Cleaning((data,))
    lease = await passes.complete(cleaning, None, 0.0)
    assert lease is None
    assert cleaning.take() == ((body(spans, span()),), spans + 1)
    assert cleaning.first_lost == spans


@pytest.mark.parametrize("spans", [3, 30_000])
async def test_what_stays_as_it_is_beside_what_changes_is_held_too(spans: int) -> None:
    """Its former lease may go with what was left out."""
    budget = Budget(64 * MIB, per_lease=100)
    same, gone, cut = body(spans), written(BAD), body(2, BAD)
    of = Lease(budget, len(same) + len(gone) + len(cut), "a")
    for chunks, held in (((same, gone), same), ((gone, same, cut), same + body(2))):
        cleaning = Cleaning(chunks)
        lease = await passes.complete(cleaning, of, 0.0)
        assert b"".join(cleaning.take()[0]) == held
        assert lease is not None
        assert lease.size == len(held)
        assert budget.used == of.held + lease.held


async def test_what_is_made_has_the_metadata_too() -> None:
    budget = Budget(64 * MIB, per_lease=100)
    data = body(3, BAD)
    of = leased(data, budget)
    assert of.attach(5 * MIB)
    lease = await passes.complete(Cleaning((data,)), of, 0.0)
    assert lease is not None
    assert lease.beside == 5 * MIB + 100
    assert budget.used == of.held + lease.held
    del lease
    budget.limit = budget.used + 5 * MIB
    with pytest.raises(RefusedError):
        await passes.complete(Cleaning((data,)), of, 0.0)


async def test_where_there_is_no_room_it_is_refused() -> None:
    budget = Budget(64 * MIB)
    data = body(1000)
    of = leased(data, budget)
    budget.limit = budget.used + 1000
    with pytest.raises(RefusedError):
        await passes.complete(Sampling((data,), *SAMPLE), of, 0.0)
    assert budget.used == len(data)


async def test_it_waits_for_room_as_long_as_its_sender() -> None:
    budget = Budget(64 * MIB)
    data = body(1000)
    of, other = leased(data, budget), Lease(budget, 10 * MIB, "b")
    budget.limit = budget.used
    loop = asyncio.get_running_loop()
    sampling = Sampling((data,), *SAMPLE)
    task = asyncio.ensure_future(passes.complete(sampling, of, loop.time() + 60))
    await asyncio.sleep(0)
    assert not task.done()
    del other
    lease = await task
    assert lease is not None
    assert lease.size == sampling.size


async def test_much_growth_is_held_in_steps() -> None:
    """A tracestate that is added makes a short span many times as long."""
    budget = Budget(64 * MIB)
    tiny = field(1, b"\xff" * 16)
    data = written(*[tiny] * 40_000)
    sampling = Sampling((data,), *SAMPLE)
    lease = await passes.complete(sampling, leased(data, budget), 0.0)
    assert lease is not None
    assert lease.size == sampling.size > 1.4 * len(data)
    budget.limit = len(data) * 5 // 2
    with pytest.raises(RefusedError):
        await passes.complete(Sampling((data, data), *SAMPLE), leased(data, budget), 0.0)


@pytest.mark.parametrize("spans", [3, 30_000])
async def test_what_cannot_be_read_is_an_error(spans: int) -> None:
    chunks = body(1), body(spans) + b"\xff"
    for work in (Sampling(chunks, *SAMPLE), Cleaning(chunks)):
        with pytest.raises(MalformedPayloadError) as caught:
            await passes.complete(work, None, 0.0)
        assert caught.value.offset == len(chunks[0]) + len(chunks[1]) - 1
    with pytest.raises(MalformedPayloadError):
        await passes.count(chunks, deep=False)


async def test_many_chunks_are_done_in_steps_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "TURN", 0.0)
    data = body(1000)
    cleaning = Cleaning((data,) * 100)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while not cleaning.is_done:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(turn())
    await passes.complete(cleaning, None, 0.0)
    await task
    assert turns > 3
