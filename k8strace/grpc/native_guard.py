"""Connections of the native server whose callers have to say who they are.

A caller that is known, or known to be nobody, is judged when its headers are here, inside
the callback that brought them. Asking is a task's; until it ends no more than a window of
the request's body is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Literal

from k8strace._http2_guarded import ASKS, GuardedSession
from k8strace._http2_server import Request, ServerSession
from k8strace.auth import NOBODY, Gate, Verdict
from k8strace.errors import RefusedError, UnauthenticatedError
from k8strace.grpc.native_connection import TASK_COST, Connection, Shared, fail
from k8strace.payload import Origin


class GuardedConnection(Connection):
    """A client that `gate` lets in, but for the methods that are `open_to_all`."""

    def __init__(
        self,
        shared: Shared,
        loop: asyncio.AbstractEventLoop,
        gate: Gate,
        open_to_all: Collection[bytes],
    ) -> None:
        super().__init__(shared, loop)
        self._gate = gate
        self._open_to_all = open_to_all

    def _begin(self, now: float, options: dict[str, Any]) -> ServerSession:
        return GuardedSession(
            self._shared.handlers,
            self._reserve,
            now,
            header=self._gate.header.encode(),
            judge=self._judge,
            **options,
        )

    def _judge(self, request: Request) -> Literal[True] | str | None:
        if request.path in self._open_to_all:
            return True
        verdict = self._gate.recall(request.credential)
        if verdict is None:
            return None
        request.caller = verdict
        return True if verdict.denial is None else verdict.denial

    def _handle(self, session: ServerSession, events: list[tuple[int, Request]]) -> None:
        for event in events:
            kind, request = event
            if kind == ASKS:
                if not self._afford(TASK_COST):
                    self._refuse(session, request)
                    continue
                running = self._start(request, self._ask(request))
                running.task.add_done_callback(self._asked)
            else:
                super()._handle(session, [event])

    def _serve(self, session: ServerSession, request: Request) -> None:
        caller: Verdict = request.caller or NOBODY
        subject = caller.subject or self._subject
        origin = self._origin
        if subject != origin.subject or caller.groups != origin.groups:
            self._origin = Origin(self._peer, subject, groups=caller.groups)
        super()._serve(session, request)

    def _asked(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken(error)

    async def _ask(self, request: Request) -> None:
        reason = "unauthenticated"
        error: UnauthenticatedError | RefusedError | None = None
        try:
            request.caller = await self._gate.admit(
                request.credential, request.deadline, self._peer
            )
        except UnauthenticatedError as denied:
            error = denied
        except RefusedError as refused:
            reason, error = "auth_unavailable", refused
        request.task = None
        session = self._session
        if error is not None:
            self._shared.on_reject(reason, self._peer, str(error))
        if not isinstance(session, GuardedSession):
            return
        if error is not None:
            fail(session, request, error)
        else:
            self._handle(session, session.allowed(request, self._loop.time()))
        self._flush()
