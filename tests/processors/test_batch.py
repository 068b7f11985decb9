from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from k8strace.budget import MAX_RETRY_AFTER
from k8strace.component import Promise
from k8strace.driver import Done, begin
from k8strace.errors import ConfigError, RefusedError, RejectedError
from k8strace.payload import Payload
from k8strace.processors.batch import Batch, Config
from tests.support.batch import Rig
from tests.support.pipeline import Drive, both_drivers, configured, unreadable, until
from tests.support.requests import parse, span_ids


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """What is given back must not wait for the collector of cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def ids(*payloads: Payload) -> list[bytes]:
    return [one for payload in payloads for one in span_ids(parse(payload.chunks))]


def runs_through(coro: Coroutine[Any, Any, None]) -> bool:
    return isinstance(begin(coro), Done)


# Configuration


def test_defaults_are_the_collectors() -> None:
    config = configured(Batch, {})
    assert config == Config()
    assert config.timeout == 0.2
    assert (config.send_batch_size, config.send_batch_max_size) == (8192, 0)
    assert (config.metadata_keys, config.metadata_cardinality_limit) == ((), 1000)


def test_everything_can_be_set() -> None:
    config = configured(
        Batch,
        {
            "timeout": "1s",
            "send_batch_size": 100,
            "send_batch_max_size": 100,
            "metadata_keys": ["tenant", "team"],
            "metadata_cardinality_limit": 5,
        },
    )
    assert (config.timeout, config.send_batch_max_size) == (1.0, 100)
    assert config.metadata_keys == ("tenant", "team")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"timeout": "-1s"}, "timeout"),
        ({"send_batch_size": -1}, "send_batch_size"),
        ({"send_batch_size": 2**32}, "send_batch_size"),
        ({"send_batch_size": 10, "send_batch_max_size": 9}, r"max_size \(9\).* \(10\)"),
        ({"metadata_keys": ["Tenant", "tenant"]}, "'tenant' twice"),
        ({"send_batch_sise": 1}, "send_batch_sise"),
    ],
)
def test_mistakes(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        configured(Batch, values)


# Full batches


@both_drivers
async def test_payloads_go_on_joined_when_the_batch_is_full(drive: Drive) -> None:
    rig = Rig(send_batch_size=5)
    first, second = rig.payload(2), rig.payload(2)
    await drive(rig.into(first))
    await drive(rig.into(second))
    assert rig.sink.payloads == []
    assert rig.ledger.parked == 4
    third = rig.payload(3)
    await drive(rig.into(third))
    assert rig.sizes == [7]
    assert rig.sink.span_ids() == ids(first, second, third)
    assert rig.source.sent == 7
    del first, second, third
    rig.assert_at_rest()


async def test_nothing_suspends_where_downstream_does_not() -> None:
    rig = Rig(send_batch_size=2)
    assert runs_through(rig.into(rig.payload()))
    assert runs_through(rig.into(rig.payload()))
    assert rig.sizes == [2]
    rig.assert_at_rest()


@both_drivers
@pytest.mark.parametrize("config", [{"timeout": 0}, {"send_batch_size": 0}])
async def test_at_once(drive: Drive, config: dict[str, Any]) -> None:
    rig = Rig(**config)
    await drive(rig.into(rig.payload(1)))
    await drive(rig.into(rig.payload(2)))
    assert rig.sizes == [1, 2]
    rig.assert_at_rest()


async def test_an_empty_payload_is_nothing() -> None:
    rig = Rig(timeout=0)
    await rig.into(Payload((), 0, 0))
    assert rig.sink.calls == 0
    rig.assert_at_rest()


@both_drivers
async def test_a_large_payload_is_split(drive: Drive) -> None:
    rig = Rig(send_batch_size=4, send_batch_max_size=4)
    large = rig.payload(11, resources=2)
    await drive(rig.into(large))
    assert rig.sizes == [4, 4, 3]
    assert rig.sink.span_ids() == ids(large)
    del large
    rig.assert_at_rest()


async def test_a_batch_is_closed_before_it_would_be_too_large() -> None:
    rig = Rig(send_batch_size=8, send_batch_max_size=8)
    for _ in range(3):
        await rig.into(rig.payload(5))
    assert rig.sizes == [5, 5]
    assert rig.ledger.parked == 5
    await rig.stop()
    assert rig.sizes == [5, 5, 5]
    rig.assert_at_rest()


async def test_without_a_maximum_batches_may_be_larger_than_the_trigger() -> None:
    rig = Rig(send_batch_size=3)
    await rig.into(rig.payload(2))
    await rig.into(rig.payload(50))
    assert rig.sizes == [52]
    rig.assert_at_rest()


# Time


@both_drivers
async def test_a_batch_goes_on_when_its_time_is_over(drive: Drive) -> None:
    rig = Rig(timeout=0.1)
    await drive(rig.into(rig.payload(2)))
    await drive(rig.into(rig.payload(1)))
    assert rig.sizes == []
    await until(lambda: bool(rig.sizes))
    assert rig.sizes == [3]
    await drive(rig.into(rig.payload(4)))
    await until(lambda: len(rig.sizes) == 2)
    assert rig.sizes == [3, 4]
    rig.assert_at_rest()


async def test_a_full_batch_stops_its_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the next batch before its time."""
    loop = asyncio.get_running_loop()
    call_later, timers = loop.call_later, []

    def watched(*args: Any) -> asyncio.TimerHandle:
        timers.append(call_later(*args))
        return timers[-1]

    monkeypatch.setattr(loop, "call_later", watched)
    rig = Rig(send_batch_size=2)
    for _ in range(3):
        await rig.into(rig.payload(1))
    assert rig.sizes == [2]
    assert [timer.cancelled() for timer in timers] == [True, False]
    assert rig.metric("batch_size_trigger_send_total") == 1
    assert rig.metric("timeout_trigger_send_total") == 0
    await rig.stop()
    rig.assert_at_rest()


