"""A client of a native server's session, without sockets."""

from __future__ import annotations

from typing import Any

from k8strace._http2_server import (
    WHOLE,
    Request,
    ServerSession,
)
from tests.support.backend import PATH
from tests.support.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC,
    HEADERS,
    PREFACE,
    SETTINGS,
    Frame,
    frame,
    frames,
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

    def _admit(self, size: int, missing: int) -> Any:
        assert 0 <= missing <= size
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
