"""Clients' sessions, against servers' sessions and by frames."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace._codec import GZIP, SNAPPY, ZSTD
from k8strace._http2 import ProtocolError
from k8strace._http2_client import Call, ClientSession
from k8strace._http2_server import WHOLE, ServerSession
from tests.support.backend import PATH
from tests.support.http2 import (
    ACK,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PING,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    frames,
    message,
)

BOTH = END_STREAM | END_HEADERS
ACKED = frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0)


def client(settings: bytes = ACKED, max_answer: int = 1 << 20) -> ClientSession:
    session = ClientSession(b"test", 0.0, max_answer=max_answer)
    output(session)
    session.receive(settings, len(settings), 0.0)
    output(session)
    return session


def output(session: ClientSession) -> bytes:
    found = b""
    while buffers := session.output():
        found += b"".join(buffers)
    return found


def receive(session: ClientSession, *data: bytes) -> list[Call]:
    joined = b"".join(data)
    return session.receive(joined, len(joined), 0.0)


def block(*pairs: tuple[str, str]) -> bytes:
    found = b""
    for pair in pairs:
        found += b"\0" + b"".join(bytes([len(one)]) + one.encode() for one in pair)
    return found


OK = block((":status", "200"), ("content-type", "application/grpc"))
DONE = block(("grpc-status", "0"))


def answer(stream: int, body: bytes) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, stream, OK)
        + frame(DATA, 0, stream, message(body))
        + frame(HEADERS, BOTH, stream, DONE)
    )


@given(
    st.lists(st.lists(st.binary(max_size=20_000), max_size=4), min_size=1, max_size=5),
    st.integers(1, 50_000),
)
def test_with_a_server(messages: list[list[bytes]], step: int) -> None:
    requests: list[Any] = []
    server = ServerSession(
        [PATH.encode()],
        lambda size, _: size,
        0.0,
        max_message=1 << 20,
        max_streams=100,
        max_headers=8192,
        metadata=True,
    )
    session = ClientSession(b"test", 0.0, max_answer=1 << 20, user_agent=b"me")
    calls = [
        session.request(
            PATH.encode(), tuple(chunks), timeout=b"5S", metadata=(("x-a", "b"),)
        )
        for chunks in messages
    ]
    over: list[Call] = []
    for _ in range(100):
        if len(over) == len(calls):
            break
        wire = output(session)
        for at in range(0, len(wire), step):
            piece = wire[at : at + step]
            for kind, request in server.receive(piece, len(piece), 0.0):
                assert kind == WHOLE
                assert request.metadata == (("user-agent", "me"), ("x-a", "b"))
                assert request.deadline == 5.0
                body, _ = request.take()
                assert body is not None
                requests.append(body)
                server.respond(request, body[::-1])
        while back := server.output():
            for at in range(0, len(back), step):
                over += receive(session, back[at : at + step])
    assert {call.stream for call in over} == {call.stream for call in calls}
    bodies = [b"".join(chunks) for chunks in messages]
    assert sorted(requests) == sorted(bodies)
    assert [call.answer for call in calls] == [body[::-1] for body in bodies]
    assert {call.status for call in calls} == {b"0"}
    assert session.running == 0


def test_large_chunks_are_not_copied() -> None:
    session = client(ACKED + frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff"))
    large = bytes(16384)
    session.request(PATH.encode(), (b"small", large[:10_000], large))
    buffers = session.output()
    views = [one.obj for one in buffers if isinstance(one, memoryview)]
    assert any(one is large for one in views)
    sent = b"".join(one.body for one in frames(b"".join(buffers)) if one.type == DATA)
    assert sent == message(b"small" + large[:10_000] + large)


@given(
    st.lists(st.lists(st.binary(max_size=40_000), max_size=4), min_size=1, max_size=6),
    st.integers(1, 100_000),
)
def test_what_a_socket_takes_and_leaves_is_all_there_is(
    messages: list[list[bytes]], room: int
) -> None:
    """The same bytes as `output` gives, in the same order."""
    wide = frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(
        WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65535).to_bytes(4, "big")
    )
    one, other = client(ACKED + wide), client(ACKED + wide)
    for chunks in messages:
        one.request(PATH.encode(), tuple(chunks))
        other.request(PATH.encode(), tuple(chunks))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        theirs.setblocking(False)
        came = bytearray()

        def drain() -> None:
            with suppress(BlockingIOError):
                while part := theirs.recv(1 << 20):
                    came.extend(part)

        while (rest := one.send(ours.fileno())) is not None:
            drain()
            came.extend(b"".join(rest))
    assert bytes(came) == output(other)


def test_a_socket_that_is_gone_takes_nothing() -> None:
    session = client()
    session.request(PATH.encode(), (b"x" * 5000,))
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        rest = session.send(ours.fileno())
        assert rest is not None
        assert message(b"x" * 5000) in b"".join(rest).replace(
            frame(DATA, END_STREAM, 1, message(b"x" * 5000))[:9], b""
        )
        assert session.send(ours.fileno()) is None


def test_no_answer_may_be_larger_than_asked_for() -> None:
    session = client(max_answer=100)
    session.request(PATH.encode(), (b"x",))
    output(session)
    assert (
        receive(
            session,
            frame(HEADERS, END_HEADERS, 1, OK),
            frame(DATA, 0, 1, message(bytes(200))),
        )
        == []
    )
    (reset,) = [one for one in frames(output(session)) if one.type == RST_STREAM]
    assert reset.body == CANCEL.to_bytes(4, "big")
    (call,) = session.finished()
    assert call.problem is not None
    assert "200 bytes" in call.problem
    assert call.answer is None


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        (message(b"x", 1), "compressed"),
        (message(b"x") + b"y", "more than one"),
    ],
)
def test_answers_that_are_wrong(wire: bytes, problem: str) -> None:
    session = client()
    session.request(PATH.encode(), (b"x",))
    output(session)
    receive(session, frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, 0, 1, wire))
    output(session)
    (call,) = session.finished()
    assert call.problem is not None
    assert problem in call.problem


def test_statuses_and_details() -> None:
    session = client()
    session.request(PATH.encode(), (b"x",))
    output(session)
    trailers = block(
        (":status", "200"),
        ("grpc-status", "14"),
        ("grpc-message", "100%25"),
        ("grpc-status-details-bin", "CA4"),
    )
    (call,) = receive(session, frame(HEADERS, BOTH, 1, trailers))
    assert (call.status, call.text, call.details) == (b"14", b"100%25", b"CA4")
    assert call.http_status == 200
    assert not call.is_refused


def test_half_an_answer_is_none() -> None:
    session = client()
    session.request(PATH.encode(), (b"x",))
    output(session)
    (call,) = receive(
        session,
        frame(HEADERS, END_HEADERS, 1, OK),
        frame(DATA, 0, 1, message(b"xyz")[:-1]),
        frame(HEADERS, BOTH, 1, DONE),
    )
    assert (call.status, call.answer) == (b"0", None)


def test_what_was_refused_says_so() -> None:
    session = client()
    calls = [session.request(PATH.encode(), (b"x",)) for _ in range(3)]
    output(session)
    refused = REFUSED_STREAM.to_bytes(4, "big")
    assert receive(session, frame(RST_STREAM, 0, 1, refused)) == calls[:1]
    assert calls[0].is_refused
    goaway = (3).to_bytes(4, "big") + bytes(4)
    assert receive(session, frame(GOAWAY, 0, 0, goaway)) == calls[2:]
    assert calls[2].is_refused
    assert session.is_going
    late = session.request(PATH.encode(), (b"x",))
    output(session)
    assert session.finished() == [late]
    assert late.is_refused
    assert receive(session, answer(3, b"y")) == calls[1:2]
    assert calls[1].answer == b"y"
    assert session.is_over


@pytest.mark.parametrize("text", [b"", b"too_many_pings", b"x" * 5000])
def test_what_a_goaway_says(text: bytes) -> None:
    session = client()
    assert (session.goaway_code, session.goaway_text) == (-1, b"")
    body = bytes(4) + ENHANCE_YOUR_CALM.to_bytes(4, "big") + text
    receive(session, frame(GOAWAY, 0, 0, body))
    assert (session.goaway_code, session.goaway_text) == (ENHANCE_YOUR_CALM, text[:256])


def test_a_page_is_not_an_answer() -> None:
    session = client()
    call = session.request(PATH.encode(), (b"x",))
    output(session)
    block = b"\x88" + b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in ((b"content-type", b"text/html"), (b"retry-after", b"7"))
    )
    page = frame(HEADERS, END_HEADERS, 1, block), frame(DATA, 1, 1, b"<html>" * 100)
    assert receive(session, *page) == [call]
    assert (call.http_status, call.content_type) == (200, b"text/html")
    assert (call.retry_after, call.problem, call.answer) == (b"7", None, None)


def test_cancelled_calls_are_not_told_of() -> None:
    session = client()
    sent = session.request(PATH.encode(), (b"x",))
    output(session)
    waiting = session.request(PATH.encode(), (b"x",))
    for call in (sent, waiting):
        session.cancel(call)
        session.cancel(call)
    resets = [one for one in frames(output(session)) if one.type == RST_STREAM]
    assert [one.stream for one in resets] == [1]
    assert session.finished() == []
    assert session.running == 0


def test_close_ends_all() -> None:
    session = client()
    calls = [session.request(PATH.encode(), (b"x",)) for _ in range(3)]
    assert session.close() == calls
    assert [call.status for call in calls] == [None] * 3


def test_a_server_may_ping_for_every_frame_of_a_request() -> None:
    """grpc-go's servers measure the bandwidth so; pings without requests are a flood."""
    session = client()
    ping = frame(PING, 0, 0, b"12345678")
    for number in range(2000):
        session.request(PATH.encode(), (b"x",))
        output(session)
        done = receive(session, ping, answer(2 * number + 1, b""))
        assert [call.status for call in done] == [b"0"]
    receive(session, ping * 1002)
    assert GOAWAY in {one.type for one in frames(output(session))}


