"""Each distribution's files hold what components of the version take."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from k8strace.kube.component_files import Request, VersionError
from k8strace.kube.distributions import DISTRIBUTIONS, File, files
from k8strace.kube.judgement import judged
from k8strace.kube.versions import Version

SOCKET = "unix:///run/k8strace/otlp.sock"
WITH_FLAGS = ("kubeadm", "kind", "k3s", "rke2", "talos")
VERSIONS = [(1, minor) for minor in (22, 24, 25, 26, 27, 30, 31, 34, 37)]


def made(name: str, version: Version, endpoint: str = "localhost:4317") -> list[File]:
    return DISTRIBUTIONS[name](Request(version, endpoint, 100))


def found(value: Any, kind: str) -> list[Any]:
    """Objects of a kind anywhere inside, also in texts of YAML."""
    if isinstance(value, str) and "\n" in value:
        value = list(yaml.safe_load_all(value))
    if isinstance(value, dict):
        here = [value] if value.get("kind") == kind else []
        return here + [one for inner in value.values() for one in found(inner, kind)]
    if isinstance(value, list):
        return [one for inner in value for one in found(inner, kind)]
    return []


def of_kind(made_: list[File], kind: str) -> list[Any]:
    return [
        one for file in made_ for one in found(list(yaml.safe_load_all(file.text)), kind)
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", WITH_FLAGS)
def test_kube_apiserver_starts_with_its_file_and_its_flags(
    name: str, version: Version, tmp_path: Path
) -> None:
    made_ = made(name, version)
    (config,) = of_kind(made_, "TracingConfiguration")
    path = tmp_path / "tracing.yaml"
    path.write_text(yaml.safe_dump(config))
    text = "\n".join(file.text for file in made_)
    assert "tracing-config-file" in text
    gates = ",".join(f"{one}=true" for one in re.findall(r"APIServerTracing", text))
    assert judged("kube-apiserver", path, version, gates)[1] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["kubeadm", "k3s", "rke2"])
def test_the_kubelet_starts_with_its_file(
    name: str, version: Version, tmp_path: Path
) -> None:
    made_ = made(name, version)
    kubelets = of_kind(made_, "KubeletConfiguration")
    assert len(kubelets) == (version >= (1, 25))
    for config in kubelets:
        path = tmp_path / "kubelet.yaml"
        path.write_text(yaml.safe_dump(config))
        assert judged("kubelet", path, version, "")[1] == []


@pytest.mark.parametrize(
    ("version", "kubeadm", "form"), [((1, 30), "v1beta3", dict), ((1, 31), "v1beta4", list)]
)
def test_kubeadm_has_flags_in_the_form_of_its_version(
    version: Version, kubeadm: str, form: type
) -> None:
    (config,) = of_kind(made("kubeadm", version, SOCKET), "ClusterConfiguration")
    assert config["apiVersion"] == f"kubeadm.k8s.io/{kubeadm}"
    args = config["apiServer"]["extraArgs"]
    assert isinstance(args, form)
    if isinstance(args, list):
        args = {one["name"]: one["value"] for one in args}
    volumes = {one["name"]: one for one in config["apiServer"]["extraVolumes"]}
    mounted = volumes["tracing"]["mountPath"]
    assert args["tracing-config-file"].startswith(f"{mounted}/")
    assert volumes["tracing"]["readOnly"]
    # A socket's folder, that of a gateway which starts later, and again.
    assert volumes["gateway"]["hostPath"] == "/run/k8strace"
    assert volumes["gateway"]["pathType"] == "DirectoryOrCreate"


def test_kind_mounts_the_file_into_its_node_and_the_pod() -> None:
    made_ = made("kind", (1, 26))
    (cluster,) = of_kind(made_, "Cluster")
    assert cluster["featureGates"] == {"APIServerTracing": True, "KubeletTracing": True}
    ((mount,),) = (node["extraMounts"] for node in cluster["nodes"])
    (patch,) = of_kind(made_, "ClusterConfiguration")
    assert "apiVersion" not in patch  # any of kubeadm's
    (volume,) = patch["apiServer"]["extraVolumes"]
    assert mount["containerPath"] == volume["hostPath"]
    (kubelet,) = of_kind(made_, "KubeletConfiguration")
    assert kubelet["tracing"]["samplingRatePerMillion"] == 100
    (modern,) = of_kind(made("kind", (1, 34)), "Cluster")
    assert "featureGates" not in modern


def test_rke2_mounts_what_its_static_pod_reads() -> None:
    (_, server, *_) = made("rke2", (1, 34), SOCKET)
    config = yaml.safe_load(server.text)
    ((flag,), mounts) = config["kube-apiserver-arg+"], config["kube-apiserver-extra-mount+"]
    path = flag.removeprefix("tracing-config-file=")
    assert mounts == [f"{path}:{path}:ro", "/run/k8strace:/run/k8strace"]
    (_, k3s, *_) = made("k3s", (1, 34), SOCKET)
    assert set(yaml.safe_load(k3s.text)) == {"kube-apiserver-arg+"}


def test_talos_has_files_below_var() -> None:
    control_plane, kubelet = made("talos", (1, 26), SOCKET)
    patch = yaml.safe_load(control_plane.text)
    (file,) = patch["machine"]["files"]
    assert file["path"].startswith("/var/")
    assert file["permissions"] == 0o444
    apiserver = patch["cluster"]["apiServer"]
    mounted, socket = apiserver["extraVolumes"]
    inside = file["path"].replace(mounted["hostPath"], mounted["mountPath"])
    assert apiserver["extraArgs"]["tracing-config-file"] == inside
    assert apiserver["extraArgs"]["feature-gates"] == "APIServerTracing=true"
    assert socket["mountPath"] == "/run/k8strace"
    extra = yaml.safe_load(kubelet.text)["machine"]["kubelet"]["extraConfig"]
    assert extra["featureGates"] == {"KubeletTracing": True}
    assert extra["tracing"]["endpoint"] == SOCKET


def test_openshifts_nodes() -> None:
    made_ = made("openshift", (1, 30))
    (kubelet,) = of_kind(made_, "KubeletConfig")
    assert kubelet["spec"]["kubeletConfig"]["tracing"]["samplingRatePerMillion"] == 100
    (machine,) = of_kind(made_, "MachineConfig")
    (file,) = machine["spec"]["config"]["storage"]["files"]
    text = unquote(file["contents"]["source"].removeprefix("data:,"))
    assert tomllib.loads(text)["crio"]["tracing"]["enable_tracing"] is True


def test_eks_nodes() -> None:
    (config,) = of_kind(made("eks", (1, 33)), "NodeConfig")
    tracing = config["spec"]["kubelet"]["config"]["tracing"]
    assert tracing == {"endpoint": "localhost:4317", "samplingRatePerMillion": 100}


@pytest.mark.parametrize(
    ("name", "version", "error"),
    [
        ("kubeadm", (1, 21), "1.22 is the first"),
        ("openshift", (1, 26), "OpenShift does not let the gate KubeletTracing be set"),
        ("eks", (1, 26), "EKS does not let the gate"),
        ("kops", (1, 34), "kOps has no field for --tracing-config-file"),
        ("gke", (1, 34), "GKE does not let you set"),
        ("aks", (1, 34), "AKS does not let you set"),
    ],
)
def test_what_cannot_be_done(name: str, version: Version, error: str) -> None:
    with pytest.raises(VersionError, match=error):
        made(name, version)


@pytest.mark.parametrize("name", [*WITH_FLAGS, "openshift", "eks"])
def test_each_file_says_where_it_belongs(name: str) -> None:
    text = files(name, Request((1, 34), "localhost:4317", 100))
    numbers = re.findall(r"^# (\d+)\. \S", text, re.MULTILINE)
    assert numbers == [str(one + 1) for one in range(len(made(name, (1, 34))))]
