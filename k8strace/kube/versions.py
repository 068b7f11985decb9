"""Which versions of Kubernetes know which tracing."""

from __future__ import annotations

from typing import NamedTuple

Version = tuple[int, int]


class Gate(NamedTuple):
    """A feature gate: it exists from `first` on, and is on without being set from `on` on.

    From `locked` on it cannot be switched off. From `gone` on a component that is given it
    does not start.
    """

    name: str
    first: Version
    on: Version = (1, 27)
    locked: Version = (1, 34)
    gone: Version = (1, 37)


APISERVER_TRACING = Gate("APIServerTracing", first=(1, 22))
KUBELET_TRACING = Gate("KubeletTracing", first=(1, 25))

# What kube-apiserver takes in a TracingConfiguration, by the first that does.
FIRST_VERSIONS: dict[str, Version] = {
    "v1alpha1": (1, 22),
    "v1beta1": (1, 27),
    "v1": (1, 34),
}

# Before, kube-apiserver ignores fields that it does not know.
STRICT = (1, 32)

# Before, kube-apiserver crashes where its egress selector has no `controlplane`.
EGRESS_MENDED = (1, 26)


def shown(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
