"""Servers' sessions that ask who calls, before they take anything of a body."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace._http2_guarded import ASKS, GuardedSession
from k8strace._http2_server import CANCELLED, REJECTED, STREAM_WINDOW, WAITS, WHOLE, Request
from tests.support.backend import PATH
from tests.support.http2 import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    grpc_status,
    headers,
    message,
)
from tests.support.http2_server import Side, begin

AUTH = ("authorization", "Bearer ann")


class Guarded(Side):
    """A side whose judge says `verdict`."""

    def __init__(self, verdict: Literal[True] | str | None = True, **options: Any) -> None:
        self.verdict = verdict
        self.judged: list[bytes | None] = []
        super().__init__(preface=False)
        options = {
            "max_message": 1 << 20,
            "max_streams": 100,
            "max_headers": 1000,
            **options,
        }
        self.session = GuardedSession(
            [PATH.encode()],
            self._admit,
            0.0,
            header=b"authorization",
            judge=self._judge,
            **options,
        )
        self.receive(PREFACE, frame(SETTINGS, 1, 0))
        self.session.output()

    def _judge(self, request: Request) -> Literal[True] | str | None:
        self.judged.append(request.credential)
        request.caller = "ann"
        return self.verdict

    def allowed(self, request: Request) -> list[tuple[int, Request]]:
        assert isinstance(self.session, GuardedSession)
        events = self.session.allowed(request, 1.0)
        self.events += events
        return events


def data(body: bytes, flags: int = END_STREAM) -> bytes:
    return frame(DATA, flags, 1, body)


def test_its_event_is_another_than_all_sessions_have() -> None:
    assert ASKS not in (WHOLE, WAITS, REJECTED, CANCELLED)


def test_who_may_is_served() -> None:
    side = Guarded(metadata=True)
    side.receive(begin(AUTH, ("x-tenant", "blue"), ("authorization", "second")))
    assert side.judged == [b"Bearer ann"]
    ((kind, request),) = side.receive(data(message(b"hello")))
    assert kind == WHOLE
    assert request.caller == "ann"
    assert request.credential is None
    assert request.metadata == (("x-tenant", "blue"),)
    assert request.take() == (b"hello", "lease")


def test_who_may_not_is_told_before_its_body() -> None:
    side = Guarded("nobody we know", metadata=True)
    side.receive(begin())
    assert side.judged == [None]
    assert side.reason() == (REJECTED, "unauthenticated")
    (_, request), *_ = side.events
    assert request.text == "nobody we know"
    head, reset = side.output()
    assert grpc_status(head.body) == 16
    assert reset.type == RST_STREAM
    assert side.receive(data(message(b"hello"))) == []
    assert side.admitted == []


def test_what_is_no_request_is_not_judged() -> None:
    side = Guarded()
    side.receive(
        frame(HEADERS, END_HEADERS, 1, headers((":method", "GET"), (":path", "/"), AUTH)),
        begin(("grpc-encoding", "br"), stream=3),
    )
    assert side.judged == []


@given(st.lists(st.binary(max_size=500), max_size=4), st.booleans(), st.booleans())
def test_what_comes_while_it_is_asked_about_is_not_lost(
    parts: list[bytes], ended: bool, room: bool
) -> None:
    side = Guarded(None)
    side.receive(begin(AUTH))
    ((kind, request),) = side.events
    assert kind == ASKS
    assert request.credential == b"Bearer ann"
    body = message(b"".join(parts))
    cut = len(body) // 2
    before = [body[:3], body[3:cut]] if cut > 3 else [body[:cut]]
    side.receive(*(data(one, 0) for one in before))
    if ended:
        side.receive(data(body[cut:]))
    assert side.admitted == []
    assert side.session.late(1000.0, 1.0, 1.0, 1.0) == []
    assert side.events == [(ASKS, request)]
    side.lease = "lease" if room else None
    side.allowed(request)
    if not ended:
        side.receive(data(body[cut:]))
    if not room:
        assert (WAITS, request) in side.events
        side.events += side.session.admitted(request, "lease", 1.0)
    assert side.events[-1] == (WHOLE, request)
    assert request.take() == (b"".join(parts), "lease")


def test_no_more_than_a_window_is_taken_while_it_is_asked_about() -> None:
    side = Guarded(None)
    side.receive(begin(AUTH))
    whole = message(bytes(1 << 20))
    for at in range(0, STREAM_WINDOW, 16384):
        side.receive(data(whole[at : at + 16384], 0))
    assert not [one for one in side.output(WINDOW_UPDATE) if one.stream == 1]
    ((_, request),) = side.events
    side.allowed(request)
    assert side.admitted == [1 << 20]
    assert side.session.late(2.0, 1.5, 1.5, 1e9) == []
    assert [one for one in side.output(WINDOW_UPDATE) if one.stream == 1]
    side.receive(
        *(data(whole[at : at + 16384], 0) for at in range(STREAM_WINDOW, len(whole), 16384))
    )
    side.receive(data(b""))
    assert side.events[-1] == (WHOLE, request)


def test_a_mistake_is_found_when_it_may() -> None:
    side = Guarded(None)
    side.receive(begin(AUTH), data(b"\x02\x00\x00\x00\x00"))
    ((_, request),) = side.events
    side.allowed(request)
    assert side.events[-1] == (REJECTED, request)
    assert request.reason == "decode_error"


def test_one_that_is_asked_about_can_fail_end_and_be_taken_back() -> None:
    side = Guarded(None)
    side.receive(begin(AUTH), begin(AUTH, stream=3), begin(AUTH, stream=5))
    first, second, third = (request for _, request in side.events)
    side.session.fail(first, 16, "no")
    assert grpc_status(side.output(HEADERS)[0].body) == 16
    assert side.allowed(first) == []
    assert side.receive(frame(RST_STREAM, 0, 3, CANCEL.to_bytes(4, "big"))) == [
        (CANCELLED, second)
    ]
    assert second.reason == "incomplete"
    assert side.allowed(second) == []
    assert side.session.close() == [(CANCELLED, third)]
    assert side.allowed(third) == []


def test_what_the_judge_raises_comes_out() -> None:
    side = Guarded()

    def fails(request: Request) -> Literal[True]:
        raise KeyError("x")

    side.session = GuardedSession(
        [PATH.encode()],
        side._admit,
        0.0,
        header=b"a",
        judge=fails,
        max_message=1,
        max_streams=1,
        max_headers=1000,
    )
    with pytest.raises(KeyError):
        side.receive(PREFACE, begin())


def test_headers_that_are_too_large_are_not_judged() -> None:
    side = Guarded()
    side.receive(begin(*([("authorization", "x" * 100)] * 20)))
    assert side.reason() == (REJECTED, "msg_too_large")
    assert side.judged == []
