from __future__ import annotations

import asyncio
import random
import struct
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.budget import Budget, Lease
from k8strace.component import Promise
from k8strace.edges import Edge
from k8strace.errors import ConfigError, RefusedError, RejectedError
from k8strace.metrics import Metrics
from k8strace.payload import Origin, Payload
from k8strace.processors.batch import Batch
from k8strace.processors.batch import Config as BatchConfig
from k8strace.processors.probabilistic_sampler import Config, ProbabilisticSampler
from k8strace.units import Duration
from tests.support.pipeline import (
    MIB,
    Drive,
    Sink,
    assert_at_rest,
    both_drivers,
    cancel,
    configured,
    context,
    edge_to,
    failure,
    until,
)
from tests.support.requests import parse, request, span_ids

ZERO = bytes(16)
SEED = 4312


class Rig:
    def __init__(self, promise: Promise = Promise.DELIVERED, **config: Any) -> None:
        self.metrics = Metrics()
        self.budget = Budget(64 * MIB)
        self.sink = Sink(context("exporters", "sink", metrics=self.metrics))
        self.sink.promised = promise
        ctx = context(
            "processors", "probabilistic_sampler", metrics=self.metrics, budget=self.budget
        )
        self.sampler = ProbabilisticSampler(
            Config(**config), ctx, Edge(ctx.ledger, self.sink)
        )
        self.ledger = self.sampler.ledger
        self.into, self.source = edge_to(self.sampler)

    def payload(self, message: ExportTraceServiceRequest) -> Payload:
        body = message.SerializeToString()
        lease = self.budget.lease(len(body), "peer")
        return Payload(
            (body,), len(span_ids(message)), len(body), Origin("peer"), (), lease
        )

    async def sampled(self, message: ExportTraceServiceRequest) -> list[Any]:
        """The spans that are left of `message`."""
        await self.into(self.payload(message))
        payloads, self.sink.payloads = self.sink.payloads, []
        return [
            span
            for payload in payloads
            for resource_spans in parse(payload.chunks).resource_spans
            for scope_spans in resource_spans.scope_spans
            for span in scope_spans.spans
        ]

    def counts(self) -> dict[tuple[str, str], float]:
        """Spans by policy and outcome, as the metric shows them."""
        name = "otelcol_processor_probabilistic_sampler_count_traces_sampled_total"
        return {
            (sample.labels["policy"], sample.labels["sampled"]): sample.value
            for family in self.metrics.collect()
            for sample in family.samples
            if sample.name == name and sample.value
        }

    def assert_at_rest(self) -> None:
        assert_at_rest(self.ledger)
        self.sink.payloads.clear()
        assert self.budget.used == 0


def one_span(
    trace_id: bytes, state: str = "", priority: object = None
) -> ExportTraceServiceRequest:
    message = request(1, trace_ids=[trace_id])
    span = message.resource_spans[0].scope_spans[0].spans[0]
    span.trace_state = state
    if priority is not None:
        value = span.attributes.add(key="sampling.priority").value
        if isinstance(priority, int):
            value.int_value = priority
        elif isinstance(priority, float):
            value.double_value = priority
        else:
            value.string_value = str(priority)
    return message


def hash14(trace_id: bytes, seed: int) -> int:
    """FNV-1a, 32 bits, of the seed and the trace id; the lowest 14 bits."""
    state = 0x811C9DC5
    for byte in struct.pack("<I", seed) + trace_id:
        state = (state ^ byte) * 0x01000193 & 0xFFFFFFFF
    return state & 0x3FFF


def float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


# Configuration


def test_defaults_are_the_collectors() -> None:
    config = configured(ProbabilisticSampler, {})
    assert config == Config()
    assert config.sampling_percentage == 0
    assert (config.mode, config.hash_seed) == ("hash_seed", 0)
    assert config.fail_closed
    assert config.sampling_precision == 4


