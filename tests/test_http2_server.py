"""Servers' sessions: what comes out of bytes, in whatever pieces they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace._http2 import ProtocolError
from k8strace._http2_server import (
    CANCELLED,
    REJECTED,
    STREAM_WINDOW,
    WAITS,
    WHOLE,
)
from tests.support.backend import PATH
from tests.support.http2 import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC,
    HEADERS,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    grpc_status,
    headers,
    message,
)
from tests.support.http2_server import BOTH, Side, begin


def test_a_request_and_its_answer() -> None:
    side = Side()
    request = side.call(b"hello")
    assert (request.stream, request.path, request.size) == (1, PATH.encode(), 5)
    assert not request.encoding
    assert request.deadline is None
    assert request.metadata == ()
    assert request.take() == (b"hello", "lease")
    assert [*request.take()] == [None, None]
    assert side.admitted == [5]
    side.session.respond(request, b"answer")
    head, body, tail = side.output()
    assert (head.type, head.flags) == (HEADERS, END_HEADERS)
    assert (body.type, body.flags, body.body) == (DATA, 0, message(b"answer"))
    assert (tail.type, tail.flags) == (HEADERS, BOTH)
    assert grpc_status(tail.body) == 0
    assert side.session.requests == []


@given(
    st.lists(st.binary(max_size=3000), min_size=1, max_size=5),
    st.data(),
)
def test_pieces_do_not_matter(bodies: list[bytes], data: st.DataObject) -> None:
    wire = PREFACE
    for number, body in enumerate(bodies):
        stream = 2 * number + 1
        wire += begin(stream=stream)
        whole = message(body)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=3)))
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            wire += frame(DATA, 0, stream, whole[start:end])
        wire += frame(DATA, END_STREAM, stream)
    side = Side(preface=False)
    at = 0
    while at < len(wire):
        size = data.draw(st.integers(1, len(wire)))
        side.receive(wire[at : at + size])
        at += size
    assert [kind for kind, _ in side.events] == [WHOLE] * len(bodies)
    assert [request.take()[0] for _, request in side.events] == bodies


VALID = (
    PREFACE
    + begin(("grpc-timeout", "5S"), ("x-tenant", "blue"))
    + frame(DATA, END_STREAM, 1, message(b"hello"))
    + frame(PING, 0, 0, b"12345678")
    + begin(("grpc-encoding", "gzip"), stream=3)
    + frame(DATA, 0, 3, message(b"world" * 100, 1)[:50])
    + frame(WINDOW_UPDATE, 0, 3, b"\0\0\1\0")
    + frame(DATA, END_STREAM, 3, message(b"world" * 100, 1)[50:])
    + begin(stream=5)
    + frame(RST_STREAM, 0, 5, bytes(4))
)


@given(
    st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)),
        max_size=5,
    ),
    st.integers(1, 100),
    st.booleans(),
)
def test_mutated_bytes_never_crash(
    changes: list[tuple[int, int]], step: int, has_room: bool
) -> None:
    data = bytearray(VALID)
    for at, value in changes:
        data[at] = value
    side = Side(preface=False, metadata=True)
    side.lease = "lease" if has_room else None
    try:
        for at in range(0, len(data), step):
            for kind, request in side.receive(bytes(data[at : at + step])):
                assert isinstance(request.metadata, tuple)
                if kind == WAITS:
                    side.events += side.session.admitted(request, "late", 0.0)
                elif kind == WHOLE:
                    side.session.respond(request, b"ok")
            side.session.output()
    except ProtocolError:
        pass
    for kind, _ in side.events + side.session.close():
        assert kind in (WHOLE, WAITS, REJECTED, CANCELLED)
    assert side.session.requests == []


@given(st.binary(max_size=500))
def test_any_bytes_never_crash(data: bytes) -> None:
    side = Side()
    try:
        side.receive(data)
        side.session.output()
    except ProtocolError:
        pass
    side.session.close()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5S", 5), ("100m", 0.1), ("7u", 7e-6), ("9n", 9e-9), ("2M", 120), ("1H", 3600)],
)
def test_deadlines(text: str, seconds: float) -> None:
    side = Side()
    ((_, request),) = side.receive(
        begin(("grpc-timeout", text)),
        frame(DATA, END_STREAM, 1, message(b"")),
        now=10.0,
    )
    assert request.deadline == pytest.approx(10 + seconds)


@pytest.mark.parametrize("text", ["", "S", "5", "5s", "123456789S", "-1S", "1.5S"])
def test_deadlines_that_are_none(text: str) -> None:
    side = Side()
    side.receive(begin(("grpc-timeout", text)))
    assert side.reason() == (REJECTED, "decode_error")
    assert grpc_status(side.output(HEADERS)[0].body) == 3


def test_metadata() -> None:
    side = Side(metadata=True)
    ((_, request),) = side.receive(
        begin(("x-tenant", "blue"), ("x-raw-bin", "AA"), ("grpc-timeout", "5S")),
        frame(DATA, END_STREAM, 1, message(b"")),
    )
    assert request.metadata == (("x-tenant", "blue"),)


@pytest.mark.parametrize("value", ["blue ", " blue", "\tblue \t", "blue\t"])
def test_space_around_a_value_is_no_part_of_it(value: str) -> None:
    """RFC 9110, 5.5; grpc-go sends it, and takes it."""
    side = Side(metadata=True)
    block = headers(("content-type", "application/grpc "), GRPC[1], ("x-tenant", value))
    ((kind, request),) = side.receive(
        frame(HEADERS, END_HEADERS, 1, block), frame(DATA, END_STREAM, 1, message(b""))
    )
    assert kind == WHOLE
    assert request.metadata == (("x-tenant", "blue"),)


@pytest.mark.parametrize(
    "pair", [("x-tenant", "a\x01b"), ("X-Tenant", "a"), ("connection", "close")]
)
def test_a_call_that_breaks_the_rules_is_counted_as_that(pair: tuple[str, str]) -> None:
    side = Side()
    side.receive(begin(pair), frame(DATA, END_STREAM, 1, message(b"")))
    (reset,) = side.output(RST_STREAM)
    assert reset.body == PROTOCOL_ERROR.to_bytes(4, "big")
    side.receive()
    kind, reason = side.reason()
    assert (kind, reason) == (CANCELLED, "decode_error")
    assert "breaks the rules of HTTP/2" in str(side.events[0][1].text)
    assert side.session.requests == []


@pytest.mark.parametrize(
    ("wire", "reason", "status"),
    [
        (begin() + frame(DATA, 0, 1, b"\0\0\x10\0\1"), "msg_too_large", 8),
        (begin() + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"), "msg_too_large", 8),
        (begin(("x-big", "x" * 120)) * 1, None, None),
        (begin(*[("x-big", "x" * 120)] * 8), "msg_too_large", 8),
        (frame(HEADERS, 4, 1, headers(*GRPC, path="/no")), "unknown_method", 12),
        (begin(("grpc-encoding", "br")), "unsupported", 12),
        (begin() + frame(DATA, 0, 1, message(b"x", 1)), "decode_error", 13),
        (begin() + frame(DATA, 0, 1, message(b"x", 2)), "decode_error", 13),
        (begin() + frame(DATA, 0, 1, message(b"x") + b"y"), "decode_error", 13),
        (begin(flags=BOTH), "incomplete", 3),
        (begin() + frame(DATA, END_STREAM, 1, message(b"xx")[:-1]), "incomplete", 3),
        (begin() + frame(DATA, END_STREAM, 1, b"\0\0"), "incomplete", 3),
    ],
    ids=range(12),
)
def test_requests_that_are_refused(
    wire: bytes, reason: str | None, status: int | None
) -> None:
    side = Side()
    side.receive(wire)
    if reason is None:
        assert side.events == []
        return
    assert side.reason() == (REJECTED, reason)
    found = side.output(HEADERS, DATA, RST_STREAM)
    assert found[0].flags == BOTH
    assert grpc_status(found[0].body) == status
    # Who hasn't ended is asked to send no more.
    resets = [one.body for one in found[1:]]
    ended = reason == "incomplete"
    assert resets == ([] if ended else [NO_ERROR.to_bytes(4, "big")])
    assert side.session.requests == []


@pytest.mark.parametrize(
    "block",
    [
        headers(("content-type", "application/json")),
        headers(("content-type", "application/grpc-web")),
        headers(),
    ],
)
def test_what_is_no_grpc_gets_415(block: bytes) -> None:
    side = Side()
    side.receive(frame(HEADERS, END_HEADERS, 1, block))
    assert side.events == []
    side.receive(frame(DATA, END_STREAM, 1, b"{}"))
    assert side.reason() == (REJECTED, "unsupported")
    head, body = side.output()
    assert b"415" in head.body
    assert body.flags == END_STREAM
    assert b"gRPC" in body.body
    side.receive(
        frame(HEADERS, END_HEADERS, 3, block),
        *[frame(DATA, 0, 3, bytes(16384))] * 5,
    )
    assert side.output()[-1][:3] == (RST_STREAM, 0, 3)


@pytest.mark.parametrize("kind", ["application/grpc+proto", "application/grpc;v=1"])
def test_content_types_of_grpc(kind: str) -> None:
    side = Side()
    block = headers(("content-type", kind), GRPC[1])
    side.receive(
        frame(HEADERS, END_HEADERS, 1, block), frame(DATA, END_STREAM, 1, message(b""))
    )
    assert side.reason() == (WHOLE, None)


def test_errors_escape_their_text_and_carry_details() -> None:
    side = Side()
    side.session.fail(side.call(), 14, "100 % voll: Größe\n", b"\xff\x00")
    (head,) = side.output()
    assert head.flags == BOTH
    assert grpc_status(head.body) == 14


def test_a_large_answer_follows_the_clients_windows() -> None:
    side = Side()
    small = frame(SETTINGS, 0, 0, b"\0\x04" + (2).to_bytes(4, "big"))
    side.receive(small)
    side.session.respond(side.call(), b"x" * 100)
    got = b"".join(one.body for one in side.output(DATA))
    assert got == message(b"x" * 100)[:2]
    side.receive(frame(WINDOW_UPDATE, 0, 1, (1000).to_bytes(4, "big")))
    got += b"".join(one.body for one in side.output(DATA))
    assert got == message(b"x" * 100)


def test_windows_grow_by_what_is_admitted() -> None:
    side = Side()
    big = STREAM_WINDOW + 1000
    side.receive(begin(), frame(DATA, 0, 1, message(bytes(big))[:5]))
    (update,) = side.output(WINDOW_UPDATE)
    assert update.stream == 1
    assert int.from_bytes(update.body, "big") == 1000 + 5
    side.lease = None
    side.receive(begin(stream=3), frame(DATA, 0, 3, message(bytes(big))[:5]))
    assert side.output(WINDOW_UPDATE) == []
    ((kind, request),) = side.events
    assert kind == WAITS
    side.session.admitted(request, "late", 1.0)
    (update,) = side.output(WINDOW_UPDATE)
    assert update.stream == 3


@pytest.mark.parametrize("ended", [True, False])
def test_a_message_waits_for_room(ended: bool) -> None:
    side = Side()
    side.lease = None
    whole = message(b"hello")
    side.receive(begin(), frame(DATA, 0, 1, whole[:7]))
    ((kind, request),) = side.events
    assert (kind, request.size) == (WAITS, 5)
    last = frame(DATA, END_STREAM, 1, whole[7:])
    if ended:
        assert side.receive(last) == []
        events = side.session.admitted(request, "late", 1.0)
    else:
        assert side.session.admitted(request, "late", 1.0) == []
        events = side.receive(last)
    assert events == [(WHOLE, request)]
    assert request.take() == (b"hello", "late")
    assert side.session.admitted(request, "late", 1.0) == []


def test_an_error_of_admit_is_raised() -> None:
    side = Side()
    side.lease = ZeroDivisionError("admit")
    with pytest.raises(ZeroDivisionError):
        side.call()
    side.session.close()


def test_cancelled_and_closed() -> None:
    side = Side()
    first, second = side.call(stream=1), side.call(stream=3)
    side.receive(begin(stream=5))
    side.events.clear()
    side.receive(frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big")))
    assert side.events == [(CANCELLED, first)]
    assert first.reason is None
    side.session.respond(first, b"late")
    assert side.output(DATA) == []
    events = side.session.close()
    assert events[0] == (CANCELLED, second)
    assert [request.reason for _, request in events] == [None, "incomplete"]
    assert side.session.requests == []
