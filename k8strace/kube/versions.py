"""Which versions of Kubernetes know which tracing."""

from __future__ import annotations

from typing import NamedTuple

Version = tuple[int, int]


class Gate(NamedTuple):
    """A feature gate: from `first` on it is there, from `on` on set without being asked.

    From `locked` on it can't be switched off, and from `gone` on a component that is given
    it does not start.
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


def shown(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