@pytest.mark.parametrize(
    ("encoding", "number"), [("gzip", GZIP), ("zstd", ZSTD), ("snappy", SNAPPY), ("br", 0)]
)
def test_answers_are_compressed_only_as_known(encoding: str, number: int) -> None:
    session = client()
    call = session.request(PATH.encode(), (b"x",))
    output(session)
    receive(
        session,
        frame(HEADERS, END_HEADERS, 1, OK + block(("grpc-encoding", encoding))),
        frame(DATA, 0, 1, b"\1" + message(b"packed")[1:]),
    )
    output(session)
    assert session.finished() == ([] if number else [call])
    assert call.encoding == number
    assert (call.answer == b"packed") == (call.problem is None) == bool(number)


VALID = (
    frame(SETTINGS, 0, 0)
    + answer(1, b"hello")
    + frame(PING, 0, 0, b"12345678")
    + frame(HEADERS, BOTH, 3, block((":status", "200"), ("grpc-status", "8")))
    + frame(RST_STREAM, 0, 5, bytes(4))
    + frame(GOAWAY, 0, 0, (7).to_bytes(4, "big") + bytes(4))
)


@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=5),
    st.integers(1, 100),
)
def test_mutated_bytes_never_crash(changes: list[tuple[int, int]], step: int) -> None:
    data = bytearray(VALID)
    for at, value in changes:
        data[at] = value
    session = ClientSession(b"test", 0.0, max_answer=1000)
    calls = [session.request(PATH.encode(), (b"x" * 5000,)) for _ in range(4)]
    over: list[Call] = []
    try:
        for at in range(0, len(data), step):
            over += receive(session, bytes(data[at : at + step]))
            session.output()
            over += session.finished()
    except ProtocolError:
        pass
    over += session.close()
    assert sorted(call.stream for call in over) == [call.stream for call in calls]


