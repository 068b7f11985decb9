"""Files, flags and environments of components, by version."""

from __future__ import annotations

import tomllib

import pytest

from k8strace.kube.component_files import (
    COMPONENTS,
    Request,
    VersionError,
    containerd,
    cri_o,
    etcd,
)


def of(version: str, endpoint: str = "localhost:4317", rate: int = 100) -> Request:
    major, minor, *patch = map(int, version.split("."))
    return Request((major, minor), endpoint, rate, patch[0] if patch else None)


def settings(text: str) -> dict[str, str]:
    """Of a drop-in of systemd."""
    head, *lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert head == "[Service]"
    pairs = (line.removeprefix("Environment=").partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize(
    ("version", "rate", "endpoint", "ratio"),
    [
        ("1.6.0", 100, "localhost:4317", 0.0001),
        ("1.6.31", 0, "localhost:4317", 0.000001),  # 0.0 makes no spans at all
        ("1.7.0", 0, "localhost:4317", 0.0),
        ("1.7.15", 1_000_000, "localhost:4317", 1.0),
        ("1.7.19", 100, "http://localhost:4317", 0.0001),
        ("1.7.34", 0, "http://localhost:4317", 0.000001),  # 0.0 traces everything
        ("1.7", 100, "http://localhost:4317", 0.0001),
    ],
)
def test_containerds_that_read_their_file(
    version: str, rate: int, endpoint: str, ratio: float
) -> None:
    text = containerd(of(version, rate=rate))
    assert text.startswith(f"# containerd {version}: /etc/containerd/config.toml\n")
    assert ("With a sampling_ratio of 0.0" in text) == (rate == 0 and ratio > 0)
    found = tomllib.loads(text)
    assert found == {
        "version": 2,
        "plugins": {
            "io.containerd.tracing.processor.v1.otlp": {
                "endpoint": endpoint,
                "protocol": "grpc",
                "insecure": True,
            },
            "io.containerd.internal.v1.tracing": {
                "service_name": "containerd",
                "sampling_ratio": ratio,
            },
        },
    }


@pytest.mark.parametrize(
    "version", ["1.6.32", "1.6.39", "1.6", "1.7.16", "1.7.18", "2.0", "2.2.1"]
)
def test_containerds_that_read_their_environment(version: str) -> None:
    found = settings(containerd(of(version, "dns:///gateway:4317")))
    assert found == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://gateway:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_SERVICE_NAME": "containerd",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.0001",
    }


def test_cri_o() -> None:
    assert tomllib.loads(cri_o(of("1.34"))) == {
        "crio": {
            "tracing": {
                "enable_tracing": True,
                "tracing_endpoint": "localhost:4317",
                "tracing_sampling_rate_per_million": 100,
            }
        }
    }


@pytest.mark.parametrize(
    ("component", "version", "endpoint", "error"),
    [
        ("containerd", "1.5.18", "x:1", "containerd 1.5.18 has no tracing: 1.6 is the"),
        ("containerd", "2.1", "unix:///run/x", "not to a Unix socket"),
        ("cri-o", "1.30", "unix:///run/x", "not to a Unix socket"),
        ("cri-o", "1.20", "x:1", "1.23 is the first"),
        ("etcd", "3.4", "x:1", "3.5 is the first"),
        ("etcd", "3.5.4", "x:1", "without the flag it traces everything"),
        ("etcd", "3.5.10", "x:1", "it goes on with callers' traces only"),
    ],
)
def test_what_there_is_not(component: str, version: str, endpoint: str, error: str) -> None:
    with pytest.raises(VersionError, match=error):
        COMPONENTS[component](of(version, endpoint))


@pytest.mark.parametrize(
    ("version", "prefix"),
    [("3.5", "--experimental-"), ("3.5.11", "--experimental-"), ("3.6", "--")],
)
def test_etcds(version: str, prefix: str) -> None:
    lines = etcd(of(version)).splitlines()[1:]
    assert lines[-1] == f"{prefix}distributed-tracing-sampling-rate=100"
    assert all(line.startswith(prefix) for line in lines)
