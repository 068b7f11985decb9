"""How distributions of Kubernetes are told to trace: their own files, whole.

Each has the TracingConfiguration of kube-apiserver, the way by which the flag and the file
come to it, and the kubelet's part where its version has one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml

from k8strace.kube.component_files import (
    Request,
    VersionError,
    cri_o,
    kubelet_file,
    needs,
    tracing_file,
)
from k8strace.kube.versions import APISERVER_TRACING, KUBELET_TRACING, shown

# kubeadm's configuration has flags as a list of names and values from here on.
KUBEADM_V1BETA4 = (1, 31)

FOLDER = "/etc/kubernetes/tracing"
FLAG = "tracing-config-file"


class File(NamedTuple):
    """A file; `place` says where it belongs."""

    place: str
    text: str


class _Block(str):
    """Text that YAML writes as it stands, line by line."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Block,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"),
)


def _yaml(*documents: dict[str, Any]) -> str:
    return "---\n".join(
        yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=1000) for one in documents
    )


def kubeadm(asked: Request) -> list[File]:
    """extraArgs and extraVolumes; a folder is mounted, so that its file can be replaced."""
    args = _flags(asked, f"{FOLDER}/apiserver.yaml")
    is_list = asked.version >= KUBEADM_V1BETA4
    listed = [{"name": name, "value": value} for name, value in args.items()]
    configuration = {
        "apiVersion": f"kubeadm.k8s.io/{'v1beta4' if is_list else 'v1beta3'}",
        "kind": "ClusterConfiguration",
        "apiServer": {
            "extraArgs": listed if is_list else args,
            "extraVolumes": _volumes(asked),
        },
    }
    return [
        File(f"{FOLDER}/apiserver.yaml on each control-plane node", tracing_file(asked)),
        File(
            "kubeadm.yaml for `kubeadm init --config`. In a cluster that runs: merge it "
            "into ConfigMaps kubeadm-config and kubelet-config of kube-system, then run "
            "`kubeadm init phase control-plane apiserver --config` with the whole on each "
            "control-plane node, and `kubeadm upgrade node phase kubelet-config` on all",
            _yaml(configuration, *_kubelet(asked)),
        ),
    ]


def kind(asked: Request) -> list[File]:
    """Patches of what kind gives kubeadm; flags as a map suit each version of that."""
    gates = {}
    if needs(APISERVER_TRACING, asked.version):
        gates[APISERVER_TRACING.name] = True
    if _has_kubelet(asked) and needs(KUBELET_TRACING, asked.version):
        gates[KUBELET_TRACING.name] = True
    patch = {
        "kind": "ClusterConfiguration",
        "apiServer": {
            "extraArgs": {FLAG: f"{FOLDER}/apiserver.yaml"},
            "extraVolumes": _volumes(asked),
        },
    }
    patches = [patch]
    kubelet = _kubelet(asked)
    patches += [{"kind": one["kind"], "tracing": one["tracing"]} for one in kubelet]
    cluster = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        **({"featureGates": gates} if gates else {}),
        "nodes": [
            {
                "role": "control-plane",
                "extraMounts": [{"hostPath": "./tracing", "containerPath": FOLDER}],
            }
        ],
        "kubeadmConfigPatches": [_Block(_yaml(one)) for one in patches],
    }
    return [
        File("tracing/apiserver.yaml beside kind.yaml", tracing_file(asked)),
        File("kind.yaml for `kind create cluster --config kind.yaml`", _yaml(cluster)),
    ]


def k3s(asked: Request) -> list[File]:
    """kube-apiserver is a part of the program: nothing has to be mounted."""
    return _rancher(asked, "k3s", {})


def rke2(asked: Request) -> list[File]:
    """kube-apiserver is a static pod, into which the file is mounted."""
    path = "/etc/rancher/rke2/tracing.yaml"
    mounts = [f"{path}:{path}:ro"]
    if folder := _socket_folder(asked):
        mounts.append(f"{folder}:{folder}")
    return _rancher(asked, "rke2", {"kube-apiserver-extra-mount+": mounts})


def _rancher(asked: Request, name: str, more: dict[str, Any]) -> list[File]:
    folder = f"/etc/rancher/{name}"
    flags = _flags(asked, f"{folder}/tracing.yaml")
    server = {
        "kube-apiserver-arg+": [f"{flag}={value}" for flag, value in flags.items()],
        **more,
    }
    files = [
        File(f"{folder}/tracing.yaml on each server", tracing_file(asked)),
        File(
            f"{folder}/config.yaml.d/tracing-server.yaml on each server, then restart it",
            _yaml(server),
        ),
    ]
    for one in _kubelet(asked):
        agent = {"kubelet-arg+": [f"config={folder}/kubelet.yaml"]}
        files += [
            File(f"{folder}/kubelet.yaml on each server and agent", _yaml(one)),
            File(
                f"{folder}/config.yaml.d/tracing-kubelet.yaml on each server and agent, "
                "then restart them",
                _yaml(agent),
            ),
        ]
    return files


def talos(asked: Request) -> list[File]:
    """A patch of the machine configuration; files of nodes may only be below /var."""
    folder = f"/var{FOLDER}"
    volumes = [
        {"hostPath": folder, "mountPath": FOLDER, "readonly": True},
    ]
    if socket := _socket_folder(asked):
        volumes.append({"hostPath": socket, "mountPath": socket, "readonly": False})
    machine: dict[str, Any] = {
        "files": [
            {
                "path": f"{folder}/apiserver.yaml",
                "permissions": 0o444,
                "op": "create",
                "content": _Block(tracing_file(asked)),
            }
        ]
    }
    cluster = {
        "apiServer": {
            "extraArgs": _flags(asked, f"{FOLDER}/apiserver.yaml"),
            "extraVolumes": volumes,
        }
    }
    patch = {"machine": machine, "cluster": cluster}
    files = [
        File(
            "controlplane.yaml, for control-plane nodes: "
            "`talosctl patch machineconfig --patch @controlplane.yaml`",
            _yaml(patch),
        )
    ]
    for one in _kubelet(asked):
        extra = {name: one[name] for name in ("featureGates", "tracing") if name in one}
        files.append(
            File(
                "kubelet.yaml, for all nodes: "
                "`talosctl patch machineconfig --patch @kubelet.yaml`",
                _yaml({"machine": {"kubelet": {"extraConfig": extra}}}),
            )
        )
    return files


