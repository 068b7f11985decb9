"""The otlp receiver with a sink behind it, on free ports."""

from __future__ import annotations

import asyncio
from typing import Any

from k8strace.auth import Authenticator
from k8strace.budget import Budget
from k8strace.edges import Edge
from k8strace.metrics import (
    RECEIVER_ACCEPTED_SPANS,
    RECEIVER_FAILED_SPANS,
    RECEIVER_REFUSED_SPANS,
    REQUESTS_REJECTED,
)
from k8strace.receivers.otlp import OTLP
from tests.support.auth import named_by
from tests.support.pipeline import MIB, Sink, assert_at_rest, configured, context

FREE = {"endpoint": "127.0.0.1:0"}


class Receiving:
    """`grpc` and `http` are the options of the protocols; None leaves one out."""

    def __init__(
        self,
        grpc: dict[str, Any] | None = None,
        http: dict[str, Any] | None = None,
        *,
        budget: Budget | None = None,
        authenticator: Authenticator[Any] | None = None,
        **options: Any,
    ) -> None:
        protocols = {
            name: FREE | given
            for name, given in (("grpc", grpc), ("http", http))
            if given is not None
        }
        self.budget = budget or Budget(64 * MIB)
        self.context = context("receivers", "otlp", budget=self.budget)
        if authenticator is not None:
            self.context = named_by(authenticator, self.context)
        self.ledger = self.context.ledger
        self.sink = Sink()
        self.frames_are_logged = False  # pytest keeps them, and with them the payload
        self.receiver = OTLP(
            configured(OTLP, {"protocols": protocols, **options}),
            self.context,
            Edge(self.ledger, self.sink),
        )

    async def __aenter__(self) -> Receiving:
        await self.receiver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.receiver.stop(0)
        assert_at_rest(self.ledger)
        self.sink.payloads.clear()
        assert self.frames_are_logged or self.budget.used == 0

    @property
    def grpc(self) -> str:
        return self.receiver.addresses["grpc"]

    @property
    def url(self) -> str:
        return f"http://{self.receiver.addresses['http']}/v1/traces"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server of HTTP, for bytes as they are given."""
        host, _, port = self.receiver.addresses["http"].rpartition(":")
        return await asyncio.open_connection(host, int(port))

    def counted(self, transport: str) -> tuple[float, float, float]:
        """Accepted, refused and failed spans."""
        accepted, refused, failed = (
            self.context.metrics.counter(series, "otlp", transport).value
            for series in (
                RECEIVER_ACCEPTED_SPANS,
                RECEIVER_REFUSED_SPANS,
                RECEIVER_FAILED_SPANS,
            )
        )
        return accepted, refused, failed

    def rejected(self, reason: str) -> float:
        """Requests whose spans nobody could count."""
        return self.context.metrics.counter(REQUESTS_REJECTED, "otlp", reason).value
