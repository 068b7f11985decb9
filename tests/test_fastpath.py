"""What each operation does, case by case; `test_fastpath_laws` has what always holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from k8strace import _fastpath
from k8strace.errors import MalformedPayloadError
from tests.support.clients import recorded
from tests.support.requests import parse, request, span_ids
from tests.support.wire import field, group, span, tag, varint
from tests.support.wire import request as written

MIB = 1024 * 1024


def ids(chunks: tuple[bytes, ...]) -> list[bytes]:
    return span_ids(parse(chunks))


def nested(depth: int) -> bytes:
    """An AnyValue of arrays in arrays; it lies `depth` messages deep when complete."""
    value = field(1, b"deep")
    for _ in range(depth):
        value = field(5, field(1, value))
    return value


# count and valid


@pytest.mark.parametrize("chunks", [(), (b"",), (b"", b"")])
def test_nothing_has_no_spans(chunks: tuple[bytes, ...]) -> None:
    assert _fastpath.count(chunks) == (0, 0, 0, 0)
    assert _fastpath.valid(chunks) == b""
    assert _fastpath.keep(chunks, b"") == (chunks, 0)
    assert _fastpath.group_by_trace(chunks) == []
    assert _fastpath.split(chunks, 1, 1) == [(chunks, 0, 0)]
    assert _fastpath.fields(chunks, "name", "service") == ([], [])


@pytest.mark.parametrize(
    ("content", "good"),
    [
        (span(), True),
        (span(more=field(4, b"p" * 8)), True),
        (span(more=field(4, b"")), True),
        (span(more=field(1, b"")), False),  # the last of several counts
        (field(1, b"short") + span(), True),
        (span(trace_id=b"t" * 15), False),
        (span(trace_id=b"t" * 17), False),
        (span(trace_id=b"\0" * 16), False),
        (span(trace_id=b"\0" * 15 + b"\1"), True),
        (span(span_id=b"s" * 7), False),
        (span(span_id=b"\0" * 8), False),
        (span(more=field(4, b"p" * 7)), False),
        (field(1, b"t" * 16), False),
        (field(2, b"s" * 8), False),
        (b"", False),
        (tag(1, 1) + b"t" * 8 + span(), True),  # another wire type is another field
    ],
)
def test_ids_of_a_span(content: bytes, good: bool) -> None:
    chunks = (written(span(), content, span()),)
    assert _fastpath.count(chunks) == (2 + good, not good, 0, 0)
    assert _fastpath.valid(chunks) == bytes((1, good, 1))


@pytest.mark.parametrize(
    ("link", "good"),
    [
        (b"", True),
        (field(1, b"t" * 16) + field(2, b"s" * 8), True),
        (field(1, b"\0" * 16), True),
        (field(1, b"t" * 15), False),
        (field(2, b"s" * 9), False),
    ],
)
def test_ids_of_a_link_are_checked(link: bytes, good: bool) -> None:
    chunks = (written(span(more=field(13, link))),)
    assert _fastpath.count(chunks) == (good, not good, 0, 0)
    assert _fastpath.count(chunks, True) == (good, not good, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"8 ascii \x80",
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        lambda text: field(3, text),
        lambda text: field(5, text),
        lambda text: field(9, field(1, text)),
        lambda text: field(9, field(2, field(1, text))),
        lambda text: field(9, field(2, field(5, field(1, field(1, text))))),
        lambda text: field(9, field(2, field(6, field(1, field(1, text))))),
        lambda text: field(11, field(2, text)),
        lambda text: field(11, field(3, field(1, text))),
        lambda text: field(13, field(3, text)),
        lambda text: field(13, field(4, field(1, text))),
        lambda text: field(15, field(2, text)),
    ],
)
def test_text_in_a_span_is_checked_where_deep(place: object, text: bytes) -> None:
    assert callable(place)
    chunks = (written(span(more=place(text)), span(more=place("é€😀".encode()))),)
    assert _fastpath.count(chunks) == (2, 0, 0, 0)
    assert _fastpath.count(chunks, True) == (1, 0, 1, 0)
    assert _fastpath.valid(chunks, True) == b"\0\1"


@pytest.mark.parametrize(
    "place",
    [
        lambda text: written(span(), resource=field(1, field(1, field(1, text)))),
        lambda text: written(span(), resource=field(1, field(3, field(3, text)))),
        lambda text: written(span(), resource=field(3, text)),
        lambda text: written(span(), scope=field(1, field(1, text))),
        lambda text: written(span(), scope=field(1, field(2, text))),
        lambda text: written(span(), scope=field(3, text)),
    ],
)
def test_bad_text_above_spans_costs_what_is_below_it(place: object) -> None:
    assert callable(place)
    good = place(b"text")
    assert _fastpath.count((good,), True) == (1, 0, 0, 0)
    bad = place(b"te\xfft")
    assert _fastpath.count((bad,)) == (1, 0, 0, 0)
    assert_cleaned(good, bad, (2, 0, 1, 0))


@pytest.mark.parametrize(
    "place",
    [
        lambda value: written(span(), resource=field(1, field(1, field(2, value)))),
        lambda value: written(span(), scope=field(1, field(3, field(2, value)))),
    ],
)
def test_deep_nesting_above_spans_costs_what_is_below_it(place: object) -> None:
    assert callable(place)
    good, bad = place(nested(10)), place(nested(60))
    assert _fastpath.count((bad,)) == (1, 0, 0, 0)
    assert_cleaned(good, bad, (2, 0, 0, 1))


def assert_cleaned(good: bytes, bad: bytes, counted: tuple[int, ...]) -> None:
    """Of `bad` between two of `good`, in one chunk or in three, `good` stays."""
    for chunks in ((good + bad + good,), (good, bad, good)):
        assert _fastpath.count(chunks, True) == counted
        assert _fastpath.valid(chunks, True) == b"\1\0\1"
        cleaning = _fastpath.Cleaning(chunks, True)
        while not cleaning.is_done:
            cleaning.run()
        made, spans = cleaning.take()
        assert (b"".join(made), spans) == (good + good, 2)
        assert cleaning.first_lost == 1


def test_a_bad_scope_does_not_cost_its_neighbours() -> None:
    bad = field(1, b"\x0a\x01\xff")
    scopes = [field(2, more + field(2, span())) for more in (b"", bad, field(3, b"x"))]
    resource = field(1, field(1, field(3, field(3, b"x"))))
    chunk = field(1, resource + b"".join(scopes))
    assert _fastpath.count((chunk,), True) == (2, 0, 1, 0)
    cleaning = _fastpath.Cleaning((chunk,), True)
    while not cleaning.is_done:
        cleaning.run()
    assert cleaning.take() == ((field(1, resource + scopes[0] + scopes[2]),), 2)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (field(1, field(3, b"te\xfft")), "isn't UTF-8"),
        (field(1, field(2, field(1, field(1, b"te\xfft")))), "isn't UTF-8"),
        (field(1, field(1, field(1, field(2, nested(60))))), "deeper than 100"),
    ],
)
def test_a_bad_resource_or_scope_without_spans_is_an_error(bad: bytes, reason: str) -> None:
    """There is nothing that could be left out and counted."""
    assert _fastpath.count((written(span()) + bad,)) == (1, 0, 0, 0)
    with pytest.raises(MalformedPayloadError, match=reason):
        _fastpath.count((written(span()) + bad,), True)


@pytest.mark.parametrize(
    ("bad", "reason", "offset"),
    [
        (b"\x0a", "ends behind the bytes", 0),
        (b"\x0a\x05abcd", "ends behind the bytes", 0),
        (b"\x7a\x80", "ends behind the bytes", 0),
        (b"\x79\x01\x02", "ends behind the bytes", 0),
        (b"\x78\x01\x78" + b"\xff" * 10, "varint that is too long", 2),
        (b"\xf8" + b"\x80" * 5 + b"\0\0", "varint that is too long", 0),
        (b"\x7a\x80\x80\x80\x80\x80\x00", "varint that is too long", 0),
        (b"\x7a\xff\xff\xff\xff\x0f", "2 GiB", 0),
        (b"\x00\x00", "field number", 0),
        (b"\xff\xff\xff\xff\x7f", "field number", 0),
        (b"\x7e", "wire type", 0),
        (b"\x7f", "wire type", 0),
        (b"\x7c", "wasn't open", 0),
        (b"\x7b\x74", "wasn't open", 0),
        (b"\x7b", "ends behind the bytes", 0),
        (b"\x7b" * 101 + b"\x7c" * 101, "deeper than 100", 0),
        (group(15, b"\x00\x00"), "field number", 0),
    ],
)
def test_malformed_bytes_say_what_and_where(bad: bytes, reason: str, offset: int) -> None:
    good = written(span())
    for around in (
        lambda inner: inner,
        lambda inner: field(1, inner),
        lambda inner: field(1, field(1, inner)),
        lambda inner: field(1, field(2, inner)),
        lambda inner: field(1, field(2, field(1, inner))),
        lambda inner: field(1, field(2, field(2, inner))),
    ):
        whole = around(bad)
        at = len(good) + len(whole) - len(bad) + offset
        for operation in (
            _fastpath.count,
            _fastpath.valid,
            _fastpath.split,
            _fastpath.group_by_trace,
            _fastpath.fields,
            lambda chunks: _fastpath.keep(chunks, b"\1"),
            lambda chunks: _fastpath.sample(chunks, 0, 100.0, 0, 4, True),
        ):
            with pytest.raises(MalformedPayloadError, match=reason) as raised:
                operation((good, whole))
            assert raised.value.offset == at, operation


def test_depth_is_that_of_protobuf() -> None:
    # Request, resource, scope, span, KeyValue and AnyValue are 5 messages deep.
    deepest = field(9, field(2, nested(47)))
    assert _fastpath.count((written(span(more=deepest)),), True) == (1, 0, 0, 0)
    assert parse([written(span(more=deepest))])
    deeper = written(span(more=field(9, field(2, nested(48)))))
    assert _fastpath.count((deeper,)) == (1, 0, 0, 0)
    assert _fastpath.count((deeper,), True) == (0, 0, 0, 1)
    beside = written(span(), span(more=field(9, field(2, nested(48)))), span())
    cleaning = _fastpath.Cleaning((beside,), True)
    while not cleaning.is_done:
        cleaning.run()
    assert cleaning.take() == ((written(span(), span()),), 2)
    assert cleaning.first_lost == 1
    deepest = written(span(more=field(9, field(2, nested(3000)))))
    assert _fastpath.count((deepest,), True) == (0, 0, 0, 1)


def test_a_field_does_not_go_on_in_the_next_chunk() -> None:
    whole = written(span())
    with pytest.raises(MalformedPayloadError):
        _fastpath.count((whole[:9], whole[9:]))


@pytest.mark.parametrize("chunk", [bytearray(b""), memoryview(b""), "", None, 1])
def test_chunks_are_bytes(chunk: object) -> None:
    with pytest.raises(TypeError, match="chunks must be bytes, not"):
        _fastpath.count((b"", chunk))  # type: ignore[arg-type]


def test_chunks_are_a_tuple() -> None:
    with pytest.raises(TypeError):
        _fastpath.count([b""])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _fastpath.count(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("body", recorded())
def test_recorded_requests_are_good_to_the_leaves(body: bytes) -> None:
    spans = len(ids((body,)))
    assert _fastpath.count((body,), True) == (spans, 0, 0, 0)
    assert _fastpath.valid((body,), True) == b"\1" * spans


# keep


def test_keep_shares_what_it_does_not_cut() -> None:
    first, second = (request(4).SerializeToString() for _ in range(2))
    chunks = (first, second)
    assert _fastpath.keep(chunks, b"\1" * 8) == (chunks, 8)
    assert _fastpath.keep(chunks, b"\1" * 8)[0] is chunks
    kept, spans = _fastpath.keep(chunks, b"\1" * 4 + b"\1\0\0\7")
    assert spans == 6
    assert kept[0] is first
    assert len(kept[1]) < len(second)
    assert ids(kept) == [*ids((first,)), ids((second,))[0], ids((second,))[3]]


def test_keep_drops_scopes_and_resources_without_spans() -> None:
    chunk = request(6, resources=3).SerializeToString()
    kept, spans = _fastpath.keep((chunk,), b"\0\0\0\1\0\0")
    assert spans == 1
    message = parse(kept)
    assert len(message.resource_spans) == 1
    assert message.resource_spans[0].resource.attributes[1].value.int_value == 1
    assert _fastpath.keep((chunk, chunk), bytes(12)) == ((), 0)
    assert _fastpath.keep((chunk, chunk), bytes(6) + b"\1" * 6)[0] == (chunk,)


def test_keep_leaves_the_fields_between_resources() -> None:
    unknown = field(99, b"kept")
    chunk = unknown + written(span()) + unknown + written(span()) + unknown
    assert _fastpath.keep((chunk,), b"\0\0")[0] == (unknown * 3,)
    assert _fastpath.keep((chunk,), b"\0\1")[0] == (
        unknown * 2 + written(span()) + unknown,
    )


@pytest.mark.parametrize("verdicts", [b"", b"\1" * 3, b"\1" * 5])
def test_keep_wants_a_verdict_for_each_span(verdicts: bytes) -> None:
    with pytest.raises(ValueError, match=f"{len(verdicts)} verdicts for 4 spans"):
        _fastpath.keep((request(4).SerializeToString(),), verdicts)


def test_lengths_that_were_longer_than_needed_are_written_short() -> None:
    loose = field(1, field(2, field(2, span(), 2) + field(2, span()), 2), 2)
    assert _fastpath.keep((loose,), b"\1\1") == ((loose,), 2)
    kept, _ = _fastpath.keep((loose,), b"\1\0")
    assert kept == (field(1, field(2, field(2, span(), 2))),)


# split and group_by_trace


def test_split_repeats_resource_and_scope() -> None:
    message = request(5)
    pieces = _fastpath.split((message.SerializeToString(),), max_spans=2)
    assert [spans for _, spans, _ in pieces] == [2, 2, 1]
    assert [size for _, _, size in pieces] == [sum(map(len, one)) for one, _, _ in pieces]
    for chunks, _, _ in pieces:
        (resource_spans,) = parse(chunks).resource_spans
        assert resource_spans.resource == message.resource_spans[0].resource
        assert resource_spans.scope_spans[0].scope == (
            message.resource_spans[0].scope_spans[0].scope
        )


def test_split_by_bytes_fills_pieces() -> None:
    chunk = request(100, resources=4).SerializeToString()
    pieces = _fastpath.split((chunk,), max_bytes=2000)
    assert sum(spans for _, spans, _ in pieces) == 100
    sizes = [size for _, _, size in pieces]
    assert max(sizes) <= 2000
    assert min(sizes[:-1]) > 1700


def test_split_gives_a_large_span_a_piece_of_its_own() -> None:
    large = span(more=field(5, b"n" * 500))
    pieces = _fastpath.split((written(span(), large, span()),), max_bytes=100)
    assert [spans for _, spans, _ in pieces] == [1, 1, 1]
    assert [size > 100 for _, _, size in pieces] == [False, True, False]


def test_split_leaves_alone_what_is_within_the_limits() -> None:
    chunks = tuple(request(2).SerializeToString() for _ in range(3))
    assert _fastpath.split(chunks, 6, 10_000) == [(chunks, 6, sum(map(len, chunks)))]
    assert _fastpath.split(chunks, 6, 10_000)[0][0] is chunks
    (((first,), *_), ((second,), *_)) = _fastpath.split(chunks, max_spans=4)
    assert (first, second) == (b"".join(chunks[:2]), chunks[2])


def test_split_stops_repeating_what_is_too_large() -> None:
    resource = field(1, field(1, field(1, b"key") + field(2, field(1, b"v" * MIB))))
    chunk = written(*[span()] * 300, resource=resource)
    pieces = _fastpath.split((chunk,), max_spans=1)
    assert sum(spans for _, spans, _ in pieces) == 300
    assert sum(size for _, _, size in pieces) < 80 * MIB
    assert [spans for _, spans, _ in pieces[:-1]] == [1] * (len(pieces) - 1)


def test_traces_come_in_order_of_appearance() -> None:
    a, b, c = (bytes([one]) * 16 for one in b"abc")
    chunks = tuple(
        request(len(some), trace_ids=some).SerializeToString()
        for some in ([b, a, b], [c, b, a])
    )
    of_trace = dict(zip(ids(chunks), [b, a, b, c, b, a], strict=True))
    groups = _fastpath.group_by_trace(chunks)
    assert [(trace, spans) for trace, _, spans in groups] == [(b, 3), (a, 2), (c, 1)]
    for trace, some, _ in groups:
        assert ids(some) == [one for one in ids(chunks) if of_trace[one] == trace]


def test_a_request_of_one_trace_is_its_group() -> None:
    chunks = (request(9, trace_ids=[b"t" * 16] * 9).SerializeToString(),)
    ((trace, same, spans),) = _fastpath.group_by_trace(chunks)
    assert (trace, spans) == (b"t" * 16, 9)
    assert same is chunks


def test_spans_without_a_trace_id_have_no_group() -> None:
    good = written(span())
    bad = written(span(), span(trace_id=b"t" * 15))
    with pytest.raises(MalformedPayloadError, match="trace id") as raised:
        _fastpath.group_by_trace((good, bad))
    assert raised.value.offset == len(good) + bad.index(b"t" * 15, 30) - 4


def test_traces_are_not_multiplied_without_bound() -> None:
    resource = field(1, field(1, field(1, b"key") + field(2, field(1, b"v" * MIB))))
    spans = [span(trace_id=number.to_bytes(16, "big")) for number in range(1, 300)]
    with pytest.raises(MalformedPayloadError, match="too large to be repeated"):
        _fastpath.group_by_trace((written(*spans, resource=resource),))


# fields


def test_columns_of_recorded_spans() -> None:
    for body in recorded():
        rows = zip(
            *_fastpath.fields(
                (body,),
                *("trace_id", "span_id", "parent_span_id", "trace_state", "name"),
                *("kind", "start", "end", "status", "flags", "service"),
            ),
            strict=True,
        )
        expected = [
            (
                *(one.trace_id, one.span_id, one.parent_span_id),
                *(one.trace_state.encode(), one.name.encode(), one.kind),
                *(one.start_time_unix_nano, one.end_time_unix_nano),
                *(one.status.code, one.flags),
                *(
                    pair.value.string_value.encode()
                    for pair in resource_spans.resource.attributes
                    if pair.key == "service.name"
                ),
            )
            for resource_spans in parse([body]).resource_spans
            for scope_spans in resource_spans.scope_spans
            for one in scope_spans.spans
        ]
        assert list(rows) == expected


def test_the_service_may_stand_behind_the_spans() -> None:
    service = field(1, field(1, field(1, b"service.name") + field(2, field(1, b"etcd"))))
    other = field(1, field(1, field(1, b"service.nam") + field(2, field(1, b"x"))))
    late = field(1, field(2, field(2, span())) + other + service + service)
    none = written(span())
    assert _fastpath.fields((late, none), "service") == ([b"etcd", b""],)


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="no field 'nmae'; there are trace_id, span_id"):
        _fastpath.fields((), "name", "nmae")


# The build


def test_build_names_itself() -> None:
    assert _fastpath.BUILD in ("release", "debug", "sanitize")


def test_stubs_say_what_the_module_has() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "k8strace._fastpath"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_length_of_several_bytes_is_measured() -> None:
    for size in (127, 128, 16383, 16384):
        name = b"n" * size
        chunk = written(span(more=field(5, name)), span())
        kept, _ = _fastpath.keep((chunk,), b"\1\0")
        assert kept == (written(span(more=field(5, name))),)
        assert varint(len(span(more=field(5, name)))) in kept[0]


def test_resources_are_counted_with_spans_or_without() -> None:
    counting = _fastpath.Counting(
        (field(1, b"") * 3 + field(9, b"x"), b"", written(span()))
    )
    while not counting.is_done:
        counting.run()
    assert counting.resources == 4
    assert counting.take().spans == 1
