"""Payloads are cut into pieces one by one, and each is in the budget before it is made."""

from __future__ import annotations

import asyncio
import ctypes
import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace._fastpath import Cutting
from k8strace.budget import Budget, Lease
from k8strace.errors import MalformedPayloadError, RefusedError
from k8strace.passes import Spare, step
from k8strace.payload import Origin, Payload, Source
from k8strace.pieces import Pieces
from tests.support.pipeline import unreadable
from tests.support.requests import parse, request, span_ids
from tests.support.wire import field, span
from tests.support.wire import request as written

MIB = 1024 * 1024
A, B = Origin("a"), Origin("b")


class Heap(ctypes.Structure):
    """What glibc's mallinfo2 says; see mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    )


def allocated() -> int:
    """Bytes that are allocated from the C heap."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Heap
    heap = mallinfo()
    return int(heap.uordblks + heap.hblkhd)


def ids(*payloads: Payload) -> list[bytes]:
    return [one for part in payloads for one in span_ids(parse(part.chunks))]


def payload(spans: int, origin: Origin = A, wait_until: float = 0.0) -> Payload:
    body = request(spans).SerializeToString()
    return Payload((body,), spans, len(body), origin, wait_until=wait_until)


async def cut(
    one: Payload, max_spans: int = 0, max_bytes: int = 0, max_requests: int = 0
) -> list[Payload]:
    pieces = Pieces(one, Spare(Budget(MIB)), max_spans, max_bytes, max_requests)
    found = []
    while (piece := await pieces.next()) is not None:
        assert piece.size == sum(map(len, piece.chunks))
        assert piece.spans == len(ids(piece))
        found.append(piece)
        assert pieces.left == one.spans - sum(piece.spans for piece in found)
    return found


def large(spans: int, budget: Budget, resource: int = 0, origin: Origin = A) -> Payload:
    """A payload whose resource has as many bytes, with a lease."""
    value = field(1, field(1, field(1, b"key") + field(2, field(1, b"v" * resource))))
    body = written(*[span(more=field(5, b"n" * 100))] * spans, resource=value)
    return Payload((body,), spans, len(body), origin, (), Lease(budget, len(body), "a"))


async def test_what_is_within_the_limits_is_not_cut() -> None:
    one = payload(5)
    for limits in ((0, 0), (5, 0), (0, one.size), (5, one.size)):
        assert (await cut(one, *limits))[0] is one
        assert len(await cut(one, *limits)) == 1


async def test_pieces_keep_to_the_limits() -> None:
    one = payload(10, wait_until=7.0)
    pieces = await cut(one, max_spans=3)
    assert [piece.spans for piece in pieces] == [3, 3, 3, 1]
    assert ids(*pieces) == ids(one)
    for piece in pieces:
        assert (piece.origin, piece.sources, piece.wait_until) == (A, (), 7.0)


async def test_a_joined_payload_is_cut_between_requests_where_it_can_be() -> None:
    parts = [payload(2, A), payload(2, B), payload(2, A), payload(7, B), payload(1, A)]
    joined = Payload.join(parts)
    pieces = await cut(joined, max_spans=5)
    assert [piece.spans for piece in pieces] == [4, 2, 5, 2, 1]
    assert [len(piece.sources) for piece in pieces] == [2, 1, 0, 0, 1]
    assert [piece.origin for piece in pieces] == [None, A, B, B, A]
    assert ids(*pieces) == ids(joined)


async def test_groups_are_whole_requests() -> None:
    joined = Payload.join([payload(spans) for spans in (1, 2, 3, 4, 5)])
    pieces = await cut(joined, max_requests=2)
    assert [piece.spans for piece in pieces] == [3, 7, 5]
    assert ids(*pieces) == ids(joined)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(0, 8),
    st.sampled_from((0, 1, 200, 700, 3000)),
)
def test_cutting_loses_nothing(counts: list[int], max_spans: int, max_bytes: int) -> None:
    parts = [payload(spans, (A, B)[index % 2]) for index, spans in enumerate(counts)]
    joined = Payload.join(parts)
    pieces = asyncio.run(cut(joined, max_spans, max_bytes))
    assert ids(*pieces) == ids(joined)
    for piece in pieces:
        assert not max_spans or piece.spans <= max_spans
        assert not max_bytes or piece.size <= max_bytes or piece.spans <= 1


