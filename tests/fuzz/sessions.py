"""HTTP/2 sessions fed with any bytes, in pieces.

The first byte of an input is a set of choices, the second the size of the pieces (0: all
at once); what follows is what the peer sends.
"""

from __future__ import annotations

from typing import Any, Literal

from k8strace._http2 import ProtocolError
from k8strace._http2_client import Call, ClientSession
from k8strace._http2_guarded import ASKS, GuardedSession
from k8strace._http2_server import (
    CANCELLED,
    REJECTED,
    STREAM_WINDOW,
    WAITS,
    WHOLE,
    Request,
    ServerSession,
)
from tests.support.http2 import PREFACE

PATH = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MAX_MESSAGE = 1 << 17
MAX_STREAMS = 20
MAX_HEADERS = 2000
OUTPUT_BASE = 64 * 1024  # bytes that a session may say without having been asked much,
OUTPUT_FACTOR = 200  # and for each byte that it gets: an error's text, a frame's answer

# Choices for a server.
PREFIXED, ROOM, METADATA, ANSWERS, PINGS, SLOW, SILENT, GUARDED = (
    1 << bit for bit in range(8)
)
# For a client: the number of calls, in three bits.
CALLS, CANCELS, LARGE, GATHERED = 7, 8, 16, 32


class Lease:
    """Room for a message; `held` is what all of a list have."""

    def __init__(self, size: int, held: list[int]) -> None:
        self.size, self._held = size, held
        held[0] += size

    def __del__(self) -> None:
        self._held[0] -= self.size


def pieces(data: bytes) -> list[bytes]:
    size = data[1] or len(data)
    return [data[at : at + size] for at in range(2, len(data), size)]


def server_session(data: bytes) -> None:
    if len(data) < 2:
        return
    choices = data[0]
    held = [0]
    whole: list[Request] = []
    waiting: list[Request] = []
    asking: list[Request] = []

    def admit(size: int, missing: int) -> Lease | None:
        assert 0 <= missing <= size <= MAX_MESSAGE
        return Lease(size, held) if choices & ROOM else None

    options: dict[str, Any] = {
        "max_message": MAX_MESSAGE,
        "max_streams": MAX_STREAMS,
        "max_headers": MAX_HEADERS,
        "metadata": bool(choices & METADATA),
        "ping_interval": 10.0 if choices & PINGS else 0.0,
    }
    session = (
        GuardedSession([PATH], admit, 0.0, header=b"user-agent", judge=judge, **options)
        if choices & GUARDED
        else ServerSession([PATH], admit, 0.0, **options)
    )

    def take(events: list[tuple[int, Request]]) -> None:
        for kind, request in events:
            assert kind in (WHOLE, WAITS, REJECTED, CANCELLED, ASKS)
            assert (request.reason is None) == (request.text is None)
            assert sum(map(len, sum(request.metadata, ()))) <= MAX_HEADERS
            if kind == WHOLE:
                assert request not in whole
                whole.append(request)
                answer(session, request, bool(choices & ANSWERS))
            elif kind == WAITS:
                assert request not in waiting
                waiting.append(request)
            elif kind == ASKS:
                assert request not in asking
                asking.append(request)
            elif kind == REJECTED:
                assert request.reason

    given = said = 0
    now = 0.0
    try:
        for piece in [PREFACE, *pieces(data)] if choices & PREFIXED else pieces(data):
            given += len(piece)
            now += 0.5
            take(session.receive(piece, len(piece), now))
            while asking and not choices & SLOW:
                assert isinstance(session, GuardedSession)
                take(session.allowed(asking.pop(), now))
            while waiting and not choices & SLOW:
                request = waiting.pop()
                take(session.admitted(request, Lease(request.size, held), now))
            for request in session.late(now, 1.0, 1.0, 100.0) if choices & SLOW else ():
                session.fail(request, 4, "slow", b"details")
            if not choices & SILENT:
                said += len(session.output())
            assert len(session.requests) <= MAX_STREAMS
            assert held[0] <= len(session.requests) * MAX_MESSAGE
        while more := len(session.output()):
            said += more
            assert said <= OUTPUT_BASE + OUTPUT_FACTOR * given
    except ProtocolError:
        pass
    take(session.close())
    assert session.requests == []
    whole.clear()
    waiting.clear()
    asking.clear()
    assert held == [0], "a lease is kept"


def judge(request: Request) -> Literal[True] | str | None:
    """Some are known and some are asked about, by how long their credential is."""
    credential = request.credential
    if credential is None:
        return "nobody"
    assert len(credential) <= MAX_HEADERS
    return True if len(credential) % 2 else None


def answer(session: ServerSession, request: Request, well: bool) -> None:
    message, lease = request.take()
    assert message is not None
    assert len(message) == request.size
    assert lease.size == request.size
    if well:
        session.respond(request, message[:1000])
    else:
        session.fail(request, 14, "bêcause", b"details")


def client_session(data: bytes) -> None:
    if len(data) < 2:
        return
    choices = data[0]
    session = ClientSession(b"authority", 0.0, user_agent=b"fuzz", max_answer=MAX_MESSAGE)
    size = 3 * STREAM_WINDOW if choices & LARGE else 10
    chunks = (b"\x0a" * (size // 2), b"", b"\x12" * (size - size // 2))
    calls = [session.request(PATH, chunks, timeout=b"1S") for _ in range(choices & CALLS)]
    cancelled = calls[: len(calls) // 2] if choices & CANCELS else []
    over: list[Call] = []
    given = said = 0
    try:
        if not choices & GATHERED:
            said += sum(map(len, session.output()))
        for one in cancelled:
            session.cancel(one)
        for piece in pieces(data):
            given += len(piece)
            over += session.receive(piece, len(piece), 0.0)
            said += sum(map(len, session.output()))
            over += session.finished()
            assert said <= OUTPUT_BASE + len(calls) * (size + 500) + OUTPUT_FACTOR * given
    except ProtocolError:
        pass
    over += session.close()
    assert session.running == 0
    assert len(over) == len(set(map(id, over))), "a call was told of twice"
    assert [one for one in calls if one in over] == calls[len(cancelled) :]
    for one in over:
        assert one.answer is None or len(one.answer) <= MAX_MESSAGE
        assert one.http_status == 0 or 100 <= one.http_status <= 999
