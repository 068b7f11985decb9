"""Writes deploy/manifests: what the chart makes of each of its variants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

DEPLOY = Path(__file__).parent.parent / "deploy"
CHART = DEPLOY / "helm" / "k8strace"
MANIFESTS = DEPLOY / "manifests"
KUBERNETES = (
    "--kube-version",
    "1.36.0",
)  # what helm takes a cluster to be that it has none of


class Manifest(NamedTuple):
    """A file: the chart's variant, its namespace, and more arguments of helm."""

    variant: str
    namespace: str
    arguments: tuple[str, ...] = ()


FILES = {
    "deployment": Manifest("deployment", "observability"),
    "statefulset": Manifest("statefulset", "observability"),
    "daemonset": Manifest("daemonset", "kube-system"),
    # Needs the Prometheus operator's CRDs, so it is apart.
    "monitoring": Manifest(
        "deployment",
        "observability",
        (
            *("--set", "monitoring.serviceMonitor.enabled=true"),
            *("--set", "monitoring.prometheusRule.enabled=true"),
            *("--show-only", "templates/servicemonitor.yaml"),
            *("--show-only", "templates/prometheusrule.yaml"),
        ),
    ),
}


def rendered(helm: str, name: str) -> str:
    """The text of a file. Raises CalledProcessError where helm refuses."""
    manifest = FILES[name]
    command = [
        *(helm, "template", "k8strace", str(CHART), "--namespace", manifest.namespace),
        *("--values", str(CHART / "variants" / f"{manifest.variant}.yaml")),
        *KUBERNETES,
        *manifest.arguments,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return f"# Made by `make manifests` from the Helm chart.\n{done.stdout}"


def main() -> None:
    """Bring all files up to date; the argument is the path of helm."""
    for name in FILES:
        (MANIFESTS / f"{name}.yaml").write_text(rendered(sys.argv[1], name))


if __name__ == "__main__":
    main()
