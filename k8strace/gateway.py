"""`python -m k8strace.gateway`: read the configuration, run the graph until a signal."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Sequence

import uvloop

from k8strace import __version__
from k8strace.arguments import non_negative, positive_int
from k8strace.components import COMPONENTS
from k8strace.config import Loaded, load, render
from k8strace.errors import ConfigError
from k8strace.graph import Graph
from k8strace.log_queue import take_over_stderr
from k8strace.metrics import Metrics
from k8strace.service import Gateway, promises
from k8strace.signals import Signals
from k8strace.supervisor import Supervisor
from k8strace.worker import main as run_worker

SHUTDOWN_TIMEOUT = 20.0  # seconds; Kubernetes kills a pod after 30

EPILOG = """\
commands:
  (none)         run until SIGTERM or SIGINT, which drain; a second one stops at once.
                 SIGHUP reads the configuration again
  validate       check the configuration, print each pipeline's promise, start nothing
  components     list every receiver, processor, exporter and extension
  print-config   print the configuration as it takes effect, defaults included

configuration:
  A URI is a file's path (or file:PATH), env:NAME for a variable that holds YAML, or
  yaml:a::b::c: value. Several are merged, the later ones win. Without any, the built-in
  default runs: OTLP/gRPC on localhost:4317, batch, spans printed by the debug exporter,
  metrics on localhost:8888, health on localhost:13133.

exit status:
  0 stopped, or the configuration is right; 1 the configuration is wrong, or cannot be
  started; 2 the command line is wrong; 130 a second signal stopped it without draining

examples:
  python -m k8strace.gateway --config gateway.yaml
  python -m k8strace.gateway --config gateway.yaml --set exporters.otlp.endpoint=tempo:4317
  python -m k8strace.gateway validate --config gateway.yaml
"""

_RUN = None  # no command
_APPLIES = {
    **dict.fromkeys(
        ("config", "set", "traces_only", "workers"), (_RUN, "validate", "print-config")
    ),
    "shutdown_timeout": (_RUN, "validate"),
    "drop_orphans": (_RUN,),
    "worker": (_RUN,),
    **dict.fromkeys(("mode", "format"), ("print-config",)),
}
"""The commands that each option is for: one that would do nothing is an error."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m k8strace.gateway",
        description="An OTLP trace gateway that runs the OpenTelemetry Collector's "
        "configuration.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
        metavar="URI",
        help="where the configuration is; may be given several times",
    )
    result.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="set one option, such as exporters.otlp.timeout=10s; over all of --config",
    )
    result.add_argument(
        "--traces-only",
        action="store_const",
        const=True,
        help="leave pipelines of other signals out instead of refusing them",
    )
    result.add_argument(
        "--shutdown-timeout",
        type=non_negative,
        metavar="SECONDS",
        help="how long a stop or a reload may take to deliver what is parked "
        f"(default: {SHUTDOWN_TIMEOUT:g})",
    )
    result.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="share the load among N processes; sets service.workers (default: 1)",
    )
    result.add_argument(
        "--drop-orphans",
        action="store_const",
        const=True,
        help="at the start, delete what is stored for exporters that store nothing there "
        "any more; without it that is named, and kept",
    )
    # A supervisor starts its workers with this; the number is of a descriptor.
    result.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    result.add_argument(
        "--mode",
        choices=("redacted", "unredacted"),
        help="print-config: whether secrets are hidden (default: redacted)",
    )
    result.add_argument(
        "--format",
        choices=("yaml", "json"),
        help="print-config: the output's format (default: yaml)",
    )
    result.add_argument("--version", action="version", version=f"k8strace {__version__}")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    _keep_standard_files()
    options = _parse(argv)
    if options.worker is not None:
        take_over_stderr()
        return run_worker(options.worker)
    if options.command == "components":
        return _print(_components())

    def configuration() -> Loaded:
        return load(
            options.config or (), _sets(options), traces_only=bool(options.traces_only)
        )

    loaded: Loaded | None = None
    try:
        if options.command == "print-config":
            config = configuration().config
            return _print(
                render(config, options.mode or "redacted", options.format or "yaml")
            )
        if options.command == "validate":
            loaded = configuration()
            graph = Graph(loaded.config, Metrics())
            notes = "".join(f"note: {note}\n" for note in loaded.notes)
            return _print(promises(graph) + notes)
        _allow_many_files()
        given = options.shutdown_timeout
        timeout = SHUTDOWN_TIMEOUT if given is None else given
        signals = Signals()
        signals.catch()
        loaded = configuration()
        take_over_stderr()
        run = Supervisor if loaded.config.service.workers > 1 else Gateway
        gateway = run(
            configuration, timeout, signals, drop_orphans=bool(options.drop_orphans)
        )
        return uvloop.run(gateway.run(loaded))
    except ConfigError as error:
        problems = error.problems if loaded is None else loaded.placed(error.problems)
        sys.stderr.write("".join(f"error: {problem}\n" for problem in problems))
        return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as it was given; ends the process where it is wrong."""
    arguments = parser()
    options = arguments.parse_args(argv)
    for name, commands in _APPLIES.items():
        if getattr(options, name) is not None and options.command not in commands:
            where = f"to {options.command}" if options.command else "without a command"
            arguments.error(f"--{name.replace('_', '-')} does not apply {where}")
    return options


def _sets(options: argparse.Namespace) -> list[str]:
    """What is set on the command line, by `--set` and by options that stand for one."""
    workers = options.workers
    return [*(options.set or ()), *([f"service.workers={workers}"] if workers else ())]


def _keep_standard_files() -> None:
    """Have something at 0, 1 and 2 where whoever started us closed them.

    Otherwise sockets would be there, and what is printed would go to a peer.
    """
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    # Not at 1 and 2 themselves: a library may have a file of its own there by now.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _allow_many_files() -> None:
    """Have as many connections as we may: soft limits are for programs that use select."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _print(text: str) -> int:
    """Print what a command says; returns the exit status."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail again at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"error: cannot write to stdout: {error.strerror}\n")
        return 1
    return 0


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
