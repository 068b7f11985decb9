"""One run of the gateway: a graph, the metrics that outlive it, and the signals.

- SIGHUP replaces the graph by one of the configuration as it is then. One that is wrong
  changes nothing; where one cannot be started, the former is started again. Sockets that
  both of them listen on stay open: who connects meanwhile waits for the new graph.
- The first SIGTERM or SIGINT drains, also in the middle of a reload; the second one stops
  at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from k8strace import __version__
from k8strace.background import Ticker, ended, in_thread
from k8strace.component import Worker
from k8strace.config import Loaded, Telemetry
from k8strace.errors import ConfigError
from k8strace.graph import Graph
from k8strace.listeners import Listeners, Wanted
from k8strace.loop_lag import LoopLag
from k8strace.memory import collect_some, keep_free, let_go, set_aside
from k8strace.metrics import Metrics
from k8strace.signals import ENDED, Signals, ends_before
from k8strace.telemetry import MetricsServer, bind_process, set_up_logs

log = logging.getLogger("k8strace")

COLLECT_EVERY = 1.0  # seconds
CANCEL_TIMEOUT = 1.0  # seconds for what is cancelled to end

PROMISES = {
    "MEMORY": "in memory: an answer means that the spans are taken into memory",
    "STORED": "stored: an answer means that the spans are on disk",
    "DELIVERED": "delivered: an answer means that the backend has the spans",
}


def promises(graph: Graph) -> str:
    """What each pipeline's answers mean, a line for each."""
    return "".join(
        f"pipeline {name}: {PROMISES[promise.name]}\n"
        for name, promise in graph.promises.items()
    )


class Outside(Protocol):
    """Where a run shows its metrics."""

    @property
    def address(self) -> str:
        """The address as bound; empty where nothing listens."""

    async def start(self) -> None:
        """Raises OSError that names the address."""

    async def stop(self) -> None: ...


class _Running(NamedTuple):
    """What runs, and the configuration that it was made of."""

    loaded: Loaded
    graph: Graph
    outside: Outside


