"""`python -m k8strace.gen`: files for the cluster that the gateway stands in.

tracing-config   what makes a component send its spans, as its version wants it: the file,
                 the flags, or with --distribution the distribution's own files;
                 --check FILE says what becomes of a component with a file that is there
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from k8strace.kube.component_files import COMPONENTS, Request
from k8strace.kube.distributions import DISTRIBUTIONS, files
from k8strace.kube.judgement import judged, notes, verdict
from k8strace.kube.tracing_config import TracingConfiguration, unreachable
from k8strace.kube.versions import Version, shown

DEFAULT_ENDPOINT = "localhost:4317"
DEFAULT_RATE = 10_000  # one trace in a hundred
CHECKED = ("kube-apiserver", "kubelet")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m k8strace.gen", description="Files for the cluster of the gateway."
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tracing = commands.add_parser(
        "tracing-config",
        help="what makes a component send its spans",
        description="Print what makes a component send its spans, or judge it.",
    )
    tracing.add_argument(
        "--kubernetes",
        required=True,
        type=_version,
        metavar="1.34",
        help="the component's version (of etcd, containerd and CRI-O their own)",
    )
    tracing.add_argument(
        "--component",
        choices=COMPONENTS,
        help="default: kube-apiserver; with --check, by the file's kind",
    )
    tracing.add_argument(
        "--distribution",
        choices=DISTRIBUTIONS,
        help="print its own files, of kube-apiserver and kubelet together",
    )
    tracing.add_argument(
        "--endpoint",
        default=DEFAULT_ENDPOINT,
        help=f"where the gateway listens (default: {DEFAULT_ENDPOINT})",
    )
    tracing.add_argument(
        "--sampling-rate-per-million",
        type=int,
        default=DEFAULT_RATE,
        metavar="N",
        help=f"how many of a million traces are begun (default: {DEFAULT_RATE})",
    )
    tracing.add_argument(
        "--check",
        type=Path,
        metavar="FILE",
        help="say whether it starts with this file, and what is wrong (exit status 1)",
    )
    tracing.add_argument(
        "--feature-gates",
        default="",
        metavar="GATES",
        help="with --check: the component's --feature-gates",
    )
    return result


def _version(text: str) -> tuple[Version, int | None]:
    found = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+).*)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a version such as 1.34")
    return (int(found[1]), int(found[2])), int(found[3]) if found[3] else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where something is wrong with what is asked or judged."""
    asked = parser()
    options = asked.parse_args(argv)
    (version, patch), component = options.kubernetes, options.component or "kube-apiserver"
    if options.distribution and (options.component or options.check):
        asked.error("--distribution: not with --component or --check")
    if options.check is not None:
        if component not in CHECKED:
            asked.error(f"--check: is for files of {' and '.join(CHECKED)}")
        return _check(options.component, options.check, version, options.feature_gates)
    if options.feature_gates:
        asked.error("--feature-gates: only with --check")
    endpoint, rate = options.endpoint, options.sampling_rate_per_million
    request = Request(version, endpoint, rate, patch)
    try:
        # The others take the same rates and the same endpoints.
        TracingConfiguration(endpoint=endpoint, sampling_rate_per_million=rate)
        if options.distribution:
            text = files(options.distribution, request)
        else:
            text = COMPONENTS[component](request)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if why := unreachable(endpoint):
        # A wrong authority is wrong everywhere, the rest depends on what there is.
        is_wrong = "://" in endpoint
        sys.stderr.write(f"{'error' if is_wrong else 'warning'}: {why}\n")
        if is_wrong:
            return 1
    _note(component, version)
    sys.stdout.write(text)
    return 0


def _check(asked: str | None, path: Path, version: Version, gates: str) -> int:
    """Say what becomes of the component; 1 where something is wrong."""
    component, problems = judged(asked, path, version, gates)
    sys.stdout.write(f"{path}: {component} {shown(version)} {verdict(problems)}\n")
    for problem in problems:
        line = "" if problem.line is None else f":{problem.line}"
        ignored = "ignored: " if problem.effect == "ignored" else ""
        sys.stderr.write(f"{path}{line}: {ignored}{problem.text}\n")
    _note(component, version)
    return 1 if problems else 0


def _note(component: str, version: Version) -> None:
    for note in notes(component, version):
        sys.stderr.write(f"note: {note}\n")


if __name__ == "__main__":
    sys.exit(main())