def test_what_is_for_logs_has_no_effect() -> None:
    config = configured(
        ProbabilisticSampler,
        {
            "sampling_percentage": 15.3,
            "attribute_source": "record",
            "from_attribute": "foo",
            "sampling_priority": "bar",
        },
    )
    assert config.sampling_percentage == 15.3


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"sampling_percentage": -1}, "sampling_percentage"),
        ({"sampling_percentage": float("inf")}, "sampling_percentage"),
        ({"sampling_percentage": float("nan")}, "sampling_percentage"),
        ({"sampling_percentage": 1e-16}, "too small"),
        ({"sampling_precision": 0}, "sampling_precision"),
        ({"sampling_precision": 15}, "sampling_precision"),
        ({"hash_seed": -1}, "hash_seed"),
        ({"hash_seed": 2**32}, "hash_seed"),
        ({"mode": "random"}, "mode"),
        ({"attribute_source": "span"}, "attribute_source"),
        ({"sampling_percent": 1}, "sampling_percent"),
    ],
)
def test_mistakes(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        configured(ProbabilisticSampler, values)


@pytest.mark.parametrize("mode", ["proportional", "equalizing", "hash_seed"])
async def test_modes_that_do_not_fit_kubernetes_are_told(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    await Rig(mode=mode, sampling_percentage=50).sampler.start()
    assert ("samplingRatePerMillion" in caplog.text) == (mode != "hash_seed")


# Decisions: the collector's


@pytest.mark.parametrize("percentage", [0.03, 5, 13.33, 33.3333, 50, 90])
@pytest.mark.parametrize("seed", [0, SEED])
async def test_hash_seed_decides_as_the_collector(percentage: float, seed: int) -> None:
    ids = [random.Random(number).randbytes(16) for number in range(2000)]
    limit = int(float32(float32(percentage) * float32(0x4000 / 100.0)))
    rig = Rig(sampling_percentage=percentage, hash_seed=seed)
    kept = await rig.sampled(request(len(ids), trace_ids=ids, attributes=0))
    assert [span.trace_id for span in kept] == [i for i in ids if hash14(i, seed) < limit]
    assert rig.ledger.sampled_out == len(ids) - len(kept)
    rig.assert_at_rest()


def test_the_hash_is_the_collectors() -> None:
    """Its own tests give these two values."""
    assert hash14(b"", 0) == 0x3515
    assert hash14(ZERO, 0) == 0x2455


@pytest.mark.parametrize(
    ("percentage", "threshold"),
    [(100, "0"), (75, "4"), (50, "8"), (25, "c"), (10, "e668"), (100 / 3, "aaac")],
)
async def test_hash_seed_writes_threshold_and_randomness(
    percentage: float, threshold: str
) -> None:
    ids = [random.Random(number).randbytes(16) for number in range(100)]
    rig = Rig(sampling_percentage=percentage, hash_seed=SEED)
    kept = await rig.sampled(request(len(ids), trace_ids=ids))
    assert kept
    for span in kept:
        fields = dict(
            field.split(":") for field in span.trace_state.removeprefix("ot=").split(";")
        )
        assert fields["th"] == threshold
        assert int(fields["rv"], 16) >= int(fields["th"].ljust(14, "0"), 16)
        assert int(fields["rv"], 16) >> 42 == 0x3FFF - hash14(span.trace_id, SEED)


HALF = bytes.fromhex("fefefefefefefefefe80000000000000")  # kept at 50 %, not at 49 %
ALWAYS = b"\xff" * 16


@pytest.mark.parametrize(
    ("trace_id", "state", "percentage", "precision", "equalizing", "proportional"),
    [
        (HALF, "", 100, 4, "ot=th:0", "ot=th:0"),
        (HALF, "", 200, 4, "ot=th:0", "ot=th:0"),
        (HALF, "", 50, 4, "ot=th:8", "ot=th:8"),
        (HALF, "", 49, 4, None, None),
        ("ddddddddddddddddddc0000000000000", "", 25, 4, "ot=th:c", "ot=th:c"),
        ("ddddddddddddddddddb0000000000000", "", 25, 4, None, None),
        ("a0a0a0a0a0a0a0a0a0fe000000000000", "", 1, 4, "ot=th:fd70a", "ot=th:fd70a"),
        # Randomness of its own
        (HALF, "ot=rv:FD70A3D70A3D71", 1, 3, None, None),
        (
            HALF,
            "ot=rv:FD70A3D70A3D71",
            1,
            4,
            "ot=rv:FD70A3D70A3D71;th:fd70a",
            "ot=rv:FD70A3D70A3D71;th:fd70a",
        ),
        (
            HALF,
            "ot=rv:a0000000000000",
            40,
            3,
            "ot=rv:a0000000000000;th:99a",
            "ot=rv:a0000000000000;th:99a",
        ),
        # Sampled before
        (
            HALF,
            "ot=rv:90000000000000;th:80000000000000",
            50,
            4,
            "ot=rv:90000000000000;th:8",
            None,
        ),
        (
            HALF,
            "ot=rv:c0000000000000;th:8",
            50,
            4,
            "ot=rv:c0000000000000;th:8",
            "ot=rv:c0000000000000;th:c",
        ),
        (HALF, "ot=th:8", 25, 4, None, None),
        (ALWAYS, "ot=th:8", 25, 4, "ot=th:c", "ot=th:e"),
        (
            "a0a0a0a0a0a0a0a0a0d0000000000000",
            "ot=th:8",
            40,
            6,
            "ot=th:99999a",
            "ot=th:cccccd",
        ),
        ("a0a0a0a0a0a0a0a0a0b0000000000000", "ot=th:8", 40, 3, "ot=th:99a", None),
        ("a0a0a0a0a0a0a0a0a080000000000000", "ot=th:8", 40, 3, None, None),
        (ALWAYS, "ot=th:fffc", 100 * 2.0**-14, 4, "ot=th:fffc", "ot=th:fffffff"),
    ],
)
async def test_consistent_modes_decide_and_write_as_the_collector(
    trace_id: bytes | str,
    state: str,
    percentage: float,
    precision: int,
    equalizing: str | None,
    proportional: str | None,
) -> None:
    if isinstance(trace_id, str):
        trace_id = bytes.fromhex(trace_id)
    for mode, expected in (("equalizing", equalizing), ("proportional", proportional)):
        rig = Rig(mode=mode, sampling_percentage=percentage, sampling_precision=precision)
        kept = await rig.sampled(one_span(trace_id, state))
        assert [span.trace_state for span in kept] == (
            [] if expected is None else [expected]
        )
        rig.assert_at_rest()


@pytest.mark.parametrize("mode", ["hash_seed", "proportional", "equalizing"])
@pytest.mark.parametrize(
    ("priority", "percentage", "kept"),
    [
        (2, 0, True),
        (1.0, 0, True),
        ("1", 0, True),
        ("0.5", 0, True),
        (0, 100, False),
        (0.0, 100, False),
        ("0", 100, False),
        (-1, 100, True),
        (-1, 0, False),
        ("NaN", 100, True),
        ("NaN", 0, False),
        ("high", 0, False),
    ],
)
async def test_sampling_priority(
    mode: str, priority: object, percentage: float, kept: bool
) -> None:
    rig = Rig(mode=mode, sampling_percentage=percentage, hash_seed=SEED)
    spans = await rig.sampled(one_span(HALF, priority=priority))
    assert len(spans) == kept
    assert rig.ledger.sampled_out == (not kept)
    rig.assert_at_rest()


# What cannot be decided


BAD_STATES = [
    (ZERO, ""),
    (HALF, "ot=rv:abababababababab"),
    (HALF, "ot=th:abababababababab"),
    (HALF, "ot=th:-1"),
    (bytes.fromhex("ffffffffffffffffff70000000000000"), "ot=th:8"),
    (HALF, "ot=th:8;rv:70000000000000"),
]


@both_drivers
@pytest.mark.parametrize(("trace_id", "state"), BAD_STATES)
@pytest.mark.parametrize("mode", ["proportional", "equalizing"])
async def test_fail_closed_drops_what_cannot_be_decided(
    drive: Drive, mode: str, trace_id: bytes, state: str
) -> None:
    rig = Rig(mode=mode, sampling_percentage=100)
    await drive(rig.into(rig.payload(one_span(trace_id, state))))
    assert rig.sink.calls == 0
    assert rig.ledger.dropped == {"sampling_error": 1}
    assert rig.ledger.sampled_out == 0
    assert sum(rig.counts().values()) == 1
    rig.assert_at_rest()


@pytest.mark.parametrize(("trace_id", "state"), BAD_STATES)
@pytest.mark.parametrize("mode", ["proportional", "equalizing"])
async def test_fail_open_keeps_it(mode: str, trace_id: bytes, state: str) -> None:
    rig = Rig(mode=mode, sampling_percentage=100, fail_closed=False)
    assert len(await rig.sampled(one_span(trace_id, state))) == 1
    assert rig.ledger.dropped == {}
    rig.assert_at_rest()


# Tiers, one behind the other


@pytest.mark.parametrize("first", ["hash_seed", "proportional", "equalizing"])
async def test_a_hash_behind_another_tier_says_what_to_do(
    first: str, caplog: pytest.LogCaptureFixture
) -> None:
    front = Rig(mode=first, sampling_percentage=50, hash_seed=1)
    behind = Rig(mode="hash_seed", sampling_percentage=50, hash_seed=2)
    message = request(100, trace_ids=[random.Random(n).randbytes(16) for n in range(100)])
    passed = await front.sampled(message)
    assert passed
    again = ExportTraceServiceRequest()
    again.resource_spans.add().scope_spans.add().spans.extend(passed)
    assert await behind.sampled(again) == []
    assert behind.ledger.dropped == {"sampling_error": len(passed)}
    (line,) = caplog.messages
    assert "another tier, or an SDK, sampled them before" in line
    assert "set mode: proportional or equalizing here" in line


@pytest.mark.parametrize("first", ["hash_seed", "proportional", "equalizing"])
@pytest.mark.parametrize(("mode", "share"), [("proportional", 0.25), ("equalizing", 0.5)])
async def test_consistent_modes_sample_behind_any(
    first: str, mode: str, share: float
) -> None:
    front = Rig(mode=first, sampling_percentage=50, hash_seed=1)
    behind = Rig(mode=mode, sampling_percentage=50)
    message = request(4000, trace_ids=[random.Random(n).randbytes(16) for n in range(4000)])
    again = ExportTraceServiceRequest()
    again.resource_spans.add().scope_spans.add().spans.extend(await front.sampled(message))
    kept = await behind.sampled(again)
    assert behind.ledger.dropped == {}
    assert abs(len(kept) / 4000 - share) < 0.05
    threshold = f"th:{'c' if share == 0.25 else '8'}"
    assert all(threshold in one.trace_state for one in kept)


# What is counted, and when


async def test_counts_by_policy() -> None:
    rig = Rig(sampling_percentage=50, hash_seed=SEED)
    kept = await rig.sampled(
        request(100, trace_ids=[bytes([1, *[n] * 15]) for n in range(100)])
    )
    await rig.sampled(one_span(HALF, priority=1))
    await rig.sampled(one_span(HALF, priority=0))
    assert rig.counts() == {
        ("trace_id_hash", "true"): len(kept),
        ("trace_id_hash", "false"): 100 - len(kept),
        ("sampling_priority", "true"): 1,
        ("sampling_priority", "false"): 1,
    }
    rig = Rig(mode="proportional", sampling_percentage=50)
    await rig.sampled(one_span(HALF))
    await rig.sampled(one_span(HALF, "ot=rv:00000000000001"))
    await rig.sampled(one_span(ZERO))
    assert rig.counts() == {
        ("trace_id_w3c", "true"): 1,
        ("sampling_randomness", "false"): 1,
        ("missing_randomness", "false"): 1,
    }


@both_drivers
@pytest.mark.parametrize(
    ("error", "refused", "rejected"), [(RefusedError, 10, 0), (RejectedError, 0, 10)]
)
async def test_what_was_not_taken_counts_as_nothing_else(
    drive: Drive, error: type[Exception], refused: int, rejected: int
) -> None:
    rig = Rig(sampling_percentage=50)
    message = request(10, trace_ids=[bytes([1, *[n] * 15]) for n in range(10)])
    rig.sink.failures = [error("no")]
    caught = await failure(drive(rig.into(rig.payload(message))))
    assert isinstance(caught, error)
    assert (rig.ledger.refused, rig.ledger.rejected) == (refused, rejected)
    assert rig.ledger.sampled_out == 0
    assert rig.counts() == {}
    await drive(rig.into(rig.payload(message)))
    assert rig.ledger.sampled_out + rig.ledger.sent == 10
    rig.assert_at_rest()


@both_drivers
async def test_a_sender_that_goes_away(drive: Drive) -> None:
    rig = Rig(sampling_percentage=100)
    rig.sink.gate = asyncio.Event()
    gone = asyncio.ensure_future(drive(rig.into(rig.payload(request(3)))))
    await until(lambda: rig.sink.calls == 1)
    await cancel(gone)
    del gone
    assert rig.ledger.refused == 3
    assert rig.counts() == {}
    rig.assert_at_rest()


@both_drivers
async def test_a_request_of_which_nothing_is_left(drive: Drive) -> None:
    rig = Rig(sampling_percentage=0)
    await drive(rig.into(rig.payload(request(5))))
    assert rig.sink.calls == 0
    assert rig.ledger.sampled_out == 5
    assert rig.source.sent == 5
    rig.assert_at_rest()


async def test_what_is_kept_holds_only_its_own_bytes() -> None:
    rig = Rig(sampling_percentage=10)
    before = rig.payload(request(200))
    await rig.into(before)
    after = rig.sink.payloads[0]
    assert after.spans == rig.ledger.sent
    assert after.size < before.size
    assert after.origin == before.origin
    del before
    assert rig.budget.used == after.size
    del after
    rig.assert_at_rest()


async def test_a_second_pass_changes_nothing() -> None:
    rig = Rig(mode="equalizing", sampling_percentage=50)
    await rig.into(rig.payload(request(50, trace_ids=[HALF] * 50)))
    first = rig.sink.payloads.pop()
    await rig.into(first)
    assert rig.sink.payloads == [first]
    del first
    rig.assert_at_rest()


def test_it_asks_who_stands_behind_it() -> None:
    rig = Rig()
    assert rig.sampler.promise == Promise.DELIVERED
    assert rig.sampler.blocked_by(Payload((), 0, 0)) is None


# Behind a batch, whose senders were told that it is taken


@pytest.mark.parametrize("full", ["budget", "share"])
async def test_what_was_taken_goes_on_where_there_is_no_room(full: str) -> None:
    """Or what fills the budget would wait for ever for room to leave it."""
    rig = Rig(sampling_percentage=50, mode="hash_seed")
    message = request(400)
    taken = msgspec.structs.replace(rig.payload(message), is_taken=True)
    budget = rig.budget
    others = [Lease(budget, 100, f"other {number}") for number in range(7)]
    if full == "budget":
        others.append(Lease(budget, budget.limit - budget.used, "other 0"))
    else:
        others.append(Lease(budget, budget.share("peer") - budget.held("peer"), "peer"))
    assert budget.lease(taken.size // 2, "peer") is None
    refused = await failure(rig.into(msgspec.structs.replace(taken, is_taken=False)))
    assert isinstance(refused, RefusedError)
    await rig.into(taken)
    assert 0 < rig.sink.spans < 400
    assert rig.sink.spans + rig.ledger.sampled_out == 400
    del taken
    others.clear()
    assert rig.sink.payloads[0].is_taken
    assert budget.used == rig.sink.payloads[0].size
    rig.sink.payloads.clear()
    assert budget.used == 0


async def test_one_at_a_time_goes_past_the_limit() -> None:
    rig = Rig(sampling_percentage=50, mode="hash_seed")
    taken = msgspec.structs.replace(rig.payload(request(400)), is_taken=True)
    budget = rig.budget
    rest = Lease(budget, budget.limit - budget.used, "other")
    await rig.into(taken)
    past = budget.used
    assert past > budget.limit
    assert isinstance(await failure(rig.into(taken)), RefusedError)
    assert budget.used == past
    rig.sink.payloads.clear()
    await rig.into(taken)
    del rest


async def test_a_batch_in_front_says_that_it_is_taken() -> None:
    rig = Rig(Promise.MEMORY, sampling_percentage=50, mode="hash_seed")
    ctx = context("processors", "batch", metrics=rig.metrics, budget=rig.budget)
    config = BatchConfig(timeout=Duration(3600), send_batch_size=800)
    batch = Batch(config, ctx, Edge(ctx.ledger, rig.sampler))
    into, _ = edge_to(batch)
    for _ in range(2):
        await into(rig.payload(request(400)))
    assert [one.is_taken for one in rig.sink.payloads] == [True]