class Gateway:
    """Runs what `configuration` reads, which is called again for each reload."""

    def __init__(
        self,
        configuration: Callable[[], Loaded],
        shutdown_timeout: float,
        signals: Signals,
        metrics: Metrics | None = None,
        worker: Worker | None = None,
        *,
        drop_orphans: bool = False,
    ) -> None:
        self.signals = signals
        self.metrics = metrics or Metrics()
        self._configuration = configuration
        self._shutdown_timeout = shutdown_timeout
        self._worker = worker
        # A worker is given its sockets.
        self._listeners = Listeners(reuse_port=False)
        self._drops_orphans = drop_orphans  # of the first start
        self._lag = LoopLag(self.metrics)
        self._collector = Ticker(COLLECT_EVERY, collect_some, "collecting garbage", log)

    async def run(self, loaded: Loaded) -> int:
        """Start, serve until SIGTERM or SIGINT, drain; returns the exit status.

        Raises ConfigError where the configuration, or after a reload that failed the one
        before, cannot be started.
        """
        keep_free()
        try:
            return await self._run(loaded)
        finally:
            self._listeners.close()

    async def _run(self, loaded: Loaded) -> int:
        signals = self.signals
        signals.follow()
        set_aside()
        running = await signals.unless_stopped(self._start(loaded))
        self._lag.start()
        self._collector.start()
        while running is not None and not signals.stop_asked.is_set():
            await signals.asked.wait()
            signals.asked.clear()
            if signals.reload_asked and not signals.stop_asked.is_set():
                signals.reload_asked = False
                running = await self._reload(running)
        if running is not None:
            log.info("stopping: draining for at most %g s", self._shutdown_timeout)
            self._listeners.close()
            await self._drain(running)
        self._lag.stop()
        self._collector.stop()
        log.info("stopped")
        return ENDED if signals.end_asked.is_set() else 0

    def outside(self, telemetry: Telemetry) -> Outside:
        """What shows the metrics of a run."""
        return MetricsServer(self.metrics, telemetry)

    def announce(self, graph: Graph) -> None:
        """Say that everything is started."""
        for line in promises(graph).splitlines():
            log.info("%s", line)
        log.info("k8strace %s is ready", __version__)

    async def _start(self, loaded: Loaded, wanted: Wanted | None = None) -> _Running:
        telemetry = loaded.config.service.telemetry
        set_up_logs(telemetry.logs, self._worker)
        for note in loaded.notes:
            log.warning("%s", note)
        self.metrics.forget_gauges()
        bind_process(self.metrics, is_worker=self._worker is not None)
        try:
            return await self._start_graph(loaded, wanted)
        except ConfigError as error:
            raise ConfigError(loaded.placed(error.problems)) from error

    async def _start_graph(self, loaded: Loaded, wanted: Wanted | None) -> _Running:
        telemetry = loaded.config.service.telemetry
        worker = self._worker or await self._listening(loaded, wanted)
        try:
            graph = await in_thread(Graph, loaded.config, self.metrics, worker)
            outside = self.outside(telemetry)
            try:
                await outside.start()
            except OSError as error:
                where = "service::telemetry::metrics"
                raise ConfigError([f"{where}: {error.strerror}"]) from error
            try:
                await graph.start()
            except BaseException:
                await outside.stop()
                raise
        except BaseException:
            _close(worker)
            raise
        if self._drops_orphans:
            for storage in graph.storages():
                storage.drop_orphans(self.metrics)
        self._drops_orphans = False
        if outside.address:
            log.info("metrics on http://%s/metrics", outside.address)
        let_go()
        self.announce(graph)
        return _Running(loaded, graph, outside)

    async def _listening(self, loaded: Loaded, wanted: Wanted | None) -> Worker:
        """The only process, with sockets for all endpoints. Raises ConfigError."""
        if wanted is None:
            wanted = await in_thread(_endpoints, loaded)
        self._listeners.keep(wanted, 1)
        await self._listeners.open(wanted, 1)
        sockets = {
            receiver: {name: tuple(one.dup() for one in own) for name, own in found.items()}
            for receiver, found in self._listeners.of(wanted, 0).items()
        }
        return Worker(sockets=sockets)

    async def _reload(self, running: _Running) -> _Running | None:
        """Replace what runs. None: a signal to stop came, and nothing runs any more."""
        try:
            # Large ones take seconds, of which the loop must not be kept.
            found = await self.signals.unless_stopped(in_thread(self._read))
            if found is None:
                return running
            loaded, wanted = found
        except Exception as error:
            report(error, "the new configuration is wrong")
            log.error("reload refused; the running configuration goes on")  # noqa: TRY400
            return running
        log.info("reloading: draining for at most %g s", self._shutdown_timeout)
        if self._worker is None:
            self._listeners.keep(wanted, 1)
        for receiver in running.graph.receivers.values():
            for name, one in receiver.endpoints().items():
                if not one.adopts:
                    log.warning(
                        "%s: the port of %s (%s) is closed until the new configuration "
                        "runs; with engine native it would stay open",
                        *(receiver.context.label, name, one.endpoint),
                    )
        await self._drain(running)
        if self.signals.stop_asked.is_set():
            return None
        try:
            return await self.signals.unless_stopped(self._start(loaded, wanted))
        except Exception as error:
            report(error, "the new configuration doesn't start")
        log.error("going back to the configuration before")
        return await self.signals.unless_stopped(self._start(running.loaded))

    def _read(self) -> tuple[Loaded, Wanted]:
        """The configuration as it is now, and its endpoints. Raises ConfigError."""
        loaded = self._configuration()
        _check_workers(loaded)
        return loaded, _endpoints(loaded)

    async def _drain(self, running: _Running) -> None:
        """Stop what runs, until its end or a second signal, and say what was lost."""
        graph = running.graph
        before = _lost(graph)
        deadline = asyncio.get_running_loop().time() + self._shutdown_timeout
        draining = asyncio.ensure_future(graph.stop(deadline))
        try:
            if not await ends_before(draining, self.signals.end_asked):
                for component, spans in graph.undelivered().items():
                    log.error("%d spans were not delivered component=%s", spans, component)
                log.error("a second signal: stopped without draining")
                draining.cancel()
                await ended(draining, CANCEL_TIMEOUT)
                return
            draining.result()
        finally:
            graph.tell_losses()
            await running.outside.stop()
        lost = _lost(graph) - before
        if lost:
            log.error("drained; %d spans could not be delivered in time", lost)
        else:
            log.info("drained; everything taken was delivered or counted")


def _endpoints(loaded: Loaded) -> Wanted:
    """The endpoints of a configuration whose sockets can outlive its graph."""
    graph = Graph(loaded.config, Metrics())
    return {
        str(id_): {name: one for name, one in receiver.endpoints().items() if one.adopts}
        for id_, receiver in graph.receivers.items()
    }


def _close(worker: Worker) -> None:
    """Close what was to be listened on; what is closed already stays so."""
    for endpoints in worker.sockets.values():
        for sockets in endpoints.values():
            for one in sockets:
                one.close()


def report(error: Exception, what: str) -> None:
    """Log why a configuration cannot be used."""
    if isinstance(error, ConfigError):
        for problem in error.problems:
            log.error("%s: %s", what, problem)
    else:
        log.error("%s", what, exc_info=error)


def _lost(graph: Graph) -> int:
    """The spans that no stop so far could deliver."""
    return sum(one.ledger.dropped.get("shutdown", 0) for one in graph.consumers())


def _check_workers(loaded: Loaded) -> None:
    """Raises ConfigError for what one process cannot become."""
    if loaded.config.service.workers > 1:
        raise ConfigError(
            ["service::workers: to have more than one, the gateway must be started anew"]
        )
