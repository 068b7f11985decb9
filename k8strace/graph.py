"""The graph of components: built from a configuration, started from the back, stopped
from the front.

Receivers, exporters and extensions exist once however many pipelines name them;
processors exist once in each pipeline. A component that no pipeline names is not built.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from k8strace.background import Turn
from k8strace.budget import Budget
from k8strace.component import (
    Component,
    ComponentID,
    Consumer,
    Context,
    Exporter,
    Extension,
    Outlet,
    Overview,
    PipelineView,
    Processor,
    Promise,
    Receiver,
    Storage,
    Worker,
)
from k8strace.components import COMPONENTS
from k8strace.config import GatewayConfig, render
from k8strace.drops import Drops
from k8strace.edges import Edge, FanOut
from k8strace.errors import ConfigError, OptionError
from k8strace.memory import default_budget
from k8strace.metrics import (
    BUDGET_LIMIT,
    BUDGET_UPKEEP,
    BUDGET_USED,
    SPANS_RESENT,
    Ledger,
    Metrics,
)

log = logging.getLogger("k8strace")

OBJECTS = 768  # bytes that a payload's objects cost while it waits, whatever its size


class Graph:
    """All components of a configuration, wired. Nothing is acquired before `start`.

    Extensions are shown `overview`, or where it is None the graph itself.
    """

    def __init__(
        self,
        config: GatewayConfig,
        metrics: Metrics,
        worker: Worker | None = None,
        overview: Overview | None = None,
    ) -> None:
        self.config = config
        self.metrics = metrics
        self.worker = worker or Worker(workers=config.service.workers)
        memory = default_budget() // self.worker.workers
        self.budget = Budget(memory, per_lease=OBJECTS)
        self.extensions: dict[ComponentID, Extension[Any]] = {}
        self.exporters: dict[ComponentID, Exporter[Any]] = {}
        self.processors: dict[ComponentID, list[Processor[Any]]] = {}
        self.receivers: dict[ComponentID, Receiver[Any]] = {}
        self.promises: dict[ComponentID, Promise] = {}
        self._started: list[Component[Any]] = []
        self._drops: list[Drops] = []
        self._build()
        self.show(overview or self.overview(metrics))
        metrics.gauge(BUDGET_USED, lambda: self.budget.used)
        metrics.gauge(BUDGET_LIMIT, lambda: self.budget.limit)
        metrics.gauge(BUDGET_UPKEEP, lambda: self.budget.upkeep.used)

    def _build(self) -> None:
        service = self.config.service
        for id_ in service.extensions:
            self.extensions[id_] = self._make("extensions", id_)
        heads: dict[ComponentID, list[Consumer[Any]]] = {}
        problems: list[str] = []
        for name, pipeline in service.pipelines.items():
            consumers: list[Consumer[Any]] = []
            for id_ in pipeline.exporters:
                if id_ not in self.exporters:
                    self.exporters[id_] = self._make("exporters", id_)
                consumers.append(self.exporters[id_])
            chain: list[Processor[Any]] = []
            for id_ in reversed(pipeline.processors):
                context = self._context("processors", id_, str(name))
                outlet = self._outlet(context, consumers)
                processor = self._make("processors", id_, context, outlet)
                chain.insert(0, processor)
                consumers = [processor]
            self.processors[name] = chain
            self.promises[name] = min(one.promise for one in consumers)
            exporters = [self.exporters[one] for one in pipeline.exporters]
            problems += _without_origin(name, [*chain, *exporters])
            for id_ in pipeline.receivers:
                heads.setdefault(id_, []).extend(consumers)
        # Before the receivers, whose servers share it out.
        self.budget.limit = min([self.budget.limit, *self._hard_limits()])
        for id_, consumers in heads.items():
            context = self._context("receivers", id_)
            outlet = self._outlet(context, consumers)
            self.receivers[id_] = self._make("receivers", id_, context, outlet)
        if problems:
            raise ConfigError(problems)

    def _hard_limits(self) -> Iterator[int]:
        for one in (*self.extensions.values(), *self.consumers()):
            if one.hard_limit is not None:
                yield one.hard_limit

    def _context(self, kind: str, id_: ComponentID, pipeline: str = "") -> Context:
        fields = {"component": f"{kind}/{id_}"}
        if pipeline:
            fields["pipeline"] = pipeline
        # No span ever comes to an extension: it has no place in the accounting.
        is_aside = kind == "extensions"
        ledger = Ledger() if is_aside else self.metrics.ledger(kind, str(id_), pipeline)
        adapter = logging.LoggerAdapter(log, fields)
        drops = Drops(kind, str(id_), adapter, ledger, self.metrics.losses)
        self._drops.append(drops)
        return Context(
            id=id_,
            kind=kind,
            metrics=self.metrics,
            ledger=ledger,
            budget=self.budget,
            log=adapter,
            drops=drops,
            pipeline=pipeline,
            extensions=self.extensions,
            worker=self.worker,
        )

    def _make(
        self,
        kind: str,
        id_: ComponentID,
        context: Context | None = None,
        downstream: Outlet | None = None,
    ) -> Any:
        config = getattr(self.config, kind)[id_]
        arguments = [config, context or self._context(kind, id_)]
        if downstream is not None:
            arguments.append(downstream)
        try:
            return COMPONENTS[kind][id_.type](*arguments)
        except ValueError as error:
            raise ConfigError([f"{kind}::{id_}: {error}"]) from error

    def _outlet(self, context: Context, consumers: Sequence[Consumer[Any]]) -> Outlet:
        if len(consumers) == 1:
            return Edge(context.ledger, consumers[0])
        edges = [Edge(Ledger(), consumer) for consumer in consumers]
        resent = self.metrics.counter(SPANS_RESENT, context.kind, context.label)
        return FanOut(context.ledger, edges, resent)

    def overview(self, metrics: Metrics) -> Overview:
        """What this graph is; `metrics` has what it counts, or its processes do."""
        service = self.config.service
        return Overview(
            metrics=metrics,
            pipelines=tuple(
                PipelineView(
                    name=str(name),
                    receivers=tuple(map(str, pipeline.receivers)),
                    processors=tuple(map(str, pipeline.processors)),
                    exporters=tuple(map(str, pipeline.exporters)),
                    promise=self.promises[name],
                )
                for name, pipeline in service.pipelines.items()
            ),
            extensions=tuple(map(str, service.extensions)),
            configuration=partial(render, self.config),
        )

    def show(self, overview: Overview) -> None:
        """Show the extensions what the gateway is."""
        for extension in self.extensions.values():
            extension.show(overview)

    def consumers(self) -> Iterator[Consumer[Any]]:
        """Processors and exporters, from the front to the back."""
        for chain in self.processors.values():
            yield from chain
        yield from self.exporters.values()

    async def start(self) -> None:
        """Start all, from the back; what is started is stopped again if one fails.

        Raises ConfigError that names the component.
        """
        order = [
            *self.extensions.values(),
            *reversed(list(self.consumers())),
            *self.receivers.values(),
        ]
        turn = Turn()
        try:
            for component in order:
                self._started.append(component)  # whatever it gets before it fails
                await component.start()
                await turn.end()
            self._tell_of_missing_metadata()
        except (OSError, ValueError, ConfigError) as error:
            await self.stop(asyncio.get_running_loop().time())
            where = f"{component.kind}::{component.context.label}"
            if isinstance(error, OptionError):
                raise error.below(where) from error
            raise ConfigError([f"{where}: {reason(error)}"]) from error
        except BaseException:
            await self.stop(asyncio.get_running_loop().time())
            raise
        self.ready(True)

    def _tell_of_missing_metadata(self) -> None:
        """Warn of components that read metadata which their receivers don't keep."""
        for name, pipeline in self.config.service.pipelines.items():
            missing = [
                f"receivers::{id_}::{protocol}"
                for id_ in pipeline.receivers
                for protocol in self.receivers[id_].without_metadata
            ]
            exporters = [self.exporters[id_] for id_ in pipeline.exporters]
            for one in (*self.processors[name], *exporters):
                if missing and one.reads_metadata:
                    one.log.warning(
                        "%s is taken from requests' headers in the pipeline %s, and %s "
                        "without `include_metadata: true` keeps none",
                        *(", ".join(one.reads_metadata), name, " and ".join(missing)),
                    )

    def ready(self, is_ready: bool) -> None:
        """Tell the extensions whether spans are taken."""
        for extension in self.extensions.values():
            extension.ready(is_ready)

    def storages(self) -> list[Storage[Any]]:
        """The extensions that keep what waits on disk."""
        return [one for one in self.extensions.values() if isinstance(one, Storage)]

    async def stop(self, deadline: float) -> None:
        """Drain from the front until the loop's time `deadline`, then give all back.

        Receivers get a third of the time, processors the second, exporters what is left.
        """
        now = asyncio.get_running_loop().time()
        third = max(0.0, deadline - now) / 3
        self.ready(False)
        columns = _columns(list(self.processors.values()))
        stages: list[tuple[Sequence[Component[Any]], float]] = [
            (list(self.receivers.values()), now + third),
            *[(column, now + 2 * third) for column in columns],
            (list(self.exporters.values()), deadline),
            (list(self.extensions.values()), deadline),
        ]
        for components, until in stages:
            started = [one for one in components if one in self._started]
            results = await asyncio.gather(
                *(one.stop(until) for one in started), return_exceptions=True
            )
            for component, result in zip(started, results, strict=True):
                if isinstance(result, BaseException):
                    component.log.error("stopping failed", exc_info=result)
        self._started.clear()

    def tell_losses(self) -> None:
        """Log what was lost and would be logged when its minute is over."""
        for drops in self._drops:
            drops.lines.flush()

    def undelivered(self) -> dict[str, int]:
        """Spans that are still somewhere, by component; after `stop` there are none."""
        return {
            f"{one.kind}/{one.context.label}": one.ledger.parked + one.ledger.in_flight
            for one in self.consumers()
            if one.ledger.parked + one.ledger.in_flight
        }


def _without_origin(
    pipeline: ComponentID, chain: Sequence[Processor[Any] | Exporter[Any]]
) -> list[str]:
    """What in a pipeline needs an origin which is joined away by then."""
    problems = []
    joiner: Processor[Any] | None = None
    for one in chain:
        label = one.context.label
        if joiner is not None and one.needs_origin:
            is_last = isinstance(one, Exporter)
            todo = f"take {joiner.context.label} out" if is_last else f"put {label} first"
            problems.append(
                f"service::pipelines::{pipeline}: {label} needs each request's origin, but "
                f"{joiner.context.label} in front of it joins requests: {todo}"
            )
        if isinstance(one, Processor) and one.joins:
            joiner = one
    return problems


def reason(error: Exception) -> str:
    """The text of an error without the number that Python puts into an OSError's."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _columns(
    chains: Sequence[Sequence[Processor[Any]]],
) -> Iterator[Sequence[Processor[Any]]]:
    """The first processors of all chains, then the second ones, and so on."""
    for index in range(max(map(len, chains), default=0)):
        yield [chain[index] for chain in chains if index < len(chain)]
