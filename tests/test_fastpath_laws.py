"""What holds for every request, and for any bytes, with protobuf as the oracle."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace import _fastpath
from k8strace._fastpath import Cleaning
from tests.support import wire
from tests.support.clients import recorded
from tests.support.oracle import (
    Chunks,
    agrees,
    are_good,
    between_resources,
    rows,
)
from tests.support.requests import parse

SMALL = [body for body in recorded() if len(body) < 16 * 1024]
CHUNKS = st.one_of(
    wire.chunked(),
    wire.chunked(),
    wire.chunked(),
    st.lists(st.sampled_from(SMALL), min_size=1, max_size=2).map(tuple),
)
ANY_BYTES = st.one_of(wire.requests(), wire.damaged(), st.binary(max_size=50))


LOST = "lost"

# Reading


@given(wire.requests())
def test_count_and_valid_agree_with_protobuf(body: bytes) -> None:
    spans = [span for _, _, span in rows(parse([body]))]
    good = [are_good(span) for span in spans]
    assert _fastpath.valid((body,)) == bytes(good)
    assert _fastpath.count((body,)) == (sum(good), len(good) - sum(good), 0, 0)
    assert _fastpath.valid((body,), True) == bytes(good)
    assert _fastpath.count((body,), True) == _fastpath.count((body,))
    cleaning = Cleaning((body,))
    while not cleaning.is_done:
        cleaning.run()
    assert cleaning.take() == _fastpath.keep((body,), bytes(good))
    assert all(good) or cleaning.first_lost == good.index(False)


@given(ANY_BYTES)
@example(wire.field(1, wire.field(2, wire.group(2, b""))))
@example(wire.tag(1, wire.GROUP, 1) + wire.tag(1, wire.END_GROUP))
@example(wire.group(20, wire.field(0, 1)))
def test_any_bytes_are_judged_as_by_protobuf(body: bytes) -> None:
    agrees(body)


@given(wire.requests())
def test_every_prefix_is_judged_as_by_protobuf(body: bytes) -> None:
    for end in range(len(body)):
        agrees(body[:end])


@given(st.sampled_from(recorded()), st.data())
def test_damaged_recordings_are_judged_as_by_protobuf(
    body: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    agrees(bytes(damaged))


@given(CHUNKS)
def test_chunks_are_read_like_their_whole(chunks: Chunks) -> None:
    whole = (b"".join(chunks),)
    assert _fastpath.count(chunks) == _fastpath.count(whole)
    assert _fastpath.valid(chunks) == _fastpath.valid(whole)
    assert _fastpath.fields(chunks, "trace_id") == _fastpath.fields(whole, "trace_id")


@given(wire.chunked(wire.spans()))
def test_columns_agree_with_protobuf(chunks: Chunks) -> None:
    spans = [span for _, _, span in rows(parse(chunks))]
    names = ("trace_id", "span_id", "parent_span_id", "kind", "flags")
    columns = _fastpath.fields(
        chunks, *names, "trace_state", "name", "start", "end", "status"
    )
    assert list(zip(*columns, strict=True)) == [
        (
            *(getattr(span, name) for name in names),
            *(span.trace_state.encode(), span.name.encode()),
            *(span.start_time_unix_nano, span.end_time_unix_nano, span.status.code),
        )
        for span in spans
    ]


@given(CHUNKS)
def test_service_is_that_of_the_resource(chunks: Chunks) -> None:
    services = [
        next(
            (
                pair.value.string_value.encode()
                for pair in resource_spans.resource.attributes
                if pair.key == "service.name"
            ),
            b"",
        )
        for resource_spans in parse(chunks).resource_spans
        for scope_spans in resource_spans.scope_spans
        for _ in scope_spans.spans
    ]
    assert _fastpath.fields(chunks, "service") == (services,)


# Writing


@given(CHUNKS, st.data())
def test_keep_cuts_spans_and_nothing_else(chunks: Chunks, data: st.DataObject) -> None:
    expected = []
    verdicts = b""
    for chunk in chunks:
        message = parse([chunk])
        spans = rows(message)
        chosen = [data.draw(st.booleans()) for _ in spans[:20]] + [True] * len(spans[20:])
        verdicts += bytes(chosen)
        answer = iter(chosen)
        for resource_spans in message.resource_spans:
            for scope_spans in resource_spans.scope_spans:
                left = [span for span in scope_spans.spans if next(answer)]
                lost_all = not left and len(scope_spans.spans) > 0
                del scope_spans.spans[:]
                scope_spans.spans.extend(left)
                if lost_all:
                    scope_spans.schema_url = LOST
            scopes = resource_spans.scope_spans
            left_scopes = [one for one in scopes if one.schema_url != LOST]
            lost_all = len(left_scopes) < len(scopes) and not any(
                one.spans for one in left_scopes
            )
            del resource_spans.scope_spans[:]
            resource_spans.scope_spans.extend(left_scopes)
            if lost_all:
                resource_spans.schema_url = LOST
        left_resources = [one for one in message.resource_spans if one.schema_url != LOST]
        del message.resource_spans[:]
        message.resource_spans.extend(left_resources)
        expected.append(parse([chunk]) if all(chosen) else message)
    kept, number = _fastpath.keep(chunks, verdicts)
    assert number == sum(verdicts)
    merged = ExportTraceServiceRequest()
    for message in expected:
        merged.MergeFrom(message)
    assert parse(kept) == merged
    if all(verdicts):
        assert kept is chunks


@given(CHUNKS, st.integers(0, 5), st.integers(0, 400))
def test_pieces_are_the_request(chunks: Chunks, max_spans: int, max_bytes: int) -> None:
    pieces = _fastpath.split(chunks, max_spans, max_bytes)
    before = rows(parse(chunks))
    after = []
    for some, spans, size in pieces:
        assert size == sum(map(len, some))
        assert _fastpath.count(some).spans == spans
        assert not max_spans or spans <= max_spans
        # Fields between resources that have no span behind them go with the last piece.
        assert not max_bytes or size <= max_bytes or spans <= 1 or some is pieces[-1][0]
        after += rows(parse(some))
    assert after == before
    if before:
        assert b"".join(between_resources(some) for some, _, _ in pieces) == (
            between_resources(chunks)
        )


@given(CHUNKS)
def test_traces_are_the_request(chunks: Chunks) -> None:
    groups = _fastpath.group_by_trace(chunks)
    before = rows(parse(chunks))
    traces = list(dict.fromkeys(span.trace_id for _, _, span in before))
    assert [trace for trace, _, _ in groups] == traces
    for trace, some, spans in groups:
        mine = [row for row in before if row[2].trace_id == trace]
        assert rows(parse(some)) == mine
        assert spans == len(mine)
    if before:
        assert b"".join(between_resources(some) for _, some, _ in groups) == (
            between_resources(chunks)
        )


@given(CHUNKS, st.data())
def test_cutting_twice_is_cutting_once(chunks: Chunks, data: st.DataObject) -> None:
    spans = _fastpath.count(chunks).spans
    first = data.draw(st.binary(min_size=min(spans, 30), max_size=min(spans, 30)))
    first = first.ljust(spans, b"\1")
    once, left = _fastpath.keep(chunks, first)
    second = bytes(index % 3 != 0 for index in range(left))
    ordinals = [number - 1 for number in accumulate(bool(verdict) for verdict in first)]
    both = bytes(
        verdict and second[ordinal]
        for verdict, ordinal in zip(first, ordinals, strict=True)
    )
    assert parse(_fastpath.keep(once, second)[0]) == parse(_fastpath.keep(chunks, both)[0])


@given(
    st.lists(wire.good_spans(), min_size=1, max_size=5),
    st.lists(wire.unknown_fields(), max_size=2).map(b"".join),
    st.data(),
)
def test_what_is_kept_is_kept_byte_for_byte(
    spans: list[bytes], unknown: bytes, data: st.DataObject
) -> None:
    """Unknown fields, odd orders and encodings of a span are its sender's."""
    chosen = [data.draw(st.booleans()) for _ in spans]
    left = [span for span, yes in zip(spans, chosen, strict=True) if yes]
    kept, _ = _fastpath.keep((wire.request(*spans, scope=unknown),), bytes(chosen))
    assert kept == ((wire.request(*left, scope=unknown),) if left else ())


@given(CHUNKS, st.integers(1, 5))
def test_pieces_joined_are_the_request_again(chunks: Chunks, max_spans: int) -> None:
    pieces = _fastpath.split(chunks, max_spans)
    joined = tuple(chunk for some, _, _ in pieces for chunk in some)
    assert rows(parse(joined)) == rows(parse(chunks))
    assert _fastpath.valid(joined) == _fastpath.valid(chunks)
