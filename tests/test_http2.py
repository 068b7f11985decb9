"""What sessions have in common, shown by a server's; the rest is in test_http2_*.py."""

from __future__ import annotations

import pytest

from k8strace._http2 import ProtocolError, Session
from k8strace._http2_server import ServerSession
from tests.support.backend import PATH
from tests.support.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    GRPC,
    HEADERS,
    NO_ERROR,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    frames,
    headers,
)


def server() -> ServerSession:
    session = ServerSession(
        [PATH.encode()],
        lambda *_: object(),
        0.0,
        max_message=1000,
        max_streams=10,
        max_headers=16384,
    )
    session.receive(PREFACE, len(PREFACE), 0.0)
    session.output()
    return session


def receive(session: ServerSession, data: bytes, now: float = 0.0) -> list[bytes]:
    session.receive(data, len(data), now)
    return [one.body for one in frames(session.output()) if one.type == GOAWAY]


def test_it_is_up_when_the_peers_settings_are_here() -> None:
    session: Session = ServerSession(
        [], lambda *_: None, 0.0, max_message=1, max_streams=1, max_headers=1
    )
    assert not session.is_up
    assert session.has_output
    assert server().is_up
    assert not server().has_output


def test_pings_are_answered_and_counted() -> None:
    session = server()
    session.receive(data := frame(PING, 0, 0, b"12345678"), len(data), 0.0)
    assert frames(session.output()) == [(PING, ACK, 0, b"12345678")]
    session.ping()
    (sent,) = frames(session.output())
    assert (sent.type, sent.flags) == (PING, 0)
    session.receive(data := frame(PING, ACK, 0, sent.body), len(data), 0.0)
    assert session.pongs == 1


def test_after_goaway_it_is_over_with_its_last_stream() -> None:
    session = server()
    begun = frame(HEADERS, END_HEADERS, 1, headers(*GRPC))
    assert receive(session, begun) == []
    session.goaway()
    (sent,) = frames(session.output())
    assert sent.body == (1).to_bytes(4, "big") + NO_ERROR.to_bytes(4, "big")
    assert not session.is_over
    receive(session, frame(RST_STREAM, 0, 1, bytes(4)))
    assert session.is_over


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(SETTINGS, 0, 0),
        frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"),
        frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\x01"),
        frame(DATA, 0, 1),
    ],
    ids=["ping", "settings", "priority", "window update", "empty data"],
)
def test_floods_end_it(flood: bytes) -> None:
    session = server()
    receive(session, frame(HEADERS, END_HEADERS, 1, headers(*GRPC)))
    for _ in range(9):
        assert receive(session, flood * 100) == []
    (goaway,) = receive(session, flood * 200)
    assert goaway[4:8] == ENHANCE_YOUR_CALM.to_bytes(4, "big")
    assert session.is_over


def test_rapid_reset_ends_it() -> None:
    session = server()
    goaways: list[bytes] = []
    for stream in range(1, 4001, 2):
        goaways += receive(
            session,
            frame(HEADERS, END_HEADERS, stream, headers(*GRPC))
            + frame(RST_STREAM, 0, stream, bytes(4)),
        )
        if session.is_over:
            break
    assert len(goaways) == 1
    assert 1000 <= stream <= 2100


def test_what_a_flood_may_have_comes_back_with_time() -> None:
    session = server()
    flood = frame(PING, 0, 0, bytes(8)) * 100
    for second in range(60):
        assert receive(session, flood, now=float(second)) == []


@pytest.mark.parametrize("size", [-1, 5])
def test_sizes_that_are_not_the_datas(size: int) -> None:
    with pytest.raises(ValueError, match="4"):
        server().receive(b"1234", size, 0.0)


def test_what_is_no_http2() -> None:
    session = ServerSession(
        [], lambda *_: None, 0.0, max_message=1, max_streams=1, max_headers=1
    )
    data = b"GET / HTTP/1.1\r\n\r\n"
    with pytest.raises(ProtocolError, match="magic"):
        session.receive(data, len(data), 0.0)
