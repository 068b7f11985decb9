"""The batch processor's bounds: its room, its groups, and its end."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from k8strace import background
from k8strace.component import Blocked, Promise
from k8strace.errors import RefusedError
from k8strace.payload import MOST_JOINED, Origin, Payload
from k8strace.processors.batch import PARKED_SHARE
from tests.support.batch import Rig
from tests.support.pipeline import Drive, both_drivers, cancel, failure, told, until
from tests.support.requests import parse, span_ids


def ids(*payloads: Payload) -> list[bytes]:
    return [one for payload in payloads for one in span_ids(parse(payload.chunks))]


# Bounds


@pytest.mark.parametrize("promise", [Promise.MEMORY, Promise.DELIVERED])
async def test_a_batch_has_so_many_requests_at_most(promise: Promise) -> None:
    rig = Rig(promise, send_batch_size=1_000_000)
    one = rig.payload()
    senders = [asyncio.ensure_future(rig.into(one)) for _ in range(2 * MOST_JOINED + 1)]
    await until(lambda: len(rig.sizes) == 2)
    await rig.stop()
    await asyncio.gather(*senders)
    assert rig.sizes == [MOST_JOINED, MOST_JOINED, 1]
    assert rig.metric("batch_size_trigger_send_total") == 2
    del one
    rig.assert_at_rest()


@pytest.mark.parametrize("promise", [Promise.MEMORY, Promise.DELIVERED])
async def test_others_go_on_while_a_request_is_cut_into_many(
    promise: Promise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "TURN", 0.0)
    rig = Rig(promise, timeout=0, send_batch_size=1, send_batch_max_size=1)
    before: list[int] = []

    def count() -> None:
        before.append(len(rig.sizes))

    asyncio.get_running_loop().call_soon(count)
    await rig.into(rig.payload(50))
    await until(lambda: len(rig.sizes) == 50)
    assert before[0] < 50
    await rig.stop()
    rig.assert_at_rest()


async def test_joined_requests_count_one_by_one() -> None:
    rig = Rig(send_batch_size=1_000_000)
    most = Payload.join([rig.payload() for _ in range(MOST_JOINED - 1)])
    for _ in range(2):
        await rig.into(most)
        await rig.into(rig.payload())
    assert rig.sizes == [MOST_JOINED, MOST_JOINED]
    await rig.into(rig.payload())
    await rig.into(most)
    await rig.into(most)
    await rig.stop()
    assert rig.sizes[2:] == [MOST_JOINED, MOST_JOINED - 1]
    del most
    rig.assert_at_rest()


async def blocked_rig(payload: Payload, fit: int) -> Rig:
    """A rig with room for `fit` payloads of this size, whose sink takes nothing yet."""
    rig = Rig(timeout=0, budget=PARKED_SHARE * fit * payload.size)
    rig.sink.gate = asyncio.Event()
    return rig


@both_drivers
async def test_a_full_room_refuses_with_a_delay(drive: Drive) -> None:
    rig = await blocked_rig(sample := Rig().payload(), 2)
    await drive(rig.into(sample))
    await drive(rig.into(sample))
    refused = await failure(drive(rig.into(sample)))
    assert isinstance(refused, RefusedError)
    assert "no room" in str(refused)
    assert refused.retry_after is not None
    assert refused.retry_after > 0
    assert (rig.ledger.refused, rig.ledger.parked) == (1, 2)
    assert rig.sink.gate is not None
    rig.sink.gate.set()
    await until(lambda: len(rig.sizes) == 2)
    await drive(rig.into(sample))
    assert len(rig.sizes) == 3
    await rig.stop()
    rig.assert_at_rest()


@both_drivers
async def test_a_payload_waits_for_room(drive: Drive) -> None:
    rig = await blocked_rig(sample := Rig().payload(), 1)
    await drive(rig.into(sample))
    patient = msgspec.structs.replace(
        sample, wait_until=asyncio.get_running_loop().time() + 10
    )
    waiting = asyncio.ensure_future(drive(rig.into(patient)))
    await until(lambda: bool(rig.batch._room._waiters))
    assert not waiting.done()
    assert rig.sink.gate is not None
    rig.sink.gate.set()
    await waiting
    await until(lambda: len(rig.sizes) == 2)
    await rig.stop()
    rig.assert_at_rest()


async def test_who_is_cancelled_while_waiting_for_room_leaves_nothing() -> None:
    rig = await blocked_rig(sample := Rig().payload(), 1)
    await rig.into(sample)
    patient = msgspec.structs.replace(
        sample, wait_until=asyncio.get_running_loop().time() + 10
    )
    waiting = asyncio.create_task(rig.into(patient))
    await until(lambda: bool(rig.batch._room._waiters))
    await cancel(waiting)
    del waiting
    assert (rig.ledger.refused, rig.ledger.parked) == (1, 1)
    assert rig.sink.gate is not None
    rig.sink.gate.set()
    await until(lambda: len(rig.sizes) == 1)
    await rig.stop()
    assert rig.sizes == [1]
    rig.assert_at_rest()


async def test_a_payload_larger_than_the_room_goes_alone() -> None:
    large = Rig().payload(100)
    rig = Rig(send_batch_size=1000, budget=PARKED_SHARE * large.size // 2)
    assert rig.batch.blocked_by(large) is None
    await rig.into(large)
    assert isinstance(await failure(rig.into(large)), RefusedError)
    await rig.stop()
    assert rig.sizes == [100]
    rig.assert_at_rest()


async def test_it_tells_what_it_would_wait_for() -> None:
    sample = Rig().payload()
    rig = await blocked_rig(sample, 1)
    assert rig.batch.blocked_by(sample) is None
    await rig.into(sample)
    blocked = rig.batch.blocked_by(sample)
    assert isinstance(blocked, Blocked)
    assert not await blocked.room.wait(blocked.amount, 0)
    assert rig.sink.gate is not None
    rig.sink.gate.set()
    loop = asyncio.get_running_loop()
    assert await blocked.room.wait(blocked.amount, loop.time() + 10)
    assert rig.batch.blocked_by(sample) is None
    await rig.stop()
    rig.assert_at_rest()


async def test_the_room_follows_the_budget() -> None:
    sample = Rig().payload()
    rig = await blocked_rig(sample, 1)
    rig.budget.limit *= 2
    await rig.into(sample)
    await rig.into(sample)
    assert isinstance(await failure(rig.into(sample)), RefusedError)
    assert rig.sink.gate is not None
    rig.sink.gate.set()
    await rig.stop()
    rig.assert_at_rest()


# Metadata


def from_(rig: Rig, spans: int = 1, peer: str = "a", **metadata: str) -> Payload:
    return msgspec.structs.replace(
        rig.payload(spans), origin=Origin(peer, None, tuple(metadata.items()))
    )


@both_drivers
async def test_batches_by_metadata(drive: Drive) -> None:
    rig = Rig(send_batch_size=2, metadata_keys=("Tenant",))
    rows = (
        [from_(rig, tenant="red", team="x") for _ in range(2)],
        [from_(rig, TENANT="blue") for _ in range(2)],
        [from_(rig, team="x") for _ in range(2)],
    )
    wanted = [ids(*row) for row in rows]
    for first in (True, False):
        for row in rows:
            await drive(rig.into(row.pop()))
        assert rig.metric("metadata_cardinality") == (3 if first else 0)
    got = [ids(one) for one in rig.sink.payloads]
    assert list(map(sorted, got)) == list(map(sorted, wanted))
    rig.assert_at_rest()


async def test_the_origin_stays_where_all_are_the_same() -> None:
    rig = Rig(send_batch_size=2, metadata_keys=("tenant",))
    assert rig.batch.needs_origin
    for peer in ("a", "a", "a", "b"):
        await rig.into(from_(rig, peer=peer, tenant="red"))
    first, second = rig.sink.payloads
    assert first.origin == Origin("a", None, (("tenant", "red"),))
    assert second.origin is None
    assert len(second.sources) == 2


async def test_too_many_combinations_are_refused_until_some_are_gone() -> None:
    rig = Rig(metadata_keys=("tenant",), metadata_cardinality_limit=2, send_batch_size=2)
    await rig.into(from_(rig, tenant="a"))
    await rig.into(from_(rig, tenant="b"))
    assert rig.metric("metadata_cardinality") == 2
    refused = await failure(rig.into(from_(rig, tenant="c")))
    assert isinstance(refused, RefusedError)
    assert "more than 2 combinations of the values of tenant" in str(refused)
    assert rig.ledger.refused == 1
    await rig.into(from_(rig, tenant="a"))
    await rig.into(from_(rig, tenant="c"))
    await rig.stop()
    assert sorted(rig.sizes) == [1, 1, 2]
    rig.assert_at_rest()


@pytest.mark.parametrize("promise", [Promise.MEMORY, Promise.DELIVERED])
async def test_who_sends_ever_new_values_costs_others_nothing(promise: Promise) -> None:
    rig = Rig(promise, metadata_keys=("tenant",), metadata_cardinality_limit=10)
    bad = [
        asyncio.ensure_future(
            rig.into(from_(rig, peer=f"10.0.0.9:{number}", tenant=f"bad{number}"))
        )
        for number in range(10)
    ]
    await until(lambda: rig.metric("metadata_cardinality") == 10)
    good = [
        asyncio.ensure_future(
            rig.into(from_(rig, peer=f"10.0.0.{number}:1", tenant=f"good{number}"))
        )
        for number in range(4)
    ]
    await until(lambda: rig.ledger.received == 14)
    more = await failure(rig.into(from_(rig, peer="10.0.0.9:99", tenant="bad99")))
    assert isinstance(more, RefusedError)
    assert rig.metric("metadata_cardinality") == 10
    await rig.stop()
    await asyncio.gather(*bad, *good)
    assert len(rig.sizes) == 14
    assert (rig.ledger.refused, rig.ledger.dropped) == (1, {})
    assert rig.batch._groups_of == {}
    bad.clear()
    good.clear()
    rig.assert_at_rest()


async def test_no_limit_of_combinations() -> None:
    rig = Rig(metadata_keys=("tenant",), metadata_cardinality_limit=0)
    for number in range(20):
        await rig.into(from_(rig, tenant=str(number)))
    assert rig.metric("metadata_cardinality") == 20
    await rig.stop()
    assert len(rig.sizes) == 20
    rig.assert_at_rest()


async def test_without_metadata_keys_origins_do_not_matter() -> None:
    rig = Rig(send_batch_size=2)
    assert not rig.batch.needs_origin
    await rig.into(from_(rig, tenant="a"))
    await rig.into(from_(rig, tenant="b"))
    assert rig.sizes == [2]
    rig.assert_at_rest()


# The end


@both_drivers
async def test_stop_sends_what_is_parked(drive: Drive) -> None:
    rig = Rig()
    await drive(rig.into(rig.payload(3)))
    await rig.stop()
    assert rig.sizes == [3]
    assert "shutting down" in str(await failure(drive(rig.into(rig.payload(1)))))
    await rig.stop()
    rig.assert_at_rest()


async def test_stop_does_not_wait_out_a_long_delay() -> None:
    rig = Rig(timeout=0)
    rig.sink.failures = [RefusedError("full", 3600), RefusedError("full", 3600)]
    await rig.into(rig.payload(1))
    await rig.into(rig.payload(2))
    await rig.stop()
    assert rig.sizes == [1, 2]
    rig.assert_at_rest()


@pytest.mark.parametrize("refuses", [True, False])
async def test_what_nobody_takes_in_time_is_dropped(
    refuses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(send_batch_size=2)
    if refuses:
        rig.sink.failures = [RefusedError("full", 3600) for _ in range(10)]
    else:
        rig.sink.gate = asyncio.Event()
    for spans in (2, 3, 1):
        await rig.into(rig.payload(spans))
    await rig.stop(0)
    assert rig.sizes == []
    assert rig.ledger.dropped == {"shutdown": 6}
    assert told(rig.batch, caplog.records) == {"shutdown": 6}
    # The first at once, and what was left.
    assert caplog.text.count("dropped spans: nobody took them before the end") == 2
    rig.assert_at_rest()


async def test_who_waits_for_room_is_refused_at_the_end() -> None:
    rig = await blocked_rig(sample := Rig().payload(), 1)
    await rig.into(sample)
    patient = msgspec.structs.replace(
        sample, wait_until=asyncio.get_running_loop().time() + 10
    )
    waiting = asyncio.create_task(rig.into(patient))
    await until(lambda: bool(rig.batch._room._waiters))
    await rig.stop(0)
    assert "shutting down" in str(await failure(waiting))
    assert rig.ledger.dropped == {"shutdown": 1}
    rig.assert_at_rest()


async def test_stop_without_start_or_work() -> None:
    rig = Rig()
    await rig.stop(0)
    rig.assert_at_rest()
