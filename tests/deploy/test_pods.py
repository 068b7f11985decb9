"""The pods of the manifests: restricted, and agreeing with the gateway that they hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8strace.config import load
from k8strace.kube.tracing_config import read
from scripts.manifests import DEPLOY
from tests.support.manifests import (
    VARIANTS,
    Document,
    committed,
    configuration,
    container_of,
    documents,
    of_kind,
    pod_of,
    workload,
)

EXAMPLES = DEPLOY / "examples"
DOCKERFILE = DEPLOY.parent / "Dockerfile"
STATIC_POD = "kube-apiserver-sidecar"
RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}


def static_pod() -> Document:
    (pod,) = documents((EXAMPLES / f"{STATIC_POD}.yaml").read_text())
    return pod


def violations(pod: Document) -> list[str]:
    """What the policy "restricted" of Pod Security Standards has against a pod's spec."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name, False)]
    found += [
        f"volume {one['name']}"
        for one in pod.get("volumes", ())
        if not set(one) - {"name"} <= RESTRICTED_VOLUMES
    ]
    of_pod = pod.get("securityContext", {})
    for one in (*pod.get("initContainers", ()), *pod["containers"]):
        found += [f"{one['name']}: {what}" for what in _of_container(one, of_pod)]
    return found


def _of_container(container: Document, of_pod: Document) -> list[str]:
    context: Document = of_pod | container.get("securityContext", {})
    capabilities = context.get("capabilities", {})
    ports: list[Document] = container.get("ports", [])
    wrong = {
        "privileged": context.get("privileged", False),
        "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation", True),
        "capabilities": capabilities.get("drop") != ["ALL"]
        or not set(capabilities.get("add", ())) <= {"NET_BIND_SERVICE"},
        "runAsNonRoot": context.get("runAsNonRoot") is not True,
        "runAsUser": context.get("runAsUser") == 0,
        "seccompProfile": context.get("seccompProfile", {}).get("type")
        not in ("RuntimeDefault", "Localhost"),
        "procMount": context.get("procMount", "Default") != "Default",
        "hostPort": any(port.get("hostPort") for port in ports),
        # Not the policy's, but ours.
        "readOnlyRootFilesystem": not context.get("readOnlyRootFilesystem"),
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]


@pytest.mark.parametrize("variant", ["deployment", "statefulset"])
def test_pods_are_restricted(variant: str) -> None:
    assert violations(pod_of(committed(variant))) == []


def test_a_pod_of_the_node_asks_for_no_more_than_it_needs() -> None:
    assert violations(pod_of(committed("daemonset"))) == [
        "hostNetwork",
        "volume socket",
        "socket-directory: capabilities",
        "socket-directory: runAsNonRoot",
        "socket-directory: runAsUser",
    ]
    (init,) = pod_of(committed("daemonset"))["initContainers"]
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}


def test_the_sidecar_is_restricted_in_all_that_is_its_own() -> None:
    pod = static_pod()["spec"]
    pod["containers"] = [container_of(pod)]
    assert violations(pod) == ["hostNetwork", "volume k8s-certs", "volume tracing"]


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        ({"securityContext": {}}, "k8strace: runAsNonRoot"),
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "volume x"),
    ],
)
def test_violations_are_found(change: dict[str, Any], violation: str) -> None:
    assert violation in violations(pod_of(committed("deployment")) | change)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_is_one_that_the_gateway_takes(
    variant: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(configuration(committed(variant)))
    loaded = load([str(path)], [])
    assert loaded.notes == ()


@pytest.mark.parametrize("variant", VARIANTS)
def test_ports_and_probes_are_those_of_the_configuration(
    variant: str, tmp_path: Path
) -> None:
    objects = committed(variant)
    config = yaml.safe_load(configuration(objects))
    pod = pod_of(objects)
    container = container_of(pod)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    (reader,) = config["service"]["telemetry"]["metrics"]["readers"]
    assert ports["metrics"] == reader["pull"]["exporter"]["prometheus"]["port"]
    host, _, port = config["extensions"]["health_check"]["endpoint"].rpartition(":")
    assert ports["health"] == int(port)
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        asked = container[probe]["httpGet"]
        assert (asked["path"], asked["port"]) == (path, "health")
        assert ("host" in asked) == (host == "localhost")
    if variant == "daemonset":
        assert set(ports) == {"metrics", "health"}
    else:
        assert ports["otlp-grpc"] == 4317
        assert ports["otlp-http"] == 4318
    for service in of_kind(objects, "Service"):
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= set(ports)
        labels = workload(objects)["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()


@pytest.mark.parametrize("variant", [*VARIANTS, STATIC_POD])
def test_the_pod_is_given_the_time_that_its_drain_takes(variant: str) -> None:
    pod = static_pod()["spec"] if variant == STATIC_POD else pod_of(committed(variant))
    container = container_of(pod)
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    (timeout,) = (
        int(one.removeprefix("--shutdown-timeout="))
        for one in container["args"]
        if one.startswith("--shutdown-timeout=")
    )
    assert sleep == "sleep"
    # Over the drain: 5 s until workers are killed, 2 s for TLS, and what a busy node takes.
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + timeout + 10


def test_pods_run_as_the_user_of_the_image() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    for variant in VARIANTS:
        context = pod_of(committed(variant))["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


def test_rights_are_asked_for_only_where_they_are_used() -> None:
    for variant in VARIANTS:
        objects = committed(variant)
        assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding", "Role")
        assert pod_of(objects)["automountServiceAccountToken"] is False


def test_the_statefulset_keeps_its_queue_on_its_volume() -> None:
    objects = committed("statefulset")
    config = yaml.safe_load(configuration(objects))
    (mount,) = (
        one
        for one in container_of(pod_of(objects))["volumeMounts"]
        if one["name"] == "queue"
    )
    directory = Path(config["extensions"]["file_storage"]["directory"])
    assert Path(mount["mountPath"]) in directory.parents
    assert config["exporters"]["otlp"]["sending_queue"]["storage"] == "file_storage"
    (claim,) = workload(objects)["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "queue"


def test_the_sidecar_has_a_configuration_that_the_gateway_takes(tmp_path: Path) -> None:
    pod = static_pod()["spec"]
    container = container_of(pod)
    (variable,) = container["env"]
    assert container["args"][0] == f"--config=env:{variable['name']}"
    path = tmp_path / "config.yaml"
    path.write_text(variable["value"])
    loaded = load([str(path)], [])
    assert loaded.notes == ()
    receivers = yaml.safe_load(variable["value"])["receivers"]
    tracing = read(EXAMPLES / "tracing-config.yaml")
    assert receivers["otlp"]["protocols"]["grpc"]["endpoint"] == tracing.endpoint
