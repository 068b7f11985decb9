"""`python -m k8strace.gateway`: read the configuration, run the graph until a signal."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence

import uvloop

from k8strace import __version__
from k8strace.components import COMPONENTS
from k8strace.config import Loaded, load, render
from k8strace.errors import ConfigError
from k8strace.graph import Graph
from k8strace.metrics import Metrics
from k8strace.telemetry import MetricsServer, bind_process, set_up_logs

log = logging.getLogger("k8strace")

PROMISES = {
    "MEMORY": "in memory: an answer means that the spans are taken into memory",
    "STORED": "stored: an answer means that the spans are on disk",
    "DELIVERED": "delivered: an answer means that the backend has the spans",
}

EPILOG = """\
commands:
  (none)         run until SIGTERM or SIGINT; SIGHUP reads the configuration again
  validate       check the configuration, print each pipeline's promise, start nothing
  components     list every receiver, processor, exporter and extension
  print-config   print the configuration as it takes effect, defaults included

configuration:
  A URI is a file's path (or file:PATH), env:NAME for a variable that holds YAML, or
  yaml:a::b::c: value. Several are merged, the later ones win. Without any, the built-in
  default runs: OTLP/gRPC on localhost:4317, batch, spans printed by the debug exporter,
  metrics on localhost:8888, health on localhost:13133.

examples:
  python -m k8strace.gateway --config gateway.yaml
  python -m k8strace.gateway --config gateway.yaml --set exporters.otlp.endpoint=tempo:4317
  python -m k8strace.gateway validate --config gateway.yaml
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m k8strace.gateway",
        description="An OTLP trace gateway that runs the OpenTelemetry Collector's "
        "configuration.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "command",
        nargs="?",
        choices=("validate", "components", "print-config"),
        help="see below; without one the gateway runs",
    )
    result.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="URI",
        help="where the configuration is; may be given several times",
    )
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one option, such as exporters.otlp.timeout=10s; over all of --config",
    )
    result.add_argument(
        "--traces-only",
        action="store_true",
        help="leave pipelines of other signals out instead of refusing them",
    )
    result.add_argument(
        "--shutdown-timeout",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="how long a stop may take to deliver what is parked (default: 20)",
    )
    result.add_argument(
        "--mode",
        choices=("redacted", "unredacted"),
        default="redacted",
        help="print-config: whether secrets are hidden (default: redacted)",
    )
    result.add_argument(
        "--format",
        choices=("yaml", "json"),
        default="yaml",
        help="print-config: the output's format (default: yaml)",
    )
    result.add_argument("--version", action="version", version=f"k8strace {__version__}")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (1: the configuration is wrong)."""
    options = parser().parse_args(argv)
    if options.command == "components":
        sys.stdout.write(_components())
        return 0

    def configuration() -> Loaded:
        return load(options.config, options.set, traces_only=options.traces_only)

    try:
        loaded = configuration()
        if options.command == "print-config":
            sys.stdout.write(render(loaded.config, options.mode, options.format))
            return 0
        if options.command == "validate":
            sys.stdout.write(_promises(Graph(loaded.config, Metrics())))
            for note in loaded.notes:
                sys.stdout.write(f"note: {note}\n")
            return 0
        gateway = Gateway(configuration, options.shutdown_timeout)
        return uvloop.run(gateway.run(loaded))
    except ConfigError as error:
        sys.stderr.write("".join(f"error: {problem}\n" for problem in error.problems))
        return 1


class Gateway:
    """One run: a graph, the metrics that outlive it, and the signals."""

    def __init__(
        self, configuration: Callable[[], Loaded], shutdown_timeout: float
    ) -> None:
        self._configuration = configuration
        self._shutdown_timeout = shutdown_timeout
        self._metrics = Metrics()
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue(maxsize=16)

    async def run(self, loaded: Loaded) -> int:
        """Start, serve until SIGTERM or SIGINT, drain. Raises ConfigError at start."""
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(one, self._note, one)
        set_up_logs(loaded.config.service.telemetry.logs)
        graph, server = await self._start(loaded)
        while await self._signals.get() is signal.SIGHUP:
            graph, server = await self._reload(loaded, graph, server)
        try:
            return await self._stop(graph)
        finally:
            await server.stop()

    def _note(self, number: signal.Signals) -> None:
        if not self._signals.full():
            self._signals.put_nowait(number)

    async def _start(self, loaded: Loaded) -> tuple[Graph, MetricsServer]:
        telemetry = loaded.config.service.telemetry
        self._metrics.forget_gauges()
        bind_process(self._metrics)
        graph = Graph(loaded.config, self._metrics)
        server = MetricsServer(self._metrics, telemetry)
        for note in loaded.notes:
            log.info("%s", note)
        try:
            await server.start()
        except OSError as error:
            raise ConfigError([f"service::telemetry::metrics: {error.strerror}"]) from error
        try:
            await graph.start()
        except ConfigError:
            await server.stop()
            raise
        if server.address:
            log.info("metrics on http://%s/metrics", server.address)
        for line in _promises(graph).splitlines():
            log.info("%s", line)
        log.info("k8strace %s is ready", __version__)
        return graph, server

    async def _reload(
        self, running: Loaded, graph: Graph, server: MetricsServer
    ) -> tuple[Graph, MetricsServer]:
        """Replace the graph by one of the new configuration; a bad one changes nothing."""
        try:
            loaded = self._configuration()
            Graph(loaded.config, Metrics())
        except ConfigError as error:
            for problem in error.problems:
                log.error("the new configuration is wrong: %s", problem)  # noqa: TRY400
            log.error("reload refused; the running configuration goes on")  # noqa: TRY400
            return graph, server
        log.info("reloading the configuration")
        await graph.stop(self._deadline())
        await server.stop()
        try:
            result = await self._start(loaded)
        except ConfigError as error:
            for problem in error.problems:
                log.error("the new configuration doesn't start: %s", problem)  # noqa: TRY400
            log.error("going back to the configuration before")  # noqa: TRY400
            return await self._start(running)
        set_up_logs(loaded.config.service.telemetry.logs)
        return result

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._shutdown_timeout

    async def _stop(self, graph: Graph) -> int:
        """Drain; a second signal ends it at once."""
        log.info("stopping: draining for at most %g s", self._shutdown_timeout)
        draining = asyncio.ensure_future(graph.stop(self._deadline()))
        signalled = asyncio.ensure_future(self._signals.get())
        await asyncio.wait((draining, signalled), return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if not draining.done():
            for component, spans in graph.undelivered().items():
                log.error("%d spans were not delivered component=%s", spans, component)
            log.error("a second signal: stopped without draining")
            draining.cancel()
            await asyncio.wait((draining,), timeout=1.0)
            return 130
        lost = sum(one.ledger.dropped.get("shutdown", 0) for one in graph.consumers())
        if lost:
            log.error("stopped; %d spans could not be delivered in time", lost)
        else:
            log.info("stopped; everything taken was delivered or counted")
        return 0


def _promises(graph: Graph) -> str:
    return "".join(
        f"pipeline {name}: {PROMISES[promise.name]}\n"
        for name, promise in graph.promises.items()
    )


def _components() -> str:
    lines = []
    for kind, types in COMPONENTS.items():
        lines.append(f"{kind}:\n")
        for name, component in types.items():
            alias = "" if name == component.type_name else f" (= {component.type_name})"
            lines.append(f"  - {name}{alias}\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
