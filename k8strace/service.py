"""One run of the gateway: a graph, the metrics that outlive it, and the signals.

- SIGHUP replaces the graph by one of the configuration as it is then. One that is wrong
  changes nothing; where one cannot be started, the former is started again.
- The first SIGTERM or SIGINT drains, also in the middle of a reload; the second one stops
  at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, NamedTuple, TypeVar

from k8strace import __version__
from k8strace.config import Loaded
from k8strace.errors import ConfigError
from k8strace.graph import Graph
from k8strace.memory import keep_free, set_aside
from k8strace.metrics import Metrics
from k8strace.telemetry import MetricsServer, bind_process, set_up_logs

log = logging.getLogger("k8strace")

T = TypeVar("T")

CANCEL_TIMEOUT = 1.0  # seconds for what is cancelled to end
ENDED = 130  # the exit status after a second signal: 128 and SIGINT

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


class _Running(NamedTuple):
    """What runs, and the configuration that it was made of."""

    loaded: Loaded
    graph: Graph
    server: MetricsServer


class Gateway:
    """Runs what `configuration` reads, which is called again for each reload."""

    def __init__(
        self, configuration: Callable[[], Loaded], shutdown_timeout: float
    ) -> None:
        self._configuration = configuration
        self._shutdown_timeout = shutdown_timeout
        self._metrics = Metrics()
        self._reload_asked = False
        self._stop_asked = asyncio.Event()
        self._end_asked = asyncio.Event()  # to stop without draining
        self._asked = asyncio.Event()  # any of them

    def catch_signals(self) -> None:
        """Before there is a loop: end on SIGTERM and SIGINT, remember SIGHUP."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        signal.signal(signal.SIGHUP, lambda number, _: self.note(number))

    def note(self, number: int) -> None:
        """A signal came."""
        if number == signal.SIGHUP:
            self._reload_asked = True
        elif self._stop_asked.is_set():
            self._end_asked.set()
        else:
            self._stop_asked.set()
        self._asked.set()

    async def run(self, loaded: Loaded) -> int:
        """Start, serve until SIGTERM or SIGINT, drain; returns the exit status.

        Raises ConfigError where the configuration, or after a reload that failed the one
        before, cannot be started.
        """
        keep_free()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.note, number)
        running = await self._unless_stopped(self._start(loaded))
        while running is not None and not self._stop_asked.is_set():
            await self._asked.wait()
            self._asked.clear()
            if self._reload_asked and not self._stop_asked.is_set():
                self._reload_asked = False
                running = await self._reload(running)
        if running is not None:
            log.info("stopping: draining for at most %g s", self._shutdown_timeout)
            await self._drain(running)
        log.info("stopped")
        return ENDED if self._end_asked.is_set() else 0

    async def _unless_stopped(self, coro: Coroutine[Any, Any, T]) -> T | None:
        """What `coro` returns, or None where a signal to stop came before its end."""
        task = asyncio.ensure_future(coro)
        if await _ends_before(task, self._stop_asked):
            return task.result()
        task.cancel()
        await asyncio.wait((task,))
        return None if task.cancelled() else task.result()

    async def _start(self, loaded: Loaded) -> _Running:
        telemetry = loaded.config.service.telemetry
        set_up_logs(telemetry.logs)
        for note in loaded.notes:
            log.warning("%s", note)
        self._metrics.forget_gauges()
        bind_process(self._metrics)
        graph = Graph(loaded.config, self._metrics)
        server = MetricsServer(self._metrics, telemetry)
        try:
            await server.start()
        except OSError as error:
            raise ConfigError([f"service::telemetry::metrics: {error.strerror}"]) from error
        try:
            await graph.start()
        except BaseException:
            await server.stop()
            raise
        if server.address:
            log.info("metrics on http://%s/metrics", server.address)
        for line in promises(graph).splitlines():
            log.info("%s", line)
        set_aside()
        log.info("k8strace %s is ready", __version__)
        return _Running(loaded, graph, server)

    async def _reload(self, running: _Running) -> _Running | None:
        """Replace what runs. None: a signal to stop came, and nothing runs any more."""
        try:
            loaded = self._configuration()
            Graph(loaded.config, Metrics())
        except Exception as error:
            _report(error, "the new configuration is wrong")
            log.error("reload refused; the running configuration goes on")  # noqa: TRY400
            return running
        log.info("reloading: draining for at most %g s", self._shutdown_timeout)
        await self._drain(running)
        if self._stop_asked.is_set():
            return None
        try:
            return await self._unless_stopped(self._start(loaded))
        except Exception as error:
            _report(error, "the new configuration doesn't start")
        log.error("going back to the configuration before")
        return await self._unless_stopped(self._start(running.loaded))

    async def _drain(self, running: _Running) -> None:
        """Stop what runs, until its end or a second signal, and say what was lost."""
        graph = running.graph
        before = _lost(graph)
        deadline = asyncio.get_running_loop().time() + self._shutdown_timeout
        draining = asyncio.ensure_future(graph.stop(deadline))
        try:
            if not await _ends_before(draining, self._end_asked):
                for component, spans in graph.undelivered().items():
                    log.error("%d spans were not delivered component=%s", spans, component)
                log.error("a second signal: stopped without draining")
                draining.cancel()
                await asyncio.wait((draining,), timeout=CANCEL_TIMEOUT)
                return
            draining.result()
        finally:
            await running.server.stop()
        lost = _lost(graph) - before
        if lost:
            log.error("drained; %d spans could not be delivered in time", lost)
        else:
            log.info("drained; everything taken was delivered or counted")


async def _ends_before(task: asyncio.Future[Any], asked: asyncio.Event) -> bool:
    """Wait until `task` is done or something is asked; whether the task is done."""
    signalled = asyncio.ensure_future(asked.wait())
    await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    return task.done()


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _report(error: Exception, what: str) -> None:
    if isinstance(error, ConfigError):
        for problem in error.problems:
            log.error("%s: %s", what, problem)
    else:
        log.error("%s", what, exc_info=error)


def _lost(graph: Graph) -> int:
    """The spans that no stop so far could deliver."""
    return sum(one.ledger.dropped.get("shutdown", 0) for one in graph.consumers())
