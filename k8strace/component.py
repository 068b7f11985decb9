"""What a component is: its configuration, its surroundings, and how payloads pass.

Data goes down by call and the outcome comes up by return:

- `await self.downstream(payload)` is the only way on. It returns when the payload is
  taken; it raises `RefusedError` (nothing was taken, try later) or `RejectedError` (never).
- Before its first suspension a `consume` uses no `asyncio.timeout`, `TaskGroup` or
  `current_task`: it may be driven without a task (`driver.pyx`).
- A component counts in its ledger what it does with spans, after the call that did it.
  What comes in and what is refused or rejected upwards is counted by the edge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from socket import socket
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from k8strace.budget import Budget, Room
from k8strace.drops import Drops
from k8strace.metrics import Ledger, Metrics
from k8strace.payload import Payload

NO_EFFECT = msgspec.Meta(extra={"no_effect": True})
"""Annotates an option of the collector that tunes something we don't have: it is accepted,
and one log line says that it does nothing here."""


def no_effect(why: str) -> msgspec.Meta:
    """As NO_EFFECT; the log line ends with `why`."""
    return msgspec.Meta(extra={"no_effect": why})


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of all components' configurations; a subclass repeats `frozen=True`.

    `not_available` has the collector's options that a subclass does not have: name → what
    to do instead, which the error says.
    """

    not_available: ClassVar[Mapping[str, str]] = {}


C_co = TypeVar("C_co", bound=Config, covariant=True)
C = TypeVar("C", bound=Config)


class ComponentID(NamedTuple):
    """A collector id: `type` or `type/name`."""

    type: str
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> ComponentID:
        """Raises ValueError for an empty or malformed id."""
        kind, slash, name = text.partition("/")
        kind, name = kind.strip(), name.strip()
        if not kind or (slash and not name):
            raise ValueError(f"id must be type or type/name, not {text!r}")
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.type}/{self.name}" if self.name else self.type


class Promise(IntEnum):
    """What an answer to a sender means; a pipeline's is the weakest on its way."""

    MEMORY = 0  # taken into memory: survives a slow backend, not the end of the process
    STORED = 1  # on disk: survives the end of the process
    DELIVERED = 2  # the backend has it


class Endpoint(NamedTuple):
    """Where a receiver listens, as it is configured.

    `adopts` says that it can listen on sockets that it is given, instead of its own.
    """

    endpoint: str
    transport: Literal["tcp", "unix"] = "tcp"
    adopts: bool = True


class Worker(msgspec.Struct, frozen=True):
    """Which one of several processes this is that share the load.

    `is_first` says that none served in its slot before it, `is_supervised` that another
    process holds what all of them share; `sockets` are those that it listens on, bound
    already: by receiver, and by the names of `Receiver.endpoints`.
    """

    slot: int = 0
    workers: int = 1
    is_first: bool = True
    is_supervised: bool = False
    sockets: Mapping[str, Mapping[str, tuple[socket, ...]]] = {}


class Context(msgspec.Struct, frozen=True):
    """What a component is given besides its configuration.

    `label` is the component's id as metrics and logs show it; `pipeline` is set for
    processors, which exist once in each pipeline. `drops` is told of what is lost.
    """

    id: ComponentID
    kind: str
    metrics: Metrics
    ledger: Ledger
    budget: Budget
    log: logging.LoggerAdapter[logging.Logger]
    drops: Drops
    pipeline: str = ""
    extensions: Mapping[ComponentID, Any] = {}
    worker: Worker = Worker()

    @property
    def label(self) -> str:
        return str(self.id)