ONE_STREAM = ACKED + frame(SETTINGS, 0, 0, b"\0\x03" + (1).to_bytes(4, "big"))


def test_what_waits_for_a_stream_is_unsent() -> None:
    session = client(ONE_STREAM)
    first, second, third = (session.request(PATH.encode(), (b"x",)) for _ in range(3))
    sent = frames(output(session))
    assert {one.stream for one in sent if one.stream} == {first.stream}
    session.cancel(second)
    assert session.close() == [first, third]
    assert (first.is_unsent, third.is_unsent) == (False, True)
    assert not first.is_refused


def test_what_waits_for_a_stream_is_given_back_when_the_server_goes() -> None:
    session = client(ONE_STREAM)
    first, second = (session.request(PATH.encode(), (b"x",)) for _ in range(2))
    output(session)
    last = first.stream.to_bytes(4, "big") + bytes(4)
    assert receive(session, frame(GOAWAY, 0, 0, last)) == [second]
    assert second.is_unsent
    assert session.is_going
    assert receive(session, answer(first.stream, b"y")) == [first]
    assert first.answer == b"y"
    assert output(session) == b""
    assert session.is_over
    assert session.running == 0


def test_a_request_that_is_given_up_lets_go_of_its_message() -> None:
    session = client(ACKED + frame(SETTINGS, 0, 0, b"\0\x04" + bytes(4)))
    message = b"".join([b"x"] * 1000)
    before = sys.getrefcount(message)
    call = session.request(PATH.encode(), (message,))
    output(session)
    assert sys.getrefcount(message) == before + 1
    session.cancel(call)
    assert sys.getrefcount(message) == before
    (reset,) = frames(output(session))
    assert (reset.type, reset.stream) == (RST_STREAM, call.stream)
    assert session.running == 0
    assert session.finished() == []


def test_deadlines() -> None:
    session = client()
    assert session.next_deadline == inf
    calls = [
        session.request(PATH.encode(), (b"x",), deadline=deadline)
        for deadline in (3.0, 1.0, 2.0, inf)
    ]
    assert [call.deadline for call in calls] == [3.0, 1.0, 2.0, inf]
    assert session.next_deadline == 1.0
    assert session.late(0.5) == []
    assert session.late(2.0) == calls[1:3]
    session.cancel(calls[1])
    assert session.late(2.0) == calls[2:3]
    assert session.next_deadline == 2.0
    session.cancel(calls[2])
    assert session.next_deadline == 3.0


def test_output_is_handed_out_in_parts_whatever_the_windows() -> None:
    wide = frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff") + frame(
        WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65535).to_bytes(4, "big")
    )
    session = client(ACKED + wide)
    session.request(PATH.encode(), (bytes(8 << 20),))
    sizes = []
    while buffers := session.output():
        sizes.append(sum(len(one) for one in buffers))
    assert sum(sizes) > 8 << 20
    assert max(sizes) <= 256 * 1024 + 16384 + 9


def test_the_last_streams_of_a_connection() -> None:
    session = ClientSession(b"test", 0.0, max_answer=100, first_stream=2**31 - 2**17 - 3)
    assert not session.is_going
    session.request(PATH.encode(), (b"x",))
    assert not session.is_going
    session.request(PATH.encode(), (b"x",))
    assert session.is_going
