"""`python -m k8strace.gen`: files for the cluster that the gateway stands in.

tracing-config   the tracing configuration of a component, as its version wants it,
                 and the flags that go with it; --check FILE judges one that is there
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from k8strace.kube.judgement import judged
from k8strace.kube.tracing_config import (
    TracingConfiguration,
    TracingConfigurationError,
    parse,
    unreachable,
)
from k8strace.kube.versions import (
    APISERVER_TRACING,
    FIRST_VERSIONS,
    KUBELET_TRACING,
    Gate,
    Version,
    shown,
)

DEFAULT_ENDPOINT = "localhost:4317"
DEFAULT_RATE = 10_000  # one trace in a hundred

# Whose rate etcd 3.5 takes: earlier ones don't know the flag and don't start with it.
ETCD_RATE = 11


class Request(NamedTuple):
    """What is asked for; `rate` is per million, `version` that of the component.

    `patch` is None where only the minor version is said.
    """

    version: Version
    endpoint: str
    rate: int
    patch: int | None = None


class VersionError(ValueError):
    """The component of that version has no tracing."""


def kube_apiserver(asked: Request) -> str:
    """A TracingConfiguration and the flags of kube-apiserver."""
    flags = "--tracing-config-file=/etc/kubernetes/tracing.yaml"
    if _needs(APISERVER_TRACING, asked.version):
        flags += f" --feature-gates={APISERVER_TRACING.name}=true"
    version = max(
        (one for one in FIRST_VERSIONS if FIRST_VERSIONS[one] <= asked.version),
        key=lambda one: FIRST_VERSIONS[one],
    )
    return (
        f"# kube-apiserver {shown(asked.version)}: {flags}\n"
        f"apiVersion: apiserver.config.k8s.io/{version}\n"
        "kind: TracingConfiguration\n"
        f"endpoint: {_scalar(asked.endpoint)}\n"
        f"samplingRatePerMillion: {asked.rate}\n"
    )


def kubelet(asked: Request) -> str:
    """The part of a KubeletConfiguration."""
    gate = ""
    if _needs(KUBELET_TRACING, asked.version):
        gate = f"featureGates:\n  {KUBELET_TRACING.name}: true\n"
    return (
        f"# kubelet {shown(asked.version)}: --config=/var/lib/kubelet/config.yaml\n"
        "apiVersion: kubelet.config.k8s.io/v1beta1\n"
        "kind: KubeletConfiguration\n"
        f"{gate}"
        "tracing:\n"
        f"  endpoint: {_scalar(asked.endpoint)}\n"
        f"  samplingRatePerMillion: {asked.rate}\n"
    )


def etcd(asked: Request) -> str:
    """The flags of etcd, whose versions are 3.5 and newer."""
    if asked.version < (3, 5):
        raise VersionError(f"etcd {shown(asked.version)} has no tracing: 3.5 is the first")
    if asked.version < (3, 6) and asked.patch is not None and asked.patch < ETCD_RATE:
        raise VersionError(
            f"etcd {shown(asked.version)}.{asked.patch} has no sampling rate: "
            f"3.5.{ETCD_RATE} is the first"
        )
    head = "--experimental-" if asked.version < (3, 6) else "--"
    flags = {
        "enable-distributed-tracing": "true",
        "distributed-tracing-address": asked.endpoint,
        "distributed-tracing-service-name": "etcd",
        "distributed-tracing-sampling-rate": str(asked.rate),
    }
    lines = "".join(f"{head}{name}={value}\n" for name, value in flags.items())
    return f"# etcd {shown(asked.version)}; its sampling rate is per million, too\n{lines}"


def _scalar(text: str) -> str:
    """`text` in YAML: quoted only where it would be taken for something else."""
    try:
        if parse(f"endpoint: {text}\n").endpoint == text:
            return text
    except TracingConfigurationError:
        pass
    return json.dumps(text)


def _needs(gate: Gate, version: Version) -> bool:
    """Whether the version needs the gate set."""
    if version < gate.first:
        raise VersionError(
            f"Kubernetes {shown(version)} has no {gate.name}: {shown(gate.first)} is the "
            "first"
        )
    return version < gate.on


COMPONENTS: dict[str, Callable[[Request], str]] = {
    "kube-apiserver": kube_apiserver,
    "kubelet": kubelet,
    "etcd": etcd,
}


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
        help="the component's version (of etcd, etcd's own)",
    )
    tracing.add_argument(
        "--component",
        choices=COMPONENTS,
        default="kube-apiserver",
        help="default: kube-apiserver",
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
        "--check", type=Path, metavar="FILE", help="judge this file instead of printing one"
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
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 1.34")
    return (int(found[1]), int(found[2])), int(found[3]) if found[3] else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where something is wrong with what is asked or judged."""
    asked = parser()
    options = asked.parse_args(argv)
    (version, patch), component = options.kubernetes, options.component
    if options.check is not None:
        if component == "etcd":
            asked.error("--check: etcd has no such file, it takes flags")
        problems = judged(component, options.check, version, options.feature_gates)
        for problem in problems:
            line = "" if problem.line is None else f":{problem.line}"
            sys.stderr.write(f"{options.check}{line}: {problem.text}\n")
        return 1 if problems else 0
    if options.feature_gates:
        asked.error("--feature-gates: only with --check")
    if why := unreachable(options.endpoint):
        sys.stderr.write(f"error: {why}\n")
        return 1
    try:
        rate = options.sampling_rate_per_million
        # etcd takes the same rates and the same endpoints.
        TracingConfiguration(endpoint=options.endpoint, sampling_rate_per_million=rate)
        text = COMPONENTS[component](Request(version, options.endpoint, rate, patch))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