class PipelineView(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as it is configured, by ids, and its promise."""

    name: str
    receivers: tuple[str, ...]
    processors: tuple[str, ...]
    exporters: tuple[str, ...]
    promise: Promise


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The whole gateway, for extensions that show it.

    `metrics` has what all its processes count; `configuration` makes YAML that hides
    secrets.
    """

    metrics: Metrics
    pipelines: tuple[PipelineView, ...]
    extensions: tuple[str, ...]
    configuration: Callable[[], str]


class Component(Generic[C_co]):
    """Base of all components: acquire in `start`, give back in `stop`.

    `stop` is safe without `start` and when already stopped. It flushes what is parked
    until the loop's time `deadline`, counts and logs what it could not deliver.
    """

    kind: ClassVar[str]
    type_name: ClassVar[str]
    config_type: ClassVar[type[Config]] = Config

    def __init__(self, config: C_co, context: Context) -> None:
        self.config = config
        self.context = context
        self.ledger = context.ledger
        self.drops = context.drops
        self.log = context.log

    @property
    def hard_limit(self) -> int | None:
        """The limit in bytes that it sets to the whole process's budget, if any."""
        return None

    async def start(self) -> None:
        """Raise OSError or ConfigError when it cannot work."""

    async def stop(self, deadline: float) -> None:
        """Flush until `deadline`, then give everything back."""


class Blocked(NamedTuple):
    """A room in which `amount` doesn't fit now, and what has to come free in it.

    Only for amounts that can fit at all: what is over a room's limit is for `consume` to
    reject.
    """

    room: Room
    amount: int


class Outlet(Protocol):
    """The way on from a component: to one component, or to several by a fan-out."""

    promise: Promise

    async def __call__(self, payload: Payload) -> None:
        """Hand `payload` on; returns when it is taken."""

    def blocked_by(self, payload: Payload) -> Blocked | None:
        """Where `payload` does not fit now, somewhere on the way; None: go."""


class Receiver(Component[C_co]):
    """Takes spans from outside. Counts what it received and passed on by itself."""

    kind = "receivers"

    def __init__(self, config: C_co, context: Context, downstream: Outlet) -> None:
        super().__init__(config, context)
        self.downstream = downstream

    def endpoints(self) -> Mapping[str, Endpoint]:
        """Where it listens, by names of its own.

        With several workers these are opened before any of them starts; a worker finds
        its sockets in `context.worker`, and opens nothing.
        """
        return {}

    @property
    def without_metadata(self) -> Sequence[str]:
        """The protocols that don't keep requests' metadata, as their options are named."""
        return ()


class Consumer(Component[C_co]):
    """What payloads can be handed to: processors and exporters."""

    @property
    def promise(self) -> Promise:
        """What returning from `consume` means for the payload."""
        raise NotImplementedError

    async def consume(self, payload: Payload) -> None:
        """Take `payload`, or raise RefusedError or RejectedError."""
        raise NotImplementedError

    def blocked_by(self, payload: Payload) -> Blocked | None:
        """Where `payload` does not fit now; fan-out asks before it hands on.

        Parking components answer for their own room. A component that asks must hand on
        without suspending in between.
        """
        raise NotImplementedError

    @property
    def reads_metadata(self) -> tuple[str, ...]:
        """The names of requests' metadata that it reads, which receivers have to keep."""
        return ()


class Processor(Consumer[C_co]):
    """Changes, drops or delays payloads on their way.

    `joins` says that payloads of several requests leave it as one, `needs_origin` that it
    reads payloads' origins.
    """

    kind = "processors"
    joins: ClassVar[bool] = False

    @property
    def needs_origin(self) -> bool:
        return False

    def __init__(self, config: C_co, context: Context, downstream: Outlet) -> None:
        super().__init__(config, context)
        self.downstream = downstream

    @property
    def promise(self) -> Promise:
        return self.downstream.promise

    def blocked_by(self, payload: Payload) -> Blocked | None:
        return self.downstream.blocked_by(payload)


class Exporter(Consumer[C_co]):
    """Sends payloads out. `send` is what each exporter is; the rest is `_sending.py`."""

    kind = "exporters"

    @property
    def needs_origin(self) -> bool:
        """Whether it reads payloads' origins."""
        return False

    def blocked_by(self, payload: Payload) -> Blocked | None:  # noqa: ARG002
        return None


class Extension(Component[C_co]):
    """Serves the gateway itself. `ready` is told when the pipelines come and go, `show`
    what the gateway is.

    With several workers it runs in each, or if it `speaks_for_all` in their supervisor.
    """

    kind = "extensions"
    speaks_for_all: ClassVar[bool] = False

    def show(self, overview: Overview) -> None:
        """Told before `start`, and again when the workers are of another configuration."""

    def ready(self, is_ready: bool) -> None:
        """Told True when everything is started, False when draining begins."""


STORAGE = msgspec.Meta(extra={"extension": "storage"})
"""Annotates an option that names an extension which keeps things on disk."""


class Storage(Extension[C_co]):
    """An extension in whose directory exporters keep what waits to be sent.

    What it holds there for all processes of a gateway, it holds from `hold` to `release`:
    in its own process, or where there are several in their supervisor.
    """

    def place(self, exporter: ComponentID) -> Path:
        """The folder of an exporter, which is named by that: it is no orphan."""
        raise NotImplementedError

    async def hold(self) -> None:
        """Lock the directory, and say which folders no exporter has named. May be repeated.

        Raises OSError that says what is wrong with it, or who has it.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Let go of the directory; nothing to let go of is fine."""
        raise NotImplementedError

    def drop_orphans(self, metrics: Metrics) -> None:
        """Delete, while it is held, the folders that no exporter has named."""
        raise NotImplementedError
