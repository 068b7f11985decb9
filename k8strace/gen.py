"""`python -m k8strace.gen`: files for the cluster that the gateway stands in.

tracing-config   the tracing configuration of a component, as its version wants it,
                 and the flags that go with it; --check FILE judges one that is there
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from k8strace.kube.tracing_config import (
    TracingConfiguration,
    TracingConfigurationError,
    parse_kubelet,
    read,
)

DEFAULT_ENDPOINT = "localhost:4317"
DEFAULT_RATE = 10_000  # one trace in a hundred

Version = tuple[int, int]

# When gates were removed: a component that is given one from then on does not start.
GONE: dict[str, Version] = {"APIServerTracing": (1, 37)}


class Request(NamedTuple):
    """What is asked for; `rate` is per million, `version` that of the component."""

    version: Version
    endpoint: str
    rate: int


class VersionError(ValueError):
    """The component of that version has no tracing."""


def kube_apiserver(asked: Request) -> str:
    """A TracingConfiguration and the flags of kube-apiserver."""
    flags = "--tracing-config-file=/etc/kubernetes/tracing.yaml"
    if note := _gate(asked.version, "APIServerTracing", (1, 22)):
        flags += f" {note}"
    version = _group_version(asked.version)
    return (
        f"# kube-apiserver {_shown(asked.version)}: {flags}\n"
        f"apiVersion: apiserver.config.k8s.io/{version}\n"
        "kind: TracingConfiguration\n"
        f"endpoint: {asked.endpoint}\n"
        f"samplingRatePerMillion: {asked.rate}\n"
    )


def kubelet(asked: Request) -> str:
    """The part of a KubeletConfiguration."""
    gate = ""
    if _gate(asked.version, "KubeletTracing", (1, 25)):
        gate = "featureGates:\n  KubeletTracing: true\n"
    return (
        f"# kubelet {_shown(asked.version)}: --config=/var/lib/kubelet/config.yaml\n"
        "apiVersion: kubelet.config.k8s.io/v1beta1\n"
        "kind: KubeletConfiguration\n"
        f"{gate}"
        "tracing:\n"
        f"  endpoint: {asked.endpoint}\n"
        f"  samplingRatePerMillion: {asked.rate}\n"
    )


def etcd(asked: Request) -> str:
    """The flags of etcd, whose versions are 3.5 and newer."""
    if asked.version < (3, 5):
        raise VersionError(f"etcd {_shown(asked.version)} has no tracing: 3.5 is the first")
    head = "--experimental-" if asked.version < (3, 6) else "--"
    flags = {
        "enable-distributed-tracing": "true",
        "distributed-tracing-address": asked.endpoint,
        "distributed-tracing-service-name": "etcd",
        "distributed-tracing-sampling-rate": str(asked.rate),
    }
    lines = "".join(f"{head}{name}={value}\n" for name, value in flags.items())
    return f"# etcd {_shown(asked.version)}; its sampling rate is per million, too\n{lines}"


def _gate(version: Version, gate: str, first: Version) -> str:
    """The flag for a feature gate, where the version needs it."""
    if version < first:
        raise VersionError(
            f"Kubernetes {_shown(version)} has no {gate}: {_shown(first)} is the first"
        )
    return f"--feature-gates={gate}=true" if version < (1, 27) else ""


def _group_version(version: Version) -> str:
    """The newest version of the group that a kube-apiserver knows."""
    if version >= (1, 34):
        return "v1"
    return "v1beta1" if version >= (1, 27) else "v1alpha1"


def _shown(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


COMPONENTS: dict[str, Callable[[Request], str]] = {
    "kube-apiserver": kube_apiserver,
    "kubelet": kubelet,
    "etcd": etcd,
}


def check(component: str, path: Path, version: Version, gates: str) -> list[str]:
    """What is wrong with a configuration for a component of that version."""
    found = []
    try:
        if component == "kubelet":
            if parse_kubelet(path.read_text("utf-8-sig")) is None:
                found.append("the kubelet has no `tracing`: it makes no spans")
        else:
            read(path)
            text = path.read_text("utf-8-sig")
            named = re.search(r"apiserver\.config\.k8s\.io/(\w+)", text)
            first = {"v1alpha1": (1, 22), "v1beta1": (1, 27), "v1": (1, 34)}
            if named and version < first[named[1]]:
                found.append(
                    f"kube-apiserver {_shown(version)} does not know {named[0]}: "
                    f"{_shown(first[named[1]])} is the first"
                )
    except (TracingConfigurationError, OSError, UnicodeDecodeError) as error:
        found.append(str(error))
    gate = "KubeletTracing" if component == "kubelet" else "APIServerTracing"
    gone = GONE.get(gate)
    if f"{gate}=" in gates and gone is not None and version >= gone:
        found.append(
            f"unrecognized feature gate: {gate}: it was removed in {_shown(gone)}, tracing "
            "is always there: leave the gate out"
        )
    elif f"{gate}=false" in gates:
        found.append(f"{gate}=false switches tracing off")
    elif f"{gate}=true" not in gates and version < (1, 27):
        found.append(f"{_shown(version)} needs --feature-gates={gate}=true")
    return found


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


def _version(text: str) -> Version:
    found = re.fullmatch(r"v?(\d+)\.(\d+)(\.\d+.*)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 1.34")
    return int(found[1]), int(found[2])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where something is wrong with what is asked or judged."""
    options = parser().parse_args(argv)
    version, component = options.kubernetes, options.component
    if options.check is not None:
        problems = check(component, options.check, version, options.feature_gates)
        sys.stderr.writelines(f"{options.check}: {problem}\n" for problem in problems)
        return 1 if problems else 0
    try:
        rate = options.sampling_rate_per_million
        # etcd takes the same rates and the same endpoints.
        TracingConfiguration(endpoint=options.endpoint, sampling_rate_per_million=rate)
        text = COMPONENTS[component](Request(version, options.endpoint, rate))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
