"""What makes a component of a version send its spans: file, flags or environment.

kube-apiserver, kubelet and etcd speak OTLP over gRPC. containerd and CRI-O, which serve the
kubelet's calls, differ from version to version (their sources, pkg/tracing/plugin and
internal/opentelemetry).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from k8strace.kube.tracing_config import MILLION, TracingConfigurationError, parse
from k8strace.kube.versions import (
    APISERVER_TRACING,
    FIRST_VERSIONS,
    KUBELET_TRACING,
    Gate,
    Version,
    shown,
)

# Whose rate etcd 3.5 takes: earlier ones don't know the flag and don't start with it.
ETCD_RATE = 11

TRACING_FILE = "/etc/kubernetes/tracing.yaml"


class Request(NamedTuple):
    """What is asked for; `rate` is per million, `version` that of the component.

    `patch` is None where only the minor version is said.
    """

    version: Version
    endpoint: str
    rate: int
    patch: int | None = None

    @property
    def shown(self) -> str:
        """The version as it was given."""
        return shown(self.version) + ("" if self.patch is None else f".{self.patch}")


class VersionError(ValueError):
    """The component of that version has no tracing, or none that can be configured."""


def kube_apiserver(asked: Request) -> str:
    """A TracingConfiguration and the flags of kube-apiserver."""
    flags = f"--tracing-config-file={TRACING_FILE}"
    if needs(APISERVER_TRACING, asked.version):
        flags += f" --feature-gates={APISERVER_TRACING.name}=true"
    return f"# kube-apiserver {shown(asked.version)}: {flags}\n{tracing_file(asked)}"


def tracing_file(asked: Request) -> str:
    """The TracingConfiguration alone."""
    version = max(
        (one for one in FIRST_VERSIONS if FIRST_VERSIONS[one] <= asked.version),
        key=lambda one: FIRST_VERSIONS[one],
    )
    return (
        f"apiVersion: apiserver.config.k8s.io/{version}\n"
        "kind: TracingConfiguration\n"
        f"endpoint: {_scalar(asked.endpoint)}\n"
        f"samplingRatePerMillion: {asked.rate}\n"
    )


def kubelet(asked: Request) -> str:
    """The part of a KubeletConfiguration."""
    head = f"# kubelet {shown(asked.version)}: --config=/var/lib/kubelet/config.yaml\n"
    return head + kubelet_file(asked)


def kubelet_file(asked: Request) -> str:
    """The KubeletConfiguration alone."""
    gate = ""
    if needs(KUBELET_TRACING, asked.version):
        gate = f"featureGates:\n  {KUBELET_TRACING.name}: true\n"
    return (
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
        what = (
            "traces everything" if asked.patch < 5 else "goes on with callers' traces only"
        )
        raise VersionError(
            f"etcd {asked.shown} has no sampling rate: 3.5.{ETCD_RATE} is the first "
            f"(without the flag it {what})"
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


def containerd(asked: Request) -> str:
    """Of 1.6 and newer: a part of config.toml, or its environment where it ignores that.

    Where the patch is not given it is the newest.
    """
    if asked.version < (1, 6):
        raise VersionError(f"containerd {asked.shown} has no tracing: 1.6 is the first")
    if asked.endpoint.startswith("unix"):
        raise VersionError("containerd speaks to host:port alone, and not to a Unix socket")
    patch = 1_000_000 if asked.patch is None else asked.patch
    if asked.version == (1, 6):
        has_file = patch <= 31
    elif asked.version == (1, 7):
        has_file = not 16 <= patch <= 18
    else:
        has_file = False
    if has_file:
        return _containerd_file(asked, is_url=asked.version == (1, 7) and patch >= 19)
    return _containerd_environment(asked)


def _containerd_environment(asked: Request) -> str:
    address = asked.endpoint.removeprefix("dns:///")
    return (
        f"# containerd {asked.shown} reads its environment, and nothing of this from\n"
        "# config.toml: /etc/systemd/system/containerd.service.d/tracing.conf\n"
        "[Service]\n"
        f"Environment=OTEL_EXPORTER_OTLP_ENDPOINT=http://{address}\n"
        "Environment=OTEL_EXPORTER_OTLP_PROTOCOL=grpc\n"
        "Environment=OTEL_SERVICE_NAME=containerd\n"
        "Environment=OTEL_TRACES_SAMPLER=parentbased_traceidratio\n"
        f"Environment=OTEL_TRACES_SAMPLER_ARG={_ratio(asked.rate)}\n"
    )


def _containerd_file(asked: Request, *, is_url: bool) -> str:
    """`is_url`: the endpoint is one, and a ratio of 0.0 counts as not set."""
    address = asked.endpoint.removeprefix("dns:///")
    rate, note = asked.rate, ""
    if not rate:
        rate = 1
        why = "traces everything" if is_url else "makes no spans at all"
        note = f"# With a sampling_ratio of 0.0 it {why}: this is the least.\n"
    if asked.version == (1, 7) and not is_url:
        rate, note = asked.rate, ""
    return (
        f"# containerd {asked.shown}: /etc/containerd/config.toml\n"
        f"{note}"
        "version = 2\n"
        "\n"
        '[plugins."io.containerd.tracing.processor.v1.otlp"]\n'
        f"  endpoint = {json.dumps(f'http://{address}' if is_url else address)}\n"
        '  protocol = "grpc"\n'
        "  insecure = true\n"
        "\n"
        '[plugins."io.containerd.internal.v1.tracing"]\n'
        '  service_name = "containerd"\n'
        f"  sampling_ratio = {_ratio(rate)}\n"
    )


def cri_o(asked: Request) -> str:
    """A drop-in of CRI-O, whose rate is for calls that come without a trace."""
    if asked.version < (1, 23):
        raise VersionError(f"CRI-O {asked.shown} has no tracing: 1.23 is the first")
    if asked.endpoint.startswith("unix"):
        raise VersionError("CRI-O speaks to host:port alone, and not to a Unix socket")
    return (
        f"# CRI-O {asked.shown}: /etc/crio/crio.conf.d/10-tracing.conf\n"
        "[crio.tracing]\n"
        "enable_tracing = true\n"
        f"tracing_endpoint = {json.dumps(asked.endpoint.removeprefix('dns:///'))}\n"
        f"tracing_sampling_rate_per_million = {asked.rate}\n"
    )


def _ratio(rate: int) -> str:
    """A rate per million as a float that TOML takes: with a point, without an exponent."""
    text = f"{rate / MILLION:.6f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def _scalar(text: str) -> str:
    """`text` in YAML: quoted only where it would be taken for something else."""
    try:
        if parse(f"endpoint: {text}\n").endpoint == text:
            return text
    except TracingConfigurationError:
        pass
    return json.dumps(text)


def needs(gate: Gate, version: Version) -> bool:
    """Whether the version needs the gate set. Raises VersionError for one without it."""
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
    "containerd": containerd,
    "cri-o": cri_o,
}
