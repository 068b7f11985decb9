"""What is generated is what the component takes, by our own reading of its rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from k8strace.gen import COMPONENTS, main
from k8strace.kube.tracing_config import parse, parse_kubelet


def generate(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["tracing-config", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "group", "gate"),
    [
        ("1.22", "v1alpha1", True),
        ("1.26", "v1alpha1", True),
        ("1.27", "v1beta1", False),
        ("v1.33.7", "v1beta1", False),
        ("1.34", "v1", False),
        ("1.36", "v1", False),
        ("1.37", "v1", False),
    ],
)
def test_the_apiservers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, version: str, group: str, gate: bool
) -> None:
    text = generate(
        capsys,
        *("--kubernetes", version, "--endpoint", "unix:///run/otel.sock"),
        *("--sampling-rate-per-million", "100000"),
    )
    found = parse(text)
    assert found.endpoint == "unix:///run/otel.sock"
    assert found.sampling_rate_per_million == 100_000
    assert f"apiVersion: apiserver.config.k8s.io/{group}\n" in text
    assert "--tracing-config-file=" in text
    assert ("--feature-gates=APIServerTracing=true" in text) == gate
    path = tmp_path / "tracing.yaml"
    path.write_text(text)
    gates = "APIServerTracing=true" if gate else ""
    arguments = ("--check", str(path), "--kubernetes", version, "--feature-gates", gates)
    assert main(["tracing-config", *arguments]) == 0


@pytest.mark.parametrize(
    ("version", "gate"), [("1.25", True), ("1.27", False), ("1.37", False)]
)
def test_the_kubelets(capsys: pytest.CaptureFixture[str], version: str, gate: bool) -> None:
    text = generate(capsys, "--component", "kubelet", "--kubernetes", version)
    found = parse_kubelet(text)
    assert found is not None
    assert (found.endpoint, found.sampling_rate_per_million) == ("localhost:4317", 10_000)
    assert ("KubeletTracing: true" in text) == gate


@pytest.mark.parametrize(("version", "prefix"), [("3.5", "--experimental-"), ("3.6", "--")])
def test_etcds(capsys: pytest.CaptureFixture[str], version: str, prefix: str) -> None:
    text = generate(capsys, "--component", "etcd", "--kubernetes", version)
    assert text.splitlines()[1:] == [
        f"{prefix}enable-distributed-tracing=true",
        f"{prefix}distributed-tracing-address=localhost:4317",
        f"{prefix}distributed-tracing-service-name=etcd",
        f"{prefix}distributed-tracing-sampling-rate=10000",
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--kubernetes", "1.21"), "Kubernetes 1.21 has no APIServerTracing: 1.22 is the"),
        (("--component", "kubelet", "--kubernetes", "1.24"), "1.25 is the first"),
        (("--component", "etcd", "--kubernetes", "3.4"), "etcd 3.4 has no tracing"),
        (("--kubernetes", "1.34", "--endpoint", "http://x:1"), "unsupported scheme: http"),
        (("--kubernetes", "1.34", "--sampling-rate-per-million", "-1"), "must be positive"),
    ],
)
def test_what_there_is_not(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], error: str
) -> None:
    assert main(["tracing-config", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert error in err


HEAD = "apiVersion: apiserver.config.k8s.io/{}\nkind: TracingConfiguration\n"


@pytest.mark.parametrize(
    ("version", "gates", "text", "error"),
    [
        ("1.33", "", HEAD.format("v1"), "does not know apiserver.config.k8s.io/v1: 1.34"),
        (
            "1.26",
            "",
            HEAD.format("v1alpha1"),
            "needs --feature-gates=APIServerTracing=true",
        ),
        ("1.37", "APIServerTracing=true", HEAD.format("v1"), "it was removed in 1.37"),
        ("1.30", "APIServerTracing=false", HEAD.format("v1beta1"), "switches tracing off"),
        ("1.36", "", HEAD.format("v1") + "rate: 1\n", 'unknown field "rate"'),
        (
            "1.36",
            "",
            HEAD.format("v1") + "endpoint: http://x\n",
            "unsupported scheme: http",
        ),
    ],
)
def test_judging(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    version: str,
    gates: str,
    text: str,
    error: str,
) -> None:
    path = tmp_path / "tracing.yaml"
    path.write_text(text)
    arguments = ("--check", str(path), "--kubernetes", version, "--feature-gates", gates)
    assert main(["tracing-config", *arguments]) == 1
    assert error in capsys.readouterr().err


def test_a_kubelet_without_the_stanza(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
    )
    arguments = ("--component", "kubelet", "--check", str(path), "--kubernetes", "1.34")
    assert main(["tracing-config", *arguments]) == 1
    assert "has no `tracing`" in capsys.readouterr().err


def test_as_a_command() -> None:
    command = [sys.executable, "-m", "k8strace.gen", "tracing-config"]
    done = subprocess.run([*command, "--kubernetes", "one"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'one' is no version such as 1.34" in done.stderr
    assert set(COMPONENTS) == {"kube-apiserver", "kubelet", "etcd"}
