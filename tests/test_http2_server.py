"""Servers' sessions: what comes out of bytes, in whatever pieces they come."""

from __future__ import annotations

import tracemalloc
from typing import Any

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
    Request,
    ServerSession,
)
from tests.support.backend import PATH
from tests.support.engine import MIB
from tests.support.http2 import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    GRPC,
    HEADERS,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    frame,
    frames,
    grpc_status,
    headers,
    message,
)

BOTH = END_STREAM | END_HEADERS


class Side:
    """A session and what it said; `lease` is what `admit` gives."""

    def __init__(self, *, preface: bool = True, **options: Any) -> None:
        self.lease: Any = "lease"
        self.admitted: list[int] = []
        options = {
            "max_message": 1 << 20,
            "max_streams": 100,
            "max_headers": 1000,
            **options,
        }
        self.session = ServerSession([PATH.encode()], self._admit, 0.0, **options)
        self.events: list[tuple[int, Request]] = []
        if preface:
            self.receive(PREFACE, frame(SETTINGS, 1, 0))
            self.session.output()

    def _admit(self, size: int) -> Any:
        self.admitted.append(size)
        if isinstance(self.lease, Exception):
            raise self.lease
        return self.lease

    def receive(self, *data: bytes, now: float = 0.0) -> list[tuple[int, Request]]:
        joined = b"".join(data)
        events = self.session.receive(joined, len(joined), now)
        self.events += events
        return events

    def call(self, body: bytes = b"\x0a\x00", stream: int = 1) -> Request:
        ((kind, request),) = self.receive(
            frame(HEADERS, END_HEADERS, stream, headers(*GRPC)),
            frame(DATA, END_STREAM, stream, message(body)),
        )
        assert kind == WHOLE
        return request

    def output(self, *types: int) -> list[Frame]:
        found = frames(self.session.output())
        return [one for one in found if not types or one.type in types]

    def reason(self) -> tuple[int, str | None]:
        ((kind, request),) = self.events
        return kind, request.reason


def begin(*pairs: tuple[str, str], stream: int = 1, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, headers(*GRPC, *pairs))


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


