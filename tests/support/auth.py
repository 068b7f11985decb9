"""An authenticator that does what a test tells it, and credentials of callers."""

from __future__ import annotations

import asyncio
from typing import Any

from k8strace.auth import Authenticator, ClientAuth, ServerAuth, Verdict
from k8strace.component import Context
from tests.support.pipeline import configured, context

ANN = {"authorization": "Bearer ann"}


class Doorman:
    """Knows those in `known` at once; who else comes is asked about in `found`.

    While `gate` is closed asking waits. `asked` has what it was asked about, `error` is
    what asking raises.
    """

    header = "authorization"
    challenge = "Bearer"

    def __init__(self, **known: Verdict) -> None:
        self.known = {f"Bearer {name}".encode(): one for name, one in known.items()}
        self.found: dict[bytes, Verdict] = {}
        self.asked: list[bytes] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def recall(self, credential: bytes) -> Verdict | None:
        return self.known.get(credential)

    async def ask(self, credential: bytes, peer: str = "") -> Verdict:
        self.asked.append(credential)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.found.get(credential, Verdict(denial="nobody we know"))


def named_by(one: Authenticator[Any], of: Context) -> Context:
    """The context of a component whose `auth` names `one`."""
    return Context(
        id=of.id,
        kind=of.kind,
        metrics=of.metrics,
        ledger=of.ledger,
        budget=of.budget,
        log=of.log,
        drops=of.drops,
        extensions={one.context.id: one},
    )


def extension(kind: type[Authenticator[Any]], **values: Any) -> Any:
    """An authenticator, not started."""
    return kind(configured(kind, values), context("extensions", kind.type_name))


__all__ = ["ANN", "ClientAuth", "Doorman", "ServerAuth", "extension", "named_by"]
