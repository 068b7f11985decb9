"""What is generated is what the component takes, by our own reading of its rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from k8strace.gen import main
from k8strace.kube.component_files import COMPONENTS
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


@pytest.mark.parametrize(
    ("version", "prefix"),
    [("3.5", "--experimental-"), ("3.5.11", "--experimental-"), ("3.6.8", "--")],
)
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
        (("--component", "etcd", "--kubernetes", "3.5.9"), "3.5.9 has no sampling rate"),
        (("--kubernetes", "1.34", "--endpoint", "http://x:1"), "unsupported scheme: http"),
        (("--kubernetes", "1.34", "--endpoint", "unix://run/x"), "write unix:///run/x"),
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


@pytest.mark.parametrize("component", ["kube-apiserver", "kubelet"])
@pytest.mark.parametrize("endpoint", ["[::1]:4317", "", "true", "10", "x#y", "y"])
def test_endpoints_that_yaml_takes_for_something_else(
    capsys: pytest.CaptureFixture[str], component: str, endpoint: str
) -> None:
    arguments = ("--component", component, "--kubernetes", "1.34", "--endpoint", endpoint)
    text = generate(capsys, *arguments)
    found = parse_kubelet(text) if component == "kubelet" else parse(text)
    assert found is not None
    assert found.endpoint == endpoint


@pytest.mark.parametrize("version", ["1.25", "1.34"])
def test_what_is_generated_for_a_kubelet_is_judged_well(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, version: str
) -> None:
    arguments = ("--component", "kubelet", "--kubernetes", version)
    path = tmp_path / "kubelet.yaml"
    path.write_text(generate(capsys, *arguments))
    assert main(["tracing-config", *arguments, "--check", str(path)]) == 0


def test_judging_tells_whose_file_it_is_by_its_kind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "kubelet.yaml"
    path.write_text(generate(capsys, "--component", "kubelet", "--kubernetes", "1.34"))
    arguments = ("tracing-config", "--kubernetes", "1.34", "--check", str(path))
    assert main([*arguments]) == 0
    assert capsys.readouterr() == (f"{path}: kubelet 1.34 starts\n", "")
    assert main([*arguments, "--component", "kube-apiserver"]) == 1
    out, err = capsys.readouterr()
    assert out == f"{path}: kube-apiserver 1.34 does not start\n"
    assert 'no kind "KubeletConfiguration"' in err


def test_judging_says_file_line_and_value(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "tracing.yaml"
    path.write_text("kind: TracingConfiguration\nsamplingRatePerMillion: 1000001\n")
    assert main(["tracing-config", "--kubernetes", "1.34", "--check", str(path)]) == 1
    assert capsys.readouterr() == (
        f"{path}: kube-apiserver 1.34 does not start\n",
        f"{path}:2: samplingRatePerMillion: 1000001: sampling rate per million must be "
        "less than or equal to one million\n",
    )


def test_judging_says_what_is_ignored(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "tracing.yaml"
    path.write_text("samplingRatePerMillion: 1\nteam: infra\n")
    arguments = ("tracing-config", "--check", str(path), "--kubernetes")
    assert main([*arguments, "1.31"]) == 1
    assert capsys.readouterr() == (
        f"{path}: kube-apiserver 1.31 starts with parts ignored\n",
        f'{path}:2: ignored: unknown field "team"\n',
    )
    assert main([*arguments, "1.32"]) == 1
    assert capsys.readouterr().out == f"{path}: kube-apiserver 1.32 does not start\n"
    path.write_text("samplingRatePerMillion: 1\n")
    assert main([*arguments, "1.32"]) == 0
    assert capsys.readouterr() == (f"{path}: kube-apiserver 1.32 starts\n", "")


def test_what_depends_on_the_cluster_is_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    endpoint = "k8strace.observability.svc:4317"
    assert main(["tracing-config", "--kubernetes", "1.34", "--endpoint", endpoint]) == 0
    out, err = capsys.readouterr()
    assert parse(out).endpoint == endpoint
    assert err.startswith(
        f'warning: endpoint: "{endpoint}": no connection, it names a Serv'
    )


def test_a_distributions_files(capsys: pytest.CaptureFixture[str]) -> None:
    text = generate(capsys, "--kubernetes", "1.34", "--distribution", "kubeadm")
    assert text.startswith("# 1. /etc/kubernetes/tracing/apiserver.yaml on each")
    assert "\n# 2. kubeadm.yaml for `kubeadm init --config`" in text
    assert main(["tracing-config", "--kubernetes", "1.34", "--distribution", "gke"]) == 1
    assert "error: GKE does not let you set" in capsys.readouterr().err


def test_before_1_26_egress_selectors_are_spoken_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_apiserver: list[list[str]] = [
        [],
        ["--component", "kube-apiserver"],
        ["--distribution", "k3s"],
    ]
    for arguments in of_apiserver:
        assert main(["tracing-config", "--kubernetes", "1.25", *arguments]) == 0
        assert "note: kube-apiserver 1.25 crashes" in capsys.readouterr().err
    for arguments in (["--component", "kubelet"], ["--component", "cri-o"]):
        assert main(["tracing-config", "--kubernetes", "1.25", *arguments]) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--component", "etcd", "--check", "x.yaml"),
        ("--component", "containerd", "--check", "x.toml"),
        ("--feature-gates", "A=true"),
        ("--distribution", "k3s", "--component", "kubelet"),
        ("--distribution", "k3s", "--check", "x.yaml"),
        ("--distribution", "minix"),
    ],
)
def test_what_does_not_go_together(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tracing-config", "--kubernetes", "3.6", *arguments])
    assert caught.value.code == 2


def test_as_a_command() -> None:
    command = [sys.executable, "-m", "k8strace.gen", "tracing-config"]
    done = subprocess.run([*command, "--kubernetes", "one"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'one' is not a version such as 1.34" in done.stderr
    of_etcd_and_runtimes = {"etcd", "containerd", "cri-o"}
    assert set(COMPONENTS) == {"kube-apiserver", "kubelet", *of_etcd_and_runtimes}