# What downstream says


@both_drivers
async def test_a_refused_batch_is_kept_and_sent_again(drive: Drive) -> None:
    rig = Rig(send_batch_size=2)
    rig.sink.failures = [RefusedError("full", 0.001), RefusedError("full", 0.001)]
    await drive(rig.into(rig.payload(2)))
    assert rig.sizes == []
    assert rig.ledger.parked == 2
    await until(lambda: rig.sizes == [2])
    assert rig.sink.calls == 3
    await rig.stop()
    rig.assert_at_rest()


async def test_it_waits_as_long_as_it_was_asked_to() -> None:
    rig = Rig(timeout=0)
    loop = asyncio.get_running_loop()
    rig.sink.failures = [RefusedError("full", 0.05)]
    before = loop.time()
    await rig.into(rig.payload())
    await until(lambda: rig.sizes == [1])
    assert loop.time() - before >= 0.05
    await rig.stop()
    rig.assert_at_rest()


async def test_without_a_delay_it_backs_off() -> None:
    rig = Rig(timeout=0)
    loop = asyncio.get_running_loop()
    rig.sink.failures = [RefusedError("full"), RefusedError("full")]
    before = loop.time()
    await rig.into(rig.payload())
    await until(lambda: rig.sizes == [1])
    assert loop.time() - before >= 0.1 + 0.2
    await rig.stop()
    rig.assert_at_rest()


async def test_who_is_next_is_given_time_to_find_room() -> None:
    rig = Rig(timeout=0)
    await rig.into(rig.payload())
    until_then = rig.sink.payloads[0].wait_until
    assert 0 < until_then <= asyncio.get_running_loop().time() + MAX_RETRY_AFTER


@both_drivers
async def test_order_is_kept_over_a_refusal(drive: Drive) -> None:
    rig = Rig(send_batch_size=2)
    rig.sink.failures = [RefusedError("full", 0.001)]
    payloads = [rig.payload(2) for _ in range(4)]
    for one in payloads:
        await drive(rig.into(one))
    await until(lambda: len(rig.sizes) == 4)
    assert rig.sink.span_ids() == ids(*payloads)
    await rig.stop()
    payloads.clear()
    del one
    rig.assert_at_rest()


