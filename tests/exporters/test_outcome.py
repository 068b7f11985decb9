"""What becomes of each span: sent, dropped with a reason, or told to who waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8strace.errors import RefusedError, RejectedError
from k8strace.exporters._sending import Sent, TooLargeError
from k8strace.payload import Payload
from tests.support.sending import (
    FAST_RETRY,
    Small,
    direct,
    running,
    running_as,
)

NO_RETRY = {"enabled": False}
MODES = pytest.mark.parametrize(
    "queue", [{}, {"enabled": False}, {"wait_for_result": True}], ids=str
)


@MODES
async def test_a_partial_success_is_counted_as_it_is(
    queue: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def some(_: Payload) -> Sent:
        return Sent(2, "two are too old")

    async with running(sending_queue=queue) as rig:
        rig.exporter.answer = some
        await rig.send(5)
        await rig.settled()
        assert rig.ledger.sent == 3
        assert rig.ledger.dropped == {"partial_success": 2}
        assert rig.value("otelcol_exporter_sent_spans_total") == 3
        assert rig.value("otelcol_exporter_send_failed_spans_total") == 2
    assert "rejected 2 of them: two are too old" in caplog.text


@pytest.mark.parametrize(("rejected", "dropped"), [(9, 5), (-1, 0)])
async def test_a_number_that_cannot_be_is_bounded(rejected: int, dropped: int) -> None:
    async def nonsense(_: Payload) -> Sent:
        return Sent(rejected)

    async with running() as rig:
        rig.exporter.answer = nonsense
        await rig.send(5)
        await rig.settled()
        assert rig.ledger.sent == 5 - dropped


async def test_a_warning_is_logged_and_nothing_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def warn(_: Payload) -> Sent:
        return Sent(0, "old schema")

    async with running() as rig:
        rig.exporter.answer = warn
        await rig.send(5)
        await rig.settled()
        assert rig.ledger.sent == 5
    record = next(r for r in caplog.records if "old schema" in r.getMessage())
    assert record.levelno == logging.WARNING


async def test_part_of_a_request_that_is_refused_makes_the_sender_retry() -> None:
    async with running_as(Small, **direct(retry_on_failure=NO_RETRY)) as rig:
        calls: list[int] = []

        async def second_fails(one: Payload) -> None:
            calls.append(one.spans)
            if len(calls) == 2:
                raise RefusedError("busy", 0.3)

        rig.exporter.answer = second_fails
        with pytest.raises(RefusedError, match="busy"):
            await rig.send(40)
        first = calls[0]
        assert rig.ledger.refused == 40
        assert rig.ledger.sent == rig.exporter.taken.total() == 40 - calls[1]
        assert first + calls[1] <= 40
        assert rig.value("k8strace_spans_resent_total") == 40 - calls[1]


async def test_part_of_a_request_that_is_rejected_is_dropped() -> None:
    async with running_as(Small, **direct()) as rig:
        rig.exporter.failures = [RejectedError("bad", "invalid_id")]
        await rig.send(40)
        dropped = rig.ledger.dropped["invalid_id"]
        assert 0 < dropped < 40
        assert rig.ledger.sent == 40 - dropped


async def test_a_request_that_is_rejected_whole_is_told() -> None:
    async with running_as(Small, **direct()) as rig:
        rig.exporter.failures = [RejectedError("bad", "invalid_id") for _ in range(40)]
        with pytest.raises(RejectedError, match="bad") as caught:
            await rig.send(40)
        assert caught.value.reason == "invalid_id"
        del caught
        assert (rig.ledger.rejected, rig.ledger.dropped) == (40, {})


_answers = st.sampled_from(
    ["take", "refuse", "reject", "large", "limited", "partial", "bug"]
)


@settings(max_examples=60)
@given(
    st.lists(_answers, max_size=40),
    st.lists(st.integers(1, 6), min_size=1, max_size=20),
    st.sampled_from(["park", "wait", "direct"]),
    st.booleans(),
    st.integers(0, 8),
    st.lists(st.integers(0, 19), max_size=3),
)
def test_whatever_a_destination_does_every_span_is_accounted_for(
    answers: list[str],
    spans: list[int],
    mode: str,
    retries: bool,
    max_size: int,
    gone: list[int],
) -> None:
    errors: dict[str, Callable[[], Exception]] = {
        "refuse": lambda: RefusedError("busy"),
        "reject": lambda: RejectedError("bad"),
        "large": lambda: TooLargeError("too large"),
        "limited": lambda: RefusedError("quota", reason="rate_limited"),
        "bug": lambda: KeyError("oops"),
    }
    script = iter(answers)

    async def answer(one: Payload) -> Sent:
        await asyncio.sleep(0)
        match next(script, "take"):
            case "take":
                return Sent()
            case "partial":
                return Sent(one.spans // 2, "some")
            case kind:
                raise errors[kind]()

    async def main() -> None:
        batch = {"flush_timeout": "1ms", "min_size": max_size // 2, "max_size": max_size}
        queue = {
            "enabled": mode != "direct",
            "wait_for_result": mode == "wait",
            "queue_size": 100,
            "num_consumers": 2,
            "batch": batch,
        }
        retry = {**FAST_RETRY, "enabled": retries}
        async with running(sending_queue=queue, retry_on_failure=retry) as rig:
            rig.exporter.answer = answer
            senders = [rig.sender(count) for count in spans]
            await asyncio.sleep(0)
            for number in gone:
                if number < len(senders):
                    senders[number].cancel()
            await asyncio.wait(senders)
            taken = sum(
                count
                for count, sender in zip(spans, senders, strict=True)
                if not sender.cancelled() and sender.exception() is None
            )
            senders.clear()
            await rig.stop()
            ledger = rig.ledger
            lost = sum(ledger.dropped.values())
            # Nobody was told that spans were taken that are neither there nor counted.
            assert ledger.sent + lost >= taken
            assert rig.source.sent == taken
            partial = ledger.dropped.get("partial_success", 0)
            assert rig.exporter.taken.total() == ledger.sent + partial

    asyncio.run(main())