@pytest.mark.parametrize(
    ("wire", "reason", "status"),
    [
        (begin() + frame(DATA, 0, 1, b"\0\0\x10\0\1"), "msg_too_large", 8),
        (begin() + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"), "msg_too_large", 8),
        (begin(("x-big", "x" * 120)) * 1, None, None),
        (begin(*[("x-big", "x" * 120)] * 8), "msg_too_large", 8),
        (frame(HEADERS, 4, 1, headers(*GRPC, path="/no")), "unknown_method", 12),
        (begin(("grpc-encoding", "snappy")), "unsupported", 12),
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


def test_late_bodies() -> None:
    side = Side()
    side.lease = None
    side.receive(begin(stream=1), frame(DATA, 0, 1, message(bytes(9))))
    side.lease = "lease"
    side.receive(begin(stream=3))
    side.receive(begin(stream=5), frame(DATA, 0, 5, message(bytes(1000))[:505]))
    side.call(stream=7)
    assert side.session.late(2.0, 2.0, 100.0) == []
    assert [one.stream for one in side.session.late(3.0, 2.0, 100.0)] == [3]
    assert [one.stream for one in side.session.late(8.0, 2.0, 100.0)] == [3, 5]


def test_headers_that_never_end() -> None:
    side = Side()
    side.receive(frame(HEADERS, 0, 1, headers(*GRPC)))
    (request,) = side.session.late(3.0, 2.0, 100.0)
    side.session.fail(request, 4, "late")
    (goaway,) = side.output(GOAWAY)
    assert goaway.body[4:8] == ENHANCE_YOUR_CALM.to_bytes(4, "big")
    assert side.session.is_over


def test_continuations_have_an_end() -> None:
    side = Side()
    block = headers(*GRPC, *[("x-big", "x" * 120)] * 100)
    try:
        side.receive(frame(HEADERS, 0, 1, headers(*GRPC)))
        for _ in range(2000):
            side.receive(frame(CONTINUATION, 0, 1, block[-1280:]))
        goaway = side.output(GOAWAY)
        assert goaway or side.session.is_over
    except ProtocolError:
        pass
    assert not side.events


def test_concurrent_streams_have_a_limit() -> None:
    side = Side(preface=False, max_streams=2)
    side.receive(PREFACE, *[begin(stream=stream) for stream in (1, 3, 5)])
    (reset,) = side.output(RST_STREAM)
    assert reset.stream == 5
    assert int.from_bytes(reset.body, "big") == REFUSED_STREAM
    side = Side(max_streams=2)
    side.receive(*[begin(stream=stream) for stream in (1, 3, 5)])
    (goaway,) = side.output(GOAWAY)
    assert int.from_bytes(goaway.body[4:8], "big") == PROTOCOL_ERROR


def test_stream_ids_that_go_backwards() -> None:
    side = Side()
    side.receive(begin(stream=1), begin(stream=9), begin(stream=7))
    (goaway,) = side.output(GOAWAY)
    assert int.from_bytes(goaway.body[4:8], "big") == PROTOCOL_ERROR
    assert side.session.is_over


def test_trailers_of_a_stream_that_was_refused_are_ignored() -> None:
    side = Side()
    side.receive(frame(HEADERS, END_HEADERS, 1, headers(*GRPC, path="/no")))
    side.output()
    side.receive(frame(HEADERS, BOTH, 1, b"\0\x01x\x01y"))
    assert side.output(GOAWAY) == []
    side.call(stream=3)


def test_pings_more_often_than_permitted() -> None:
    ping = frame(PING, 0, 0, bytes(8))
    side = Side(ping_interval=10.0)
    for now in (0.0, 20.0, 40.0, 45.0, 50.0):
        side.receive(ping, now=now)
        assert side.output(GOAWAY) == []
    side.receive(ping, now=55.0)
    (goaway,) = side.output(GOAWAY)
    assert int.from_bytes(goaway.body[4:8], "big") == ENHANCE_YOUR_CALM
    side = Side(ping_interval=10.0)
    for stream in range(1, 21, 2):
        side.receive(ping)
        side.session.respond(side.call(stream=stream), b"")
    assert side.output(GOAWAY) == []
    side = Side(ping_interval=10.0, permits_pings=False)
    side.receive(*[ping] * 4, now=100.0)
    assert side.output(GOAWAY) != []


def test_pings_while_an_answer_is_sent() -> None:
    side = Side(ping_interval=10.0)
    side.session.respond(side.call(), bytes(1 << 20))
    wider = (1 << 14).to_bytes(4, "big")
    more = frame(WINDOW_UPDATE, 0, 0, wider) + frame(WINDOW_UPDATE, 0, 1, wider)
    sent: list[Frame] = []
    while END_STREAM not in [one.flags & END_STREAM for one in sent if one.type == HEADERS]:
        sent += side.output()
        assert GOAWAY not in {one.type for one in sent}
        side.receive(frame(PING, 0, 0, bytes(8)), more)


def test_notice_and_goaway() -> None:
    side = Side()
    request = side.call()
    side.session.notice()
    (notice,) = side.output()
    side.session.ping()
    (ping,) = side.output()
    assert notice.body[:4] == b"\x7f\xff\xff\xff"
    side.call(stream=3)
    side.receive(frame(PING, 1, 0, ping.body))
    assert side.session.pongs == 1
    side.session.goaway()
    (goaway,) = side.output()
    assert goaway.body[:4] == (3).to_bytes(4, "big")
    for request in side.session.requests:
        side.session.respond(request, b"")
    side.output()
    assert side.session.is_over


def many_pairs() -> tuple[tuple[str, str], ...]:
    """About 16 KiB as headers count, several times as much to keep."""
    return tuple((f"x-{number:03}", "y") for number in range(400))


def test_metadata_of_what_is_not_answered_is_bounded() -> None:
    block = headers(*GRPC, *many_pairs())
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        sides = [Side(metadata=True, max_headers=16384) for _ in range(40)]
        rejected = 0
        for side in sides:
            for number in range(30):
                stream = 2 * number + 1
                events = side.receive(frame(HEADERS, END_HEADERS, stream, block))
                rejected += len(events)
                for kind, request in events:
                    assert (kind, request.reason) == (REJECTED, "memory")
                    assert request.metadata == ()
                side.session.output()
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rejected > 500
    assert now - before < 40 * MIB
    for side in sides:
        side.session.close()
    one = Side(metadata=True, max_headers=16384)
    assert one.receive(frame(HEADERS, END_HEADERS, 1, block)) == []


def test_metadata_is_let_go_with_the_answer() -> None:
    one = Side(metadata=True, max_headers=16384)
    block = headers(*GRPC, *many_pairs())
    for number in range(100):
        stream = 2 * number + 1
        ((kind, request),) = one.receive(
            frame(HEADERS, END_HEADERS, stream, block),
            frame(DATA, END_STREAM, stream, message(b"")),
        )
        assert kind == WHOLE
        assert len(request.metadata) == 400
        one.session.respond(request, b"")
        one.session.output()


def test_a_long_path_is_no_handlers() -> None:
    path = PATH + "x" * 900
    literal = b"\0\x05:path\x7f" + bytes([(len(path) - 127) & 127 | 128])
    literal += bytes([(len(path) - 127) >> 7]) + path.encode()
    short = headers(*GRPC, path="/")
    block = short.replace(b"\0\x05:path\x01/", literal)
    one = Side(max_headers=16384)
    ((kind, request),) = one.receive(frame(HEADERS, END_HEADERS, 1, block))
    assert (kind, request.reason) == (REJECTED, "unknown_method")
    assert len(request.path) == 512
