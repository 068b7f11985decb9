"""Servers' sessions that ask who calls, before anything of a request's body is taken."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, final

from k8strace._http2_server import Request, ServerSession

ASKS: int
"""Who calls has to be asked; `allowed` or `fail` is waited for."""

@final
class GuardedSession(ServerSession):
    """A session whose `judge` says of each request whether its caller may.

    It is asked when the headers are complete, and finds what the header named `header`
    has in `Request.credential` (the first, where there are several; None where there is
    none), which is not kept as metadata. It says True, or why not, or None when it has to
    ask: then the body is not read, beyond STREAM_WINDOW, until `allowed`. It must not call
    the session. What it raises, the method raises that led to it.
    """

    def __init__(
        self,
        paths: Iterable[bytes],
        admit: Callable[[int, int], Any],
        now: float,
        *,
        header: bytes,
        judge: Callable[[Request], Literal[True] | str | None],
        max_message: int,
        max_streams: int,
        max_headers: int,
        metadata: bool = False,
        ping_interval: float = 0,
        permits_pings: bool = True,
    ) -> None: ...
    def allowed(self, request: Request, now: float) -> list[tuple[int, Request]]:
        """The caller of a request that was asked about may."""
