"""The Helm chart: what it renders, and what it refuses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.manifests import CHART, FILES, KUBERNETES, MANIFESTS, rendered
from tests.support.manifests import (
    VARIANTS,
    Document,
    configuration,
    container_of,
    documents,
    of_kind,
    pod_of,
    workload,
)
from tests.support.programs import built


def helm(command: str, variant: str, values: dict[str, Any]) -> tuple[int, str, str]:
    """Status, stdout and stderr of helm, with `values` over those of a variant."""
    arguments = (str(CHART), "--namespace", "observability", *KUBERNETES, "--values")
    done = subprocess.run(
        [
            *(built("helm", "deploy-tools"), command, *arguments),
            *(str(CHART / "variants" / f"{variant}.yaml"), "--values", "-"),
        ],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def template(variant: str, **values: Any) -> list[Document]:
    status, out, err = helm("template", variant, values)
    assert status == 0, err
    return documents(out)


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("name", FILES)
def test_manifests_are_current(name: str) -> None:
    text = (MANIFESTS / f"{name}.yaml").read_text()
    assert rendered(built("helm", "deploy-tools"), name) == text, "run make manifests"


def test_there_are_no_other_manifests() -> None:
    assert {one.stem for one in MANIFESTS.iterdir()} == set(FILES)
    assert {one.stem for one in (CHART / "variants").iterdir()} == set(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_has_nothing_against_it(variant: str) -> None:
    arguments = ("--values", str(CHART / "variants" / f"{variant}.yaml"), *KUBERNETES)
    done = subprocess.run(
        [built("helm", "deploy-tools"), "lint", "--strict", str(CHART), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("mode", "replicaset", ["/mode", "deployment"]),
        ("mdoe", "deployment", ["mdoe"]),
        ("replicas", -1, ["/replicas", "minimum"]),
        ("replicas", "two", ["/replicas", "integer"]),
        ("workers", 0, ["/workers", "minimum"]),
        ("image.digest", "sha256:1", ["/image/digest", "pattern"]),
        ("image.tag", "0.1:0", ["/image/tag", "pattern"]),
        ("image.pullPolicy", "Sometimes", ["/image/pullPolicy", "Always"]),
        ("drain.preStopSeconds", "5s", ["/drain/preStopSeconds", "integer"]),
        ("resources.limits.memory", "512MB", ["/resources/limits/memory", "pattern"]),
        ("resources.limits.memory", None, ["/resources/limits", "memory"]),
        ("podDisruptionBudget.maxUnavailable", "many", ["maxUnavailable", "pattern"]),
        ("podSecurityContext.runAsUser", 0, ["/podSecurityContext/runAsUser", "minimum"]),
        ("podSecurityContext.runAsNonRoot", False, ["/podSecurityContext"]),
        ("monitoring.serviceMonitor.interval", "often", ["/monitoring/serviceMonitor"]),
        ("config.service.extensions", "zpages", ["/config/service/extensions", "array"]),
    ],
)
def test_a_wrong_value_is_named(path: str, value: Any, words: list[str]) -> None:
    status, out, err = helm("template", "deployment", nested(path, value))
    assert (status, out) == (1, "")
    for word in words:
        assert word in err


def paths(values: dict[str, Any], start: str = "") -> Iterator[str]:
    for name, value in values.items():
        if name != "config":
            yield start + name
            if isinstance(value, dict):
                yield from paths(value, f"{start}{name}.")


@pytest.mark.parametrize(
    "path", list(paths(yaml.safe_load((CHART / "values.yaml").read_text())))
)
def test_a_value_that_is_taken_away_is_named_or_not_needed(path: str) -> None:
    status, _, err = helm("template", "deployment", nested(path, None))
    assert status == 0 or path in err or f"'{path.rpartition('.')[2]}'" in err, err


@pytest.mark.parametrize(
    ("variant", "path", "value", "message"),
    [
        (
            "deployment",
            "config.exporters.otlp.endpoint",
            "",
            "config.exporters.otlp.endpoint: name the backend",
        ),
        ("statefulset", "autoscaling.enabled", True, "autoscaling.enabled: a statefulset"),
        ("deployment", "autoscaling.maxReplicas", 1, "1 is less than minReplicas, 2"),
        ("daemonset", "podDisruptionBudget.enabled", True, "podDisruptionBudget.enabled: "),
        ("daemonset", "networkPolicy.enabled", True, "networkPolicy.enabled: policies"),
        (
            "deployment",
            "config.service.extensions",
            ["zpages"],
            "config.service.extensions: health_check is missing",
        ),
        (
            "deployment",
            "config.extensions.health_check.endpoint",
            "localhost:13133",
            "probes do not reach localhost:13133",
        ),
        ("daemonset", "daemonset.hostNetwork", False, "probes do not reach"),
        (
            "daemonset",
            "daemonset.socketDirectory",
            "/run/other",
            "config.receivers.otlp/socket.protocols.grpc.endpoint: /run/k8strace/otlp.sock "
            "is in no directory that the pod may write",
        ),
        (
            "deployment",
            "resources.limits.memory",
            "64Mi",
            "resources.limits.memory: 64Mi leaves no room for spans; 1 processes",
        ),
        ("deployment", "workers", 2, "134217728 bytes for each of 2 workers are more than"),
        (
            "deployment",
            "config.exporters.otlp.sending_queue.queue_size",
            201326593,
            "queue_size: 201326593 bytes for each of 1 workers are more than the 201326592",
        ),
        (
            "statefulset",
            "persistence.mountPath",
            "/data",
            "/var/lib/k8strace/queue is not below persistence.mountPath, /data",
        ),
        (
            "deployment",
            "resources.requests.cpu",
            None,
            "autoscaling.enabled: it needs resources.requests.cpu",
        ),
        ("statefulset", "persistence.size", "8G", "nine tenths of persistence.size, 8G"),
        (
            "statefulset",
            "config.service.extensions",
            ["health_check"],
            "file_storage is missing, which the statefulset's volume is for",
        ),
    ],
)
def test_values_that_do_not_go_together_are_told(
    variant: str, path: str, value: Any, message: str
) -> None:
    status, out, err = helm("template", variant, nested(path, value))
    assert (status, out) == (1, "")
    assert message in err


def test_all_that_does_not_go_together_is_told_at_once() -> None:
    values = {"mode": "daemonset", "config": nested("exporters.otlp.endpoint", "")}
    _, _, err = helm("template", "deployment", values)
    for name in ("exporters.otlp.endpoint", "autoscaling", "podDisruptionBudget"):
        assert name in err
    assert "variants/" in err


@pytest.mark.parametrize(
    "metrics",
    [
        {"level": "none"},
        {"readers": []},
        {"readers": [{"pull": {"exporter": {"prometheus": {"port": 8888}}}}]},
        {"readers": [{"periodic": {"exporter": {"otlp": {}}}}]},
    ],
)
def test_metrics_that_nobody_reaches_are_not_scraped(metrics: dict[str, Any]) -> None:
    config = nested("service.telemetry.metrics", metrics)
    objects = template("deployment", config=config)
    ports = {one["name"] for one in container_of(pod_of(objects))["ports"]}
    assert ports == {"otlp-grpc", "otlp-http", "health"}
    values = nested("monitoring.serviceMonitor.enabled", True) | {"config": config}
    status, _, err = helm("template", "deployment", values)
    assert status == 1
    assert "monitoring.serviceMonitor.enabled: config.service.telemetry.metrics has" in err


def test_what_is_given_for_objects_reaches_them() -> None:
    annotations = {"note": "b"}
    objects = template(
        "statefulset",
        nameOverride="gate",
        image={"pullPolicy": "Always", "tag": "9.9"},
        replicas=5,
        service={"annotations": annotations},
        serviceAccount={"name": "mine", "annotations": annotations},
        persistence={"size": "20Gi", "storageClassName": "fast"},
        podDisruptionBudget={"maxUnavailable": "25%"},
        podSecurityContext={"fsGroup": 7},
    )
    (account,) = of_kind(objects, "ServiceAccount")
    assert account["metadata"]["name"] == pod_of(objects)["serviceAccountName"] == "mine"
    balanced, _ = of_kind(objects, "Service")
    for one in (account, balanced):
        assert one["metadata"]["annotations"] == annotations
    made = workload(objects)
    assert made["metadata"]["name"] == "release-name-gate"
    assert made["metadata"]["labels"]["app.kubernetes.io/name"] == "gate"
    assert made["spec"]["replicas"] == 5
    (claim,) = made["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == "25%"
    container = container_of(pod_of(objects))
    assert container["image"].endswith(":9.9")
    assert container["imagePullPolicy"] == "Always"
    assert pod_of(objects)["securityContext"]["fsGroup"] == 7


def test_a_daemonset_may_leave_the_nodes_network_and_directories_alone() -> None:
    config = {
        "extensions": {"health_check": {"endpoint": ":13133"}},
        "receivers": {
            "otlp/socket": None,
            "otlp": nested("protocols.grpc.endpoint", ":4317"),
        },
        "service": {"pipelines": {"traces": {"receivers": ["otlp"]}}},
    }
    given = {"hostNetwork": False, "socketDirectory": ""}
    objects = template("daemonset", daemonset=given, config=config)
    pod = pod_of(objects)
    assert "hostNetwork" not in pod
    assert "initContainers" not in pod
    assert [one["name"] for one in pod["volumes"]] == ["config"]
    balanced, _ = of_kind(objects, "Service")
    assert balanced["spec"]["internalTrafficPolicy"] == "Local"


def test_tokens_are_reviewed_with_no_other_right() -> None:
    config = {
        "extensions": {"k8s_token_review": {"audiences": ["traces"]}},
        "receivers": {
            "otlp": nested("protocols.grpc.auth.authenticator", "k8s_token_review")
        },
        "service": {"extensions": ["health_check", "k8s_token_review"]},
    }
    objects = template("deployment", config=config)
    (role,) = of_kind(objects, "ClusterRole")
    assert role["rules"] == [
        {
            "apiGroups": ["authentication.k8s.io"],
            "resources": ["tokenreviews"],
            "verbs": ["create"],
        }
    ]
    (binding,) = of_kind(objects, "ClusterRoleBinding")
    (account,) = of_kind(objects, "ServiceAccount")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert subject["name"] == account["metadata"]["name"]
    pod = pod_of(objects)
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert pod["automountServiceAccountToken"] is True


def test_it_scales_on_queues_where_that_is_asked_for() -> None:
    (scaler,) = of_kind(template("deployment"), "HorizontalPodAutoscaler")
    assert [one["type"] for one in scaler["spec"]["metrics"]] == ["Resource"]
    queue = {"enabled": True, "fillPercent": 35}
    objects = template("deployment", autoscaling={"queue": queue})
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == workload(objects)["metadata"]["name"]
    (pods,) = (one["pods"] for one in scaler["spec"]["metrics"] if one["type"] == "Pods")
    assert pods["target"] == {"type": "AverageValue", "averageValue": "350m"}
    adapter = yaml.safe_load((CHART.parent.parent / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == pods["metric"]["name"]
    assert "replicas" not in workload(objects)["spec"]
    fixed = template("deployment", autoscaling={"enabled": False}, replicas=3)
    assert workload(fixed)["spec"]["replicas"] == 3
    assert not of_kind(fixed, "HorizontalPodAutoscaler")


def test_ports_follow_the_configuration() -> None:
    config = {
        "receivers": {
            "otlp": {"protocols": {"grpc": {"endpoint": "0.0.0.0:14317"}, "http": None}},
            "otlp/inside": {"protocols": {"grpc": {"endpoint": "[::1]:5317"}}},
            "otlp/tenants": {"protocols": {"http": {"endpoint": ":24318"}}},
            "otlp/unused": {"protocols": {"http": {"endpoint": ":34318"}}},
        },
        "service": {
            "pipelines": {"traces": {"receivers": ["otlp", "otlp/inside", "otlp/tenants"]}}
        },
    }
    objects = template("deployment", config=config)
    ports = {
        one["name"]: one["containerPort"] for one in container_of(pod_of(objects))["ports"]
    }
    assert ports == {
        "otlp-grpc": 14317,
        "http-tenants": 24318,
        "metrics": 8888,
        "health": 13133,
    }
    balanced, headless = (
        {one["name"]: one["port"] for one in service["spec"]["ports"]}
        for service in of_kind(objects, "Service")
    )
    assert balanced == {"otlp-grpc": 14317, "http-tenants": 24318}
    assert headless == balanced | {"metrics": 8888}
    (policy,) = of_kind(objects, "NetworkPolicy")
    allowed = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    assert set(allowed) == set(ports)


def test_peers_of_the_network_policy() -> None:
    senders = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    scrapers = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    egress = [{"ports": [{"port": 4317}]}]
    given = {"senders": senders, "scrapers": scrapers, "egress": egress}
    (policy,) = of_kind(template("deployment", networkPolicy=given), "NetworkPolicy")
    sending, scraping, probing = policy["spec"]["ingress"]
    assert (sending["from"], scraping["from"]) == (senders, scrapers)
    assert "from" not in probing
    assert policy["spec"]["egress"] == egress
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_what_is_given_for_pods_reaches_them() -> None:
    given: dict[str, Any] = {
        "env": [{"name": "TENANT", "value": "a"}],
        "volumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "high",
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1}],
    }
    digest = f"sha256:{'0' * 64}"
    mounts = [{"name": "tls", "mountPath": "/etc/k8strace/tls"}]
    objects = template(
        "deployment",
        image={"repository": "registry.example.org:5000/k8strace", "digest": digest},
        workers=2,
        resources={"limits": {"memory": "1Gi"}},
        drain={"preStopSeconds": 7, "shutdownTimeoutSeconds": 60},
        volumeMounts=mounts,
        podLabels={"team": "a"},
        podAnnotations={"note": "b"},
        **given,
    )
    pod = pod_of(objects)
    container = container_of(pod)
    env, volumes = given.pop("env"), given.pop("volumes")
    assert given.items() <= pod.items()
    assert container["env"] == env
    assert volumes[0] in pod["volumes"]
    assert mounts[0] in container["volumeMounts"]
    assert container["image"] == f"registry.example.org:5000/k8strace@{digest}"
    assert container["args"][1:] == ["--shutdown-timeout=60", "--workers=2"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert pod["terminationGracePeriodSeconds"] == 77
    metadata = workload(objects)["spec"]["template"]["metadata"]
    assert (metadata["labels"]["team"], metadata["annotations"]["note"]) == ("a", "b")


def test_a_changed_configuration_has_pods_replaced() -> None:
    def checksum(**values: Any) -> str:
        pod = workload(template("deployment", **values))["spec"]["template"]
        found: str = pod["metadata"]["annotations"]["checksum/config"]
        return found

    changed = nested("exporters.otlp.timeout", "9s")
    assert checksum() == checksum(replicas=5) != checksum(config=changed)


def test_names() -> None:
    objects = template(
        "deployment",
        fullnameOverride="gate",
        serviceAccount={"create": False, "name": "mine"},
    )
    names = {one["metadata"]["name"] for one in objects}
    assert names == {"gate", "gate-headless"}
    assert pod_of(objects)["serviceAccountName"] == "mine"
    assert not of_kind(objects, "ServiceAccount")
    assert yaml.safe_load(configuration(objects))["service"]["extensions"]


def test_labels_of_monitoring(tmp_path: Path) -> None:
    labels = {"release": "prometheus"}
    given = {
        "serviceMonitor": {"enabled": True, "interval": "7s", "labels": labels},
        "prometheusRule": {"enabled": True, "labels": labels},
    }
    objects = of_kind(
        template("deployment", monitoring=given), "ServiceMonitor", "PrometheusRule"
    )
    assert len(objects) == 2
    for one in objects:
        assert labels.items() <= one["metadata"]["labels"].items()
    (monitor,) = of_kind(objects, "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["interval"] == "7s"