def openshift(asked: Request) -> list[File]:
    """Of the nodes only: OpenShift's operator gives kube-apiserver its flags and files."""
    _needs_no_gate(asked, "OpenShift")
    pool = "pools.operator.machineconfiguration.openshift.io/worker"
    (tracing,) = (one["tracing"] for one in _kubelet(asked))
    config = {
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "KubeletConfig",
        "metadata": {"name": "tracing"},
        "spec": {
            "machineConfigPoolSelector": {"matchLabels": {pool: ""}},
            "kubeletConfig": {"tracing": tracing},
        },
    }
    drop_in = {
        "path": "/etc/crio/crio.conf.d/10-tracing.conf",
        "mode": 0o644,
        "overwrite": True,
        "contents": {"source": f"data:,{quote(cri_o(asked._replace(patch=None)))}"},
    }
    machine = {
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfig",
        "metadata": {
            "name": "99-worker-crio-tracing",
            "labels": {"machineconfiguration.openshift.io/role": "worker"},
        },
        "spec": {
            "config": {
                "ignition": {"version": "3.2.0"},
                "storage": {"files": [drop_in]},
            }
        },
    }
    return [
        File(
            "kubelet.yaml for `oc apply` (nodes restart); for control-plane nodes the same "
            "with `master` for `worker`. kube-apiserver and etcd cannot be told: their "
            "operators make their flags",
            _yaml(config),
        ),
        File("crio.yaml, likewise", _yaml(machine)),
    ]


def eks(asked: Request) -> list[File]:
    """Of nodes with nodeadm (Amazon Linux 2023); the control plane is AWS's own."""
    _needs_no_gate(asked, "EKS")
    (tracing,) = (one["tracing"] for one in _kubelet(asked))
    config = {
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {"kubelet": {"config": {"tracing": tracing}}},
    }
    return [
        File(
            "user data of nodes of Amazon Linux 2023, as application/node.eks.aws. "
            "kube-apiserver and etcd cannot be told: they are AWS's",
            _yaml(config),
        )
    ]


def _none(why: str) -> Callable[[Request], list[File]]:
    def refuse(_: Request) -> list[File]:
        raise VersionError(why)

    return refuse


DISTRIBUTIONS: dict[str, Callable[[Request], list[File]]] = {
    "kubeadm": kubeadm,
    "kind": kind,
    "k3s": k3s,
    "rke2": rke2,
    "talos": talos,
    "openshift": openshift,
    "eks": eks,
    "kops": _none(
        "kOps has no field for --tracing-config-file, nor for the kubelet's tracing: only "
        "containerd can be told, by its environment (--component containerd)"
    ),
    "gke": _none(
        "GKE does not let you set kube-apiserver's flags, and its node system "
        "configuration has no tracing for the kubelet: trace your webhooks instead"
    ),
    "aks": _none(
        "AKS does not let you set kube-apiserver's flags, and its custom node "
        "configuration has no tracing for the kubelet: trace your webhooks instead"
    ),
}


def files(distribution: str, asked: Request) -> str:
    """The files of a distribution, each below a line that says where it belongs.

    Raises VersionError for what there is not.
    """
    made = DISTRIBUTIONS[distribution](asked)
    return "\n".join(
        f"# {number}. {one.place}\n{one.text}" for number, one in enumerate(made, 1)
    )


def _flags(asked: Request, path: str) -> dict[str, str]:
    flags = {FLAG: path}
    if needs(APISERVER_TRACING, asked.version):
        flags["feature-gates"] = f"{APISERVER_TRACING.name}=true"
    return flags


def _has_kubelet(asked: Request) -> bool:
    return asked.version >= KUBELET_TRACING.first


def _kubelet(asked: Request) -> list[dict[str, Any]]:
    """The KubeletConfiguration, none where the version has no tracing."""
    return [yaml.safe_load(kubelet_file(asked))] if _has_kubelet(asked) else []


def _needs_no_gate(asked: Request, who: str) -> None:
    if asked.version < KUBELET_TRACING.on:
        raise VersionError(
            f"{who} does not let the gate {KUBELET_TRACING.name} be set, which Kubernetes "
            f"{shown(asked.version)} needs: from {shown(KUBELET_TRACING.on)} on it is on"
        )


def _socket_folder(asked: Request) -> str:
    """The folder of a Unix socket, which a static pod has to mount; "" for none."""
    if not asked.endpoint.startswith("unix:"):
        return ""
    return str(PurePosixPath("/" + asked.endpoint.removeprefix("unix:").lstrip("/")).parent)


def _volumes(asked: Request) -> list[dict[str, Any]]:
    """kubeadm's extraVolumes: of the file's folder, and of a socket's."""

    def volume(name: str, path: str, *, read_only: bool) -> dict[str, Any]:
        return {
            "name": name,
            "hostPath": path,
            "mountPath": path,
            "readOnly": read_only,
            "pathType": "DirectoryOrCreate",
        }

    made = [volume("tracing", FOLDER, read_only=True)]
    if folder := _socket_folder(asked):
        made.append(volume("gateway", folder, read_only=False))
    return made
