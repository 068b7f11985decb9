"""What a native server's session bounds, and how it ends."""

from __future__ import annotations

import tracemalloc

from k8strace._http2 import ProtocolError
from k8strace._http2_server import (
    REJECTED,
    WHOLE,
)
from tests.support.backend import PATH
from tests.support.engine import MIB
from tests.support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    GRPC,
    HEADERS,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    WINDOW_UPDATE,
    Frame,
    frame,
    headers,
    message,
)
from tests.support.http2_server import BOTH, Side, begin


def test_late_bodies() -> None:
    side = Side()
    side.lease = None
    side.receive(begin(stream=1), frame(DATA, 0, 1, message(bytes(9))))
    side.lease = "lease"
    side.receive(begin(stream=3))
    side.receive(begin(stream=5), frame(DATA, 0, 5, message(bytes(1000))[:505]))
    side.call(stream=7)
    assert side.session.late(2.0, 2.0, 2.0, 100.0) == []
    assert [one.stream for one in side.session.late(3.0, 2.0, 2.0, 100.0)] == [3]
    assert [one.stream for one in side.session.late(8.0, 2.0, 2.0, 100.0)] == [3, 5]


def test_a_body_that_begins_late_has_its_time() -> None:
    side = Side()
    side.receive(begin(stream=1))
    assert side.session.late(20.0, 20.0, 2.0, 100.0) == []
    (request,) = side.session.late(20.5, 20.0, 2.0, 100.0)
    side.receive(frame(DATA, 0, 1, message(bytes(1000))[:5]), now=20.0)
    assert side.session.late(22.0, 20.0, 2.0, 100.0) == []
    assert side.session.late(22.5, 20.0, 2.0, 100.0) == [request]


def test_headers_that_never_end() -> None:
    side = Side()
    side.receive(frame(HEADERS, 0, 1, headers(*GRPC)))
    (request,) = side.session.late(3.0, 20.0, 2.0, 100.0)
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
    assert goaway.body[8:] == b"too_many_pings"  # gRFC A8
    assert side.session.is_over
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
    assert request.path is None
