"""What holds for the batch processor whatever comes and whatever downstream says."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from k8strace.payload import Origin
from tests.support.batch import Rig
from tests.support.pipeline import Drive, in_a_task, until, without_a_task
from tests.support.requests import parse, span_ids

Step = tuple[int, str, bool]  # spans, tenant, whether the loop runs afterwards

steps = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from(["red", "blue"]), st.booleans()),
    max_size=20,
)


@given(
    steps=steps,
    size=st.integers(0, 20),
    spare=st.integers(0, 10) | st.none(),
    timeout=st.sampled_from([0.0, 0.001, 3600.0]),
    verdicts=st.lists(st.sampled_from(["take", "wait", "refuse"]), max_size=30),
    drive=st.sampled_from([in_a_task, without_a_task]),
)
def test_every_span_arrives_once_and_in_order(
    steps: list[Step],
    size: int,
    spare: int | None,
    timeout: float,
    verdicts: list[str],
    drive: Drive,
) -> None:
    max_size = 0 if spare is None else max(1, size + spare)

    async def run() -> None:
        rig = Rig(
            timeout=timeout,
            send_batch_size=size,
            send_batch_max_size=max_size,
            metadata_keys=("tenant",),
        )
        rig.sink.verdicts = list(verdicts)
        sent: dict[str, list[bytes]] = defaultdict(list)
        for spans, tenant, rest in steps:
            origin = Origin("peer", None, (("tenant", tenant),))
            payload = msgspec.structs.replace(rig.payload(spans), origin=origin)
            sent[tenant] += span_ids(parse(payload.chunks))
            await drive(rig.into(payload))
            del payload
            assert rig.ledger.in_flight == 0
            if rest:
                await asyncio.sleep(0)
        await rig.stop()
        arrived: dict[str, list[bytes]] = defaultdict(list)
        for taken in rig.sink.payloads:
            assert taken.origin is not None
            assert not max_size or taken.spans <= max_size
            arrived[taken.origin.metadata[0][1]] += span_ids(parse(taken.chunks))
            del taken
        assert arrived == sent
        assert rig.ledger.received == rig.ledger.sent == sum(one[0] for one in steps)
        rig.assert_at_rest()

    asyncio.run(run())


@given(
    steps=st.lists(st.integers(1, 12), min_size=1, max_size=20),
    size=st.integers(1, 20),
    verdicts=st.lists(st.sampled_from(["take", "wait", "refuse", "reject"]), max_size=30),
    stop_after=st.sampled_from([0.0, 10.0]),
)
def test_every_span_is_accounted_for(
    steps: list[int], size: int, verdicts: list[str], stop_after: float
) -> None:
    async def run() -> None:
        rig = Rig(timeout=0.001, send_batch_size=size)
        rig.sink.verdicts = list(verdicts)
        for spans in steps:
            await rig.into(rig.payload(spans))
        await until(lambda: rig.ledger.in_flight == 0)
        await rig.stop(stop_after)
        assert sum(rig.sizes) == rig.ledger.sent
        lost = sum(rig.ledger.dropped.values())
        assert rig.ledger.sent + lost == sum(steps)
        assert set(rig.ledger.dropped) <= {"permanent_error", "shutdown"}
        rig.assert_at_rest()

    asyncio.run(run())
