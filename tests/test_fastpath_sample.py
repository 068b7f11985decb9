"""What `sample` decides and writes, with the collector's own answers as the oracle."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from k8strace import _fastpath
from k8strace._fastpath import CAUSES, EQUALIZING, HASH_SEED, POLICIES, PROPORTIONAL
from tests.support import wire
from tests.support.clients import recorded
from tests.support.requests import parse
from tests.support.requests import request as made
from tests.support.wire import field, span

MODES = {
    "hash_seed": HASH_SEED,
    "proportional": PROPORTIONAL,
    "equalizing": EQUALIZING,
}
ALL_MODES = st.sampled_from(list(MODES.values()))
PERCENTAGES = st.sampled_from((0.0, 0.01, 5.0, 33.3, 50.0, 99.0, 100.0, 1000.0))
FAIR = b"\1" * 8 + b"\xff" * 8  # a trace id that consistent sampling keeps first


@cache
def answers() -> dict[str, Any]:
    file = Path(__file__).parent / "data" / "sampling.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def spans_of(chunks: tuple[bytes, ...]) -> list[Span]:
    return [
        one
        for resource_spans in parse(chunks).resource_spans
        for scope_spans in resource_spans.scope_spans
        for one in scope_spans.spans
    ]


def sampled(
    *spans: bytes,
    mode: int = EQUALIZING,
    percentage: float = 50.0,
    fail_closed: bool = True,
) -> _fastpath.Sampled:
    """Spans of these contents, sampled."""
    chunks = (wire.request(*spans),)
    return _fastpath.sample(chunks, mode, percentage, 0, 4, fail_closed)


def priority(value: bytes, key: bytes = b"sampling.priority") -> bytes:
    """An attribute of this AnyValue."""
    return field(9, field(1, key) + field(2, value))


def tracestate(text: str) -> bytes:
    return field(3, text.encode())


@pytest.mark.parametrize("number", range(len(answers()["cases"])))
def test_decisions_and_tracestates_are_the_collectors(number: int) -> None:
    case = answers()["cases"][number]
    message = ExportTraceServiceRequest()
    scope_spans = message.resource_spans.add().scope_spans.add()
    for index, (trace_id, state, kind, value, _) in enumerate(case["spans"]):
        one = scope_spans.spans.add(trace_id=bytes.fromhex(trace_id), trace_state=state)
        one.span_id = (index + 1).to_bytes(8, "big")
        if kind is not None:
            pair = one.attributes.add(key="sampling.priority")
            setattr(pair.value, f"{kind}_value", value)
    done = _fastpath.sample(
        (message.SerializeToString(),),
        MODES[case["mode"]],
        *(case["percentage"], case["hash_seed"], case["precision"], case["fail_closed"]),
    )
    written = {one.span_id: one.trace_state for one in spans_of(done.chunks)}
    expected = {
        (index + 1).to_bytes(8, "big"): answer
        for index, (*_, answer) in enumerate(case["spans"])
        if answer is not None
    }
    assert written == expected
    assert done.kept == len(expected) == sum(done.kept_by)
    assert done.sampled_out + done.rejected == sum(done.out_by)
    assert sum(done.kept_by) + sum(done.out_by) == len(case["spans"])


@pytest.mark.parametrize(("text", "says"), answers()["numbers"])
def test_priority_texts_are_read_as_go_reads_them(text: str, says: str) -> None:
    done = sampled(span(more=priority(field(1, text.encode()))))
    assert done.kept_by_priority == (says == "keep")
    assert done.out_by_priority == (says == "drop")


@pytest.mark.parametrize(
    ("attributes", "kept", "out"),
    [
        (priority(field(3, 1)), 1, 0),
        (priority(field(3, 0)), 0, 1),
        (priority(field(3, 2**64 - 1)), 0, 0),
        (priority(wire.tag(4, wire.FIXED64) + bytes(8)), 0, 1),
        (priority(field(2, 1)), 0, 0),
        (priority(b""), 0, 0),
        (priority(field(3, 1), b"sampling.prioritx"), 0, 0),
        (priority(field(3, 1), b"sampling.priority "), 0, 0),
        # Of several attributes the first counts, of one's several values the last.
        (priority(field(3, 1)) + priority(field(3, 0)), 1, 0),
        (priority(field(3, 1) + field(3, 0)), 0, 1),
        (priority(field(3, 1) + field(1, b"0")), 0, 1),
        (priority(field(3, 1) + field(2, 0)), 0, 0),
        (
            field(9, field(2, field(3, 1)) + field(1, b"sampling.priority")),
            1,
            0,
        ),
        (
            field(9, field(1, b"other") + field(2, field(3, 1)) * 2)
            + field(9, field(1, b"x") + field(1, b"sampling.priority") + field(2, b"")),
            0,
            0,
        ),
        (
            field(
                9, field(1, b"x") + field(1, b"sampling.priority") + field(2, field(3, 1))
            ),
            1,
            0,
        ),
        (
            field(9, field(1, b"sampling.priority") + field(2, field(3, 1)) + field(3, 1)),
            1,
            0,
        ),
        (field(9, b"\x0a\x11sampling"), 0, 0),
        (priority(field(1, b"1" * 300)), 0, 0),
    ],
)
def test_priority_is_the_attribute_that_protobuf_reads(
    attributes: bytes, kept: int, out: int
) -> None:
    done = sampled(span(more=attributes))
    assert (done.kept_by_priority, done.out_by_priority) == (kept, out)


def test_a_new_tracestate_goes_to_the_end_or_where_the_last_one_was() -> None:
    name = field(5, b"Get")
    (chunk,) = sampled(span(trace_id=FAIR, more=name)).chunks
    assert chunk == wire.request(span(trace_id=FAIR, more=name + tracestate("ot=th:8")))
    before = tracestate("ot=th:4") + tracestate("a=1,ot=p:2,b=3") + name
    (chunk,) = sampled(span(trace_id=FAIR, more=before)).chunks
    after = tracestate("ot=th:4") + tracestate("ot=th:8;p:2,a=1,b=3") + name
    assert chunk == wire.request(span(trace_id=FAIR, more=after))


def test_a_tracestate_that_says_it_already_is_left_as_it_stands() -> None:
    chunks = (wire.request(span(trace_id=FAIR, more=tracestate("ot=th:8,a=1"))),)
    done = _fastpath.sample(chunks, EQUALIZING, 50.0, 0, 4, True)
    assert done.chunks is chunks
    assert done.kept == 1


def test_undecidable_spans_are_rejected_or_kept_as_they_are() -> None:
    spans = (
        span(trace_id=bytes(16)),
        span(trace_id=FAIR[:15]),
        span(trace_id=FAIR, more=tracestate("ot=th:nonsense")),
        span(trace_id=FAIR, more=tracestate("=")),
    )
    closed = sampled(*spans)
    assert (closed.kept, closed.sampled_out, closed.rejected) == (0, 0, 4)
    assert dict(zip(CAUSES, closed.rejected_by, strict=True)) == {
        "no_trace_id": 2,
        "bad_tracestate": 2,
        "sampled_before": 0,
        "wrong_threshold": 0,
    }
    assert closed.chunks == ()
    opened = sampled(*spans, fail_closed=False)
    assert (opened.kept, opened.rejected) == (4, 0)
    assert opened.rejected_by == (0, 0, 0, 0)
    assert [one.trace_state for one in spans_of(opened.chunks)] == [
        "ot=th:0",
        "ot=th:0",
        "ot=th:nonsense",
        "=",
    ]
    assert dict(zip(POLICIES, opened.kept_by, strict=True))["missing_randomness"] == 4


@pytest.mark.parametrize(
    "state", ["ot=th:8", "ot=rv:ffffffffffffff", "ot=th:0;rv:0f" + "f" * 12]
)
def test_a_hash_does_not_sample_again(state: str) -> None:
    done = sampled(span(trace_id=FAIR, more=tracestate(state)), mode=HASH_SEED)
    assert done.rejected_by == (0, 0, 1, 0)


def test_a_threshold_that_should_have_dropped_the_span() -> None:
    done = sampled(span(trace_id=FAIR, more=tracestate("ot=th:8;rv:" + "0" * 14)))
    assert done.rejected_by == (0, 0, 0, 1)


def test_policies_name_what_decided() -> None:
    done = sampled(
        span(trace_id=FAIR),
        span(trace_id=FAIR, more=tracestate("ot=rv:00000000000000")),
        span(trace_id=FAIR, more=priority(field(3, 1))),
        span(trace_id=FAIR, more=priority(field(3, 0))),
        span(trace_id=bytes(16)),
    )
    assert dict(zip(POLICIES, done.kept_by, strict=True)) == {
        "trace_id_hash": 0,
        "trace_id_w3c": 1,
        "sampling_randomness": 0,
        "sampling_priority": 1,
        "missing_randomness": 0,
    }
    assert done.out_by == (0, 0, 1, 1, 1)
    assert (done.kept, done.sampled_out, done.rejected) == (2, 2, 1)
    hashed = sampled(span(), mode=HASH_SEED, percentage=100.0)
    assert hashed.kept_by == (1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((3, 50.0, 0, 4), ValueError),
        ((-1, 50.0, 0, 4), ValueError),
        ((0, -0.1, 0, 4), ValueError),
        ((0, float("nan"), 0, 4), ValueError),
        ((0, 50.0, 0, 0), ValueError),
        ((0, 50.0, 0, 15), ValueError),
        ((0, 50.0, -1, 4), OverflowError),
        ((0, 50.0, 2**32, 4), OverflowError),
    ],
)
def test_arguments_out_of_range_are_refused(
    arguments: tuple[int, float, int, int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        _fastpath.sample((), *arguments, True)


@pytest.mark.parametrize("mode", MODES.values())
def test_percentages_are_kept(mode: int) -> None:
    """Of as many traces as there are here, within 5 standard deviations."""
    traces = [
        index * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128 for index in range(1, 4001)
    ]
    ids = [trace.to_bytes(16, "big") for trace in traces]
    chunks = (made(4000, attributes=0, trace_ids=ids).SerializeToString(),)
    for percentage in (1.0, 15.0, 50.0, 90.0):
        share = percentage / 100
        spread = 5 * (4000 * share * (1 - share)) ** 0.5
        done = _fastpath.sample(chunks, mode, percentage, 22, 4, True)
        assert abs(done.kept - 4000 * share) < spread


@given(wire.chunked(), ALL_MODES, PERCENTAGES, st.booleans())
def test_kept_spans_change_in_their_tracestate_alone(
    chunks: tuple[bytes, ...], mode: int, percentage: float, fail_closed: bool
) -> None:
    done = _fastpath.sample(chunks, mode, percentage, 7, 4, fail_closed)
    before = spans_of(chunks)
    assert done.kept + done.sampled_out + done.rejected == len(before)
    after = spans_of(done.chunks)
    assert len(after) == done.kept
    for one in (*before, *after):
        one.ClearField("trace_state")
    rest = iter(before)
    assert all(any(one == other for other in rest) for one in after)


@given(wire.chunked(), ALL_MODES, PERCENTAGES)
def test_a_chunk_is_sampled_as_if_it_were_alone(
    chunks: tuple[bytes, ...], mode: int, percentage: float
) -> None:
    together = _fastpath.sample(chunks, mode, percentage, 7, 4, True)
    alone = [_fastpath.sample((chunk,), mode, percentage, 7, 4, True) for chunk in chunks]
    assert b"".join(together.chunks) == b"".join(c for one in alone for c in one.chunks)
    assert together.kept == sum(one.kept for one in alone)


@given(wire.chunked(), st.sampled_from((EQUALIZING, PROPORTIONAL)), PERCENTAGES)
def test_equalizing_what_was_sampled_changes_nothing(
    chunks: tuple[bytes, ...], mode: int, percentage: float
) -> None:
    once = _fastpath.sample(chunks, mode, percentage, 0, 4, True)
    again = _fastpath.sample(once.chunks, EQUALIZING, percentage, 0, 4, True)
    assert parse(again.chunks) == parse(once.chunks)


@pytest.mark.parametrize("mode", MODES.values())
@pytest.mark.parametrize("percentage", [5.0, 50.0, 100.0])
def test_recorded_traces_stay_whole(mode: int, percentage: float) -> None:
    bodies = tuple(recorded())
    done = _fastpath.sample(bodies, mode, percentage, 22, 4, True)
    spans = _fastpath.fields(bodies, "trace_id")[0]
    kept = _fastpath.fields(done.chunks, "trace_id")[0]
    # Sent spans have no ot=, so that nothing but the trace id decides.
    assert done.rejected == 0
    assert kept == [trace for trace in spans if trace in set(kept)]
    if percentage >= 100:
        assert len(kept) == len(spans)