@both_drivers
async def test_a_rejected_batch_is_dropped_with_its_reason(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(send_batch_size=2)
    rig.sink.failures = [RejectedError("no such tenant", "decode_error")]
    await drive(rig.into(rig.payload(3)))
    await drive(rig.into(rig.payload(2)))
    assert rig.sizes == [2]
    assert rig.ledger.dropped == {"decode_error": 3}
    assert "dropped spans: no such tenant" in caplog.text
    rig.assert_at_rest()


async def test_a_rejected_piece_does_not_take_the_others_with_it() -> None:
    rig = Rig(send_batch_size=4, send_batch_max_size=4)
    rig.sink.failures = [RejectedError("bad")]
    await rig.into(rig.payload(9))
    assert rig.sizes == [4, 1]
    assert rig.ledger.dropped == {"permanent_error": 4}
    rig.assert_at_rest()


async def test_a_request_that_cannot_be_cut_does_not_take_the_others_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(send_batch_size=4, send_batch_max_size=4)
    requests = [rig.payload(2), unreadable(5, budget=rig.budget), rig.payload(9)]
    wanted = ids(requests[0], requests[2])
    joined = Payload.join(requests)
    requests.clear()
    await rig.into(joined)
    del joined
    await until(lambda: sum(rig.sizes) == 11)
    assert rig.sizes == [2, 4, 4, 1]
    assert rig.sink.span_ids() == wanted
    assert rig.ledger.dropped == {"decode_error": 5}
    rig.assert_at_rest()
    (line,) = [r.__dict__ for r in caplog.records if "dropped spans" in r.getMessage()]
    assert "batch has to cut the request, and cannot read it" in line["message"]
    assert line["peer"] == "10.0.0.9:1"


@both_drivers
async def test_while_one_batch_waits_the_next_ones_park(drive: Drive) -> None:
    rig = Rig(send_batch_size=2)
    rig.sink.gate = asyncio.Event()
    payloads = [rig.payload(2) for _ in range(3)]
    for one in payloads:
        await drive(rig.into(one))
    await until(lambda: rig.sink.calls == 1)
    assert rig.ledger.parked == 6
    rig.sink.gate.set()
    await until(lambda: len(rig.sizes) == 3)
    await until(lambda: rig.metric("metadata_cardinality") == 0)
    assert rig.sink.span_ids() == ids(*payloads)
    await rig.stop()
    payloads.clear()
    del one
    rig.assert_at_rest()


@pytest.mark.usefixtures("no_garbage_collection")
async def test_bytes_come_free_when_they_are_handed_on() -> None:
    rig = Rig(send_batch_size=4, send_batch_max_size=4)
    rig.sink.failures = [RefusedError("full", 0.001), RejectedError("bad")]
    for _ in range(4):
        await rig.into(rig.payload(3))
    await until(lambda: sum(rig.sizes) == 6)
    await rig.into(rig.payload(9))
    await rig.stop()
    rig.assert_at_rest()


# What is shown


async def test_metrics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "k8strace")
    rig = Rig(send_batch_size=20)
    await rig.into(rig.payload(20))
    await rig.into(rig.payload(5))
    await rig.stop()
    assert rig.metric("batch_size_trigger_send_total") == 1
    assert rig.metric("timeout_trigger_send_total") == 1
    assert rig.metric("batch_send_size_count") == 2
    assert rig.metric("batch_send_size_sum") == 25
    sizes = sum(one.size for one in rig.sink.payloads)
    assert rig.metric("batch_send_size_bytes_sum") == sizes
    assert rig.metric("metadata_cardinality") == 0
    rig.assert_at_rest()


async def test_a_time_of_refusals_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "k8strace")
    rig = Rig(timeout=0)
    rig.sink.failures = [RefusedError("queue is full", 0.001) for _ in range(5)]
    await rig.into(rig.payload())
    await until(lambda: rig.sizes == [1])
    assert caplog.text.count("kept and sent again: queue is full") == 1
    assert caplog.text.count("taken again") == 1
    await rig.stop()
    rig.assert_at_rest()


def test_it_promises_what_stands_behind_it() -> None:
    assert Rig(Promise.STORED).batch.promise == Promise.STORED
    assert Rig().batch.promise == Promise.MEMORY
    assert Rig().batch.joins