@pytest.mark.parametrize("resource", [0, 200_000])
async def test_a_piece_is_in_the_budget_and_only_one_is_there(resource: int) -> None:
    budget = Budget(64 * MIB)
    one = large(2000, budget, resource)
    size = one.size
    spare = Spare(budget)
    pieces = Pieces(one, spare, max_spans=100)
    del one
    total = 0
    while (piece := await pieces.next()) is not None:
        # The payload, the piece, and a copy of what each piece repeats.
        assert size + piece.size <= budget.used <= size + piece.size + resource + 1000
        total += piece.spans
        del piece
        gc.collect()
    assert total == 2000
    del pieces
    gc.collect()
    assert budget.used == 0


async def test_one_piece_at_a_time_goes_on_where_the_budget_is_used_up() -> None:
    budget = Budget(64 * MIB)
    spare = Spare(budget)
    one, other = (Pieces(large(10, budget), spare, max_spans=5) for _ in range(2))
    budget.limit = budget.used
    piece = await one.next()
    assert piece is not None
    assert budget.used > budget.limit
    waiting = asyncio.ensure_future(other.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    piece = None
    one.close()
    assert await waiting is not None
    other.close()


def read_back(budget: Budget, *spans: int) -> Payload:
    """Requests of so many spans as they are read from a store: in one chunk."""
    parts = [large(count, Budget(64 * MIB)) for count in spans]
    body = b"".join(chunk for part in parts for chunk in part.chunks)
    sources = tuple(Source(part.spans, part.size, A) for part in parts)
    lease = Lease(budget, len(body), "a")
    return Payload((body,), sum(spans), len(body), None, sources, lease)


async def test_a_request_of_a_large_chunk_is_cut_where_the_budget_is_used_up() -> None:
    """Taking it out of the chunk is a copy, and each of its pieces is another."""
    budget = Budget(64 * MIB)
    spare = Spare(budget)
    one = read_back(budget, 2000, 2000)
    budget.limit = used = budget.used
    for _ in range(2):  # also after that nobody is past the limit
        pieces = Pieces(one, spare, max_spans=700)
        found = []
        while (piece := await asyncio.wait_for(pieces.next(), 5)) is not None:
            found.append(piece.spans)
            assert budget.used <= used + one.size // 2 + piece.size + 1000
        assert found == [700, 700, 600] * 2
        piece = pieces = None  # type: ignore[assignment]
        gc.collect()
        assert budget.used == used


async def test_who_gives_up_a_request_of_a_large_chunk_gives_its_room_back() -> None:
    budget = Budget(64 * MIB)
    spare = Spare(budget)
    one = read_back(budget, 2000, 2000)
    budget.limit = budget.used
    for end in (Pieces.close, Pieces.rest):
        pieces = Pieces(one, spare, max_spans=700)
        await asyncio.wait_for(pieces.next(), 5)
        end(pieces)


async def test_of_a_large_chunk_what_lasts_goes_past_the_limit_once() -> None:
    budget = Budget(64 * MIB)
    pieces = Pieces(read_back(budget, 2000, 9), Spare(budget, lasts=True), max_spans=700)
    budget.limit = budget.used
    kept = await pieces.next()
    with pytest.raises(RefusedError):
        await pieces.next(asyncio.get_running_loop().time())
    del kept
    assert await pieces.next() is not None


async def test_a_piece_holds_the_metadata_when_its_request_is_gone() -> None:
    budget = Budget(64 * MIB)
    one = large(10, budget)
    assert one.any_lease is not None
    assert one.any_lease.attach(MIB)
    pieces = Pieces(one, Spare(budget, lasts=True), max_spans=5)
    del one
    kept = [await pieces.next(), await pieces.next()]
    assert await pieces.next() is None
    del pieces
    gc.collect()
    sizes = [piece.size for piece in kept if piece is not None]
    assert budget.used == sum(sizes) + 2 * MIB
    kept.clear()
    assert budget.used == 0


async def test_what_resources_repeat_is_not_copied_before_there_is_room() -> None:
    budget = Budget(64 * MIB)
    one = large(10, budget, resource=3 * MIB)
    gc.collect()  # what others left may be freed in between, but for little
    before = allocated()
    cutting = Cutting(one.chunks, 4)
    await step(cutting)
    assert cutting.need > 6 * MIB  # the piece, and what is kept for the next one
    assert allocated() - before < MIB
    await step(cutting)
    assert allocated() - before > 5 * MIB


async def test_the_rest_is_all_of_a_request_that_no_piece_was_made_of() -> None:
    """For which there was no room, say."""
    budget = Budget(64 * MIB)
    one, other = large(10, budget), payload(3, B)
    pieces = Pieces(Payload.join([other, one, other]), Spare(budget, lasts=True), 5)
    assert (await pieces.next(), pieces.first, pieces.end) != (None, 0, 0)
    full = Lease(budget, budget.limit, "b")
    with pytest.raises(RefusedError):
        await pieces.next(asyncio.get_running_loop().time())
    assert (pieces.end, pieces.is_whole) == (2, False)
    assert [piece.spans for piece in pieces.rest()] == [10, 3]
    del full


async def test_what_lasts_goes_past_the_limit_once() -> None:
    budget = Budget(64 * MIB)
    spare = Spare(budget, lasts=True)
    pieces = Pieces(large(10, budget), spare, max_spans=5)
    budget.limit = budget.used
    kept = await pieces.next()
    now = asyncio.get_running_loop().time()
    with pytest.raises(RefusedError):
        await pieces.next(now)
    waiting = asyncio.ensure_future(pieces.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    del kept
    assert await waiting is not None


async def test_the_rest_has_what_is_in_no_piece_yet() -> None:
    joined = Payload.join([payload(2, A), payload(7, B), payload(3, A), payload(1, B)])
    pieces = Pieces(joined, Spare(Budget(MIB)), max_spans=3)
    for _ in range(2):
        await pieces.next()
    assert [(one.spans, one.origin) for one in pieces.rest()] == [(4, B), (4, None)]
    assert pieces.left == 0
    assert await Pieces(joined, Spare(Budget(MIB))).next() is joined


async def test_what_cannot_be_read_is_an_error() -> None:
    broken = Payload((b"\x0a\x05\x12\x03\x12\x7f\xff",), 2, 7, A)
    with pytest.raises(MalformedPayloadError):
        await Pieces(broken, Spare(Budget(MIB)), max_spans=1).next()


@pytest.mark.parametrize("bad", [3, 8])
async def test_a_request_that_cannot_be_read_costs_itself(bad: int) -> None:
    """Also where some pieces of it were made already."""
    one, broken, other = payload(2, A), unreadable(bad), payload(7, B)
    pieces = Pieces(Payload.join([one, broken, other]), Spare(Budget(MIB)), max_spans=2)
    taken, left_out = [], 0
    while True:
        try:
            piece = await pieces.next()
        except MalformedPayloadError:
            assert not pieces.is_whole
            rest = pieces.unreadable()
            assert rest.origin == broken.origin
            left_out += rest.spans
            continue
        if piece is None:
            break
        if piece.origin != broken.origin:
            taken.append(piece)
        else:
            bad -= piece.spans
        assert pieces.left == 9 + bad - left_out - sum(one.spans for one in taken)
    assert ids(*taken) == ids(one, other)
    assert 0 < left_out == bad


async def test_the_rest_behind_a_request_that_cannot_be_read() -> None:
    joined = Payload.join([unreadable(3), payload(3, A)])
    pieces = Pieces(joined, Spare(Budget(MIB)), max_spans=2)
    with pytest.raises(MalformedPayloadError):
        await pieces.next()
    assert pieces.unreadable().spans == 3
    assert [(one.spans, one.origin) for one in pieces.rest()] == [(3, A)]
    assert pieces.left == 0


async def test_a_long_request_is_cut_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no thread is needed for is done without leaving the loop."""
    budget = Budget(64 * MIB)
    assert [piece.spans for piece in await cut(large(8000, budget), 3000)] == [
        *(3000, 3000, 2000)
    ]

    async def run(_job: object, *_holds: object) -> None:
        raise AssertionError

    monkeypatch.setattr("k8strace.threads.run", run)
    assert len(await cut(large(1000, budget), 300)) == 4
    with pytest.raises(AssertionError):
        await cut(large(8000, budget), 3000)
