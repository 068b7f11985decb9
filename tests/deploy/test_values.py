"""Each value of the chart does something; nulls, quantities and other charts' names."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8strace.config import load
from scripts.helm_values import rows
from scripts.manifests import CHART
from tests.deploy.test_chart import helm, nested, template
from tests.support.manifests import (
    VARIANTS,
    Document,
    configuration,
    container_of,
    of_kind,
    pod_of,
    workload,
)

FOLDER = Path(__file__).parent / "values"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
HINTS = yaml.safe_load((CHART / "hints.yaml").read_text())
PATHS = [path for path, _, _ in rows(SCHEMA, DEFAULTS)]


def given(variant: str) -> dict[str, Any]:
    """Values that operators set, over those of the variant."""
    values: dict[str, Any] = yaml.safe_load((FOLDER / f"{variant}.yaml").read_text())
    return values


def inside(values: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The map in which the last name of `path` is to be found, and that name."""
    *above, last = path.split(".")
    for name in above:
        values = values.get(name) or {}
    return values, last


def sets(values: dict[str, Any], path: str) -> bool:
    found, last = inside(values, path)
    return last in found


@cache
def rendered(variant: str) -> str:
    status, out, err = helm("template", variant, given(variant))
    assert status == 0, err
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "path"),
    [(one, path) for one in VARIANTS for path in PATHS if sets(given(one), path)],
)
def test_each_value_does_something(variant: str, path: str) -> None:
    """Without it another thing is rendered, or the rest does not go together."""
    values = copy.deepcopy(given(variant))
    found, last = inside(values, path)
    del found[last]
    status, out, err = helm("template", variant, values)
    assert out != rendered(variant)
    assert status == 0 or "values that go together" in err


def test_each_value_is_tried() -> None:
    tried = {path for one in VARIANTS for path in PATHS if sets(given(one), path)}
    # What the variants themselves set, and what other tests are about.
    elsewhere = {
        *("mode", "autoscaling.enabled", "podDisruptionBudget.enabled"),
        *("configMap.existingName", "podDisruptionBudget.maxUnavailable"),
    }
    assert set(PATHS) - tried - elsewhere == set()


def test_what_is_set_for_a_deployment() -> None:
    objects = template("deployment", **given("deployment"))
    assert {one["metadata"]["namespace"] for one in objects} == {"traces"}
    made = workload(objects)
    assert made["metadata"]["annotations"] == {"example.org/owner": "platform"}
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": "25%"}
    for one in (*objects, made["spec"]["template"]):
        if one.get("kind") not in ("Ingress", "Secret"):
            assert one["metadata"]["labels"]["team"] == "platform"
    pod = pod_of(objects)
    container = container_of(pod)
    assert container["args"][0] == "--config=/etc/k8strace/gateway.yaml"
    assert container["args"][-1] == "--log-level=debug"
    assert [one["name"] for one in pod["containers"]] == ["k8strace", "beside"]
    assert [one["name"] for one in pod["initContainers"]] == ["other"]
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/livez", "port": "health"},
        "periodSeconds": 20,
        "timeoutSeconds": 5,
        "failureThreshold": 6,
    }
    assert container["startupProbe"]["httpGet"]["path"] == "/livez"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["supplementalGroups"] == [7]
    assert pod["dnsPolicy"] == "None"
    balanced, headless = of_kind(objects, "Service")
    assert balanced["spec"]["clusterIP"] == "10.96.0.99"
    ports = {one["name"]: one.get("nodePort") for one in balanced["spec"]["ports"]}
    assert ports == {"otlp-grpc": 30317, "otlp-http": None}
    assert headless["spec"]["ipFamilies"] == balanced["spec"]["ipFamilies"] == ["IPv4"]
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")
    kinds = [one["type"] for one in scaler["spec"]["metrics"]]
    assert kinds == ["Resource", "Resource", "Pods", "External"]
    assert set(scaler["spec"]["behavior"]) == {"scaleDown", "scaleUp"}
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 2
    assert "maxUnavailable" not in budget["spec"]
    (monitor,) = of_kind(objects, "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert [one["targetLabel"] for one in endpoint["relabelings"]] == ["job", "cluster"]
    (rule,) = of_kind(objects, "PrometheusRule")
    assert rule["spec"]["groups"][-1]["name"] == "mine"
    assert len(rule["spec"]["groups"]) > 1
    (ingress,) = of_kind(objects, "Ingress")
    assert ingress["metadata"]["name"] == balanced["metadata"]["name"]
    (secret,) = of_kind(objects, "Secret")
    assert secret["metadata"]["name"] == "release-name-more"


def test_what_is_set_for_a_statefulset() -> None:
    objects = template("statefulset", **given("statefulset"))
    spec = workload(objects)["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["annotations"] == {"example.org/backup": "false"}
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    (headless,) = of_kind(objects, "Service")
    assert headless["metadata"]["name"] == spec["serviceName"] == "store-headless"
    assert pod_of(objects)["serviceAccountName"] == "default"


def test_what_is_set_for_a_daemonset() -> None:
    objects = template("daemonset", **given("daemonset"))
    pod = pod_of(objects)
    assert "affinity" not in pod
    assert "priorityClassName" not in pod
    ports = {one["name"]: one.get("hostPort") for one in container_of(pod)["ports"]}
    assert ports == {"otlp-grpc": 4317, "metrics": None, "health": 13133}


# Strings, and numbers as YAML has them: integers and floats.
QUANTITIES = [
    *("5Gi", "6Gi", "20Gi", "1Ti", "3Pi", "1Ei", "7Ei", "1048576Ki", "2048Mi"),
    *("9000000k", "1024M", "10G", "2T", "3P", "9E"),
    *("1e9", "5E9", "1.5e+10", "20e8", "2.5Gi", ".5Gi", "1.Gi", "+2Gi"),
    *("1073741824000m", "900000000000000u", "800000000000000000n", "8589934592"),
    *(1073741824, 68719476736, 1e10, 1.5e12, 9223372036854775807),
]


@pytest.mark.parametrize("memory", QUANTITIES)
def test_every_memory_limit_that_kubernetes_takes_is_taken(memory: str | float) -> None:
    """The queue of 128 MiB fits all of these."""
    values = nested("resources.limits.memory", memory)
    objects = template("deployment", **values)
    shown = container_of(pod_of(objects))["resources"]["limits"]["memory"]
    assert shown == memory or float(shown) == float(memory)


@pytest.mark.parametrize("memory", ["100Mi", "128974848000m", "1e8", 1e8, "0.1G", 0.5])
def test_a_small_limit_is_refused_by_what_it_is(memory: str | float) -> None:
    values = nested("resources.limits.memory", memory)
    status, _, err = helm("template", "deployment", values)
    assert status == 1
    assert "resources.limits.memory" in err
    assert "leave" in err


@pytest.mark.parametrize("memory", ["512MB", "1K", "1e", "1.2.3Gi", "-1Gi", "", "5 Gi", 0])
def test_what_is_not_a_quantity_is_named(memory: str | float) -> None:
    status, _, err = helm(
        "template", "deployment", nested("resources.limits.memory", memory)
    )
    assert status == 1
    assert "/resources/limits/memory" in err


@pytest.mark.parametrize(
    ("memory", "queue", "room"),
    [("8Gi", 3221225473, 3221225472), ("1Ti", 412316860417, 412316860416)],
)
def test_the_room_for_spans_of_large_limits(memory: str, queue: int, room: int) -> None:
    values = {
        **nested("resources.limits.memory", memory),
        **nested("config.exporters.otlp.sending_queue.queue_size", queue),
    }
    status, _, err = helm("template", "deployment", values)
    assert status == 1
    assert f"{queue} bytes for each of 1 workers are more than the {room} that" in err
    queue_of_room = nested("config.exporters.otlp.sending_queue.queue_size", room)
    template("deployment", **{**values, **queue_of_room})


@pytest.mark.parametrize("size", ["20Gi", "1Pi", "2e10", 2e10, 20000000000])
def test_sizes_of_volumes_are_quantities(size: str | float) -> None:
    objects = template("statefulset", persistence={"size": size})
    (claim,) = workload(objects)["spec"]["volumeClaimTemplates"]
    shown = claim["spec"]["resources"]["requests"]["storage"]
    assert shown == size or float(shown) == float(size)


def test_limits_in_mib_are_heeded() -> None:
    config = {
        "processors": {"memory_limiter": {"limit_mib": 160, "limit_percentage": None}}
    }
    status, _, err = helm("template", "deployment", {"config": config})
    assert status == 1
    assert "are more than the 67108864 that" in err


def gateway(objects: list[Document], folder: Path) -> Document:
    """The configuration, which the gateway takes."""
    path = folder / "config.yaml"
    path.write_text(configuration(objects))
    load([str(path)], [])
    config: Document = yaml.safe_load(path.read_text())
    return config


def test_null_takes_away_what_a_variant_sets(tmp_path: Path) -> None:
    values = {
        "nodeSelector": {"node-role.kubernetes.io/control-plane": None},
        "daemonset": {"socketDirectory": ""},
        "affinity": {"nodeAffinity": None},
        "config": {
            "receivers": {"otlp/socket": None},
            "processors": {"unused": None},
            "service": {"pipelines": {"traces": {"receivers": ["otlp"]}, "traces/2": None}},
        },
    }
    objects = template("daemonset", **values)
    config = gateway(objects, tmp_path)
    assert set(config["receivers"]) == {"otlp"}
    assert set(config["processors"]) == {"memory_limiter"}
    assert set(config["service"]["pipelines"]) == {"traces"}
    pod = pod_of(objects)
    assert "nodeSelector" not in pod
    assert "affinity" not in pod
    assert "null" not in yaml.safe_dump(objects)


def test_null_takes_away_options_of_a_variant(tmp_path: Path) -> None:
    queue = {"storage": None, "queue_size": None}
    exporter = {"sending_queue": queue, "retry_on_failure": None}
    objects = template("statefulset", config={"exporters": {"otlp": exporter}})
    config = gateway(objects, tmp_path)
    assert "storage" not in config["exporters"]["otlp"]["sending_queue"]
    assert "retry_on_failure" not in config["exporters"]["otlp"]


def test_components_with_their_defaults_stay(tmp_path: Path) -> None:
    """`batch:` is how collector configurations say them, and `grpc:` in protocols."""
    config = {
        "receivers": {"otlp/plain": {"protocols": {"grpc": None}}},
        "processors": {"batch": None},
        "exporters": {"debug": None, "otlp": None, "nop": None},
        "service": {
            "pipelines": {
                "traces": {
                    "receivers": ["otlp", "otlp/plain"],
                    "processors": ["memory_limiter", "batch"],
                    "exporters": ["debug"],
                }
            }
        },
    }
    found = gateway(template("deployment", config=config), tmp_path)
    assert found["processors"]["batch"] == {}
    assert found["exporters"] == {"debug": {}}
    assert found["receivers"]["otlp/plain"] == {"protocols": {"grpc": {}}}


def test_a_configuration_of_the_collectors_chart_knows_its_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Collector's chart sets these variables, and its configurations name them."""
    config = {
        "receivers": {
            "otlp": nested("protocols.grpc.endpoint", "${env:MY_POD_IP}:4317"),
        },
        "extensions": {"health_check": {"endpoint": "${env:MY_POD_IP}:13133"}},
        "service": nested(
            "telemetry.resource", {"k8s.node.name": "${env:OTEL_K8S_NODE_NAME}"}
        ),
    }
    own = {"name": "OTEL_K8S_NODE_NAME", "value": "mine"}
    objects = template("deployment", config=config, env=[own])
    container = container_of(pod_of(objects))
    address = {"fieldRef": {"fieldPath": "status.podIP"}}
    assert container["env"] == [{"name": "MY_POD_IP", "valueFrom": address}, own]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert (ports["otlp-grpc"], ports["health"]) == (4317, 13133)
    monkeypatch.setenv("MY_POD_IP", "127.0.0.1")
    monkeypatch.setenv("OTEL_K8S_NODE_NAME", "mine")
    gateway(objects, tmp_path)
    assert "env" not in container_of(pod_of(template("deployment")))


@pytest.mark.parametrize(
    ("protocols", "left"),
    [
        ({"grpc": {}, "http": None}, {"grpc": {}}),
        ({"grpc": None, "http": {}}, {"http": {}}),
        ({"grpc": None, "http": None}, {"grpc": {}, "http": {}}),
    ],
)
def test_protocols_that_are_null(
    tmp_path: Path, protocols: dict[str, Any], left: dict[str, Any]
) -> None:
    config = {
        "receivers": {"otlp/2": {"protocols": protocols}, "otlp": None},
        "service": {"pipelines": {"traces": {"receivers": ["otlp/2"]}}},
    }
    found = gateway(template("deployment", config=config), tmp_path)
    assert found["receivers"] == {"otlp/2": {"protocols": left}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_users_may_be_left_to_the_cluster(variant: str) -> None:
    names = ("runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy")
    objects = template(variant, podSecurityContext=dict.fromkeys(names))
    assert pod_of(objects)["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_a_large_user_is_a_number() -> None:
    """As OpenShift has them; YAML's numbers are floats to Helm."""
    user = {"runAsUser": 1000680000, "runAsGroup": 1000680001}
    objects = template("daemonset", podSecurityContext=user)
    pod = pod_of(objects)
    assert pod["securityContext"]["runAsUser"] == 1000680000
    (init,) = pod["initContainers"]
    assert init["command"][1] == "1000680000:1000680001"


def test_labels_stand_once_and_are_selected_by() -> None:
    """A map would hide it: keys of YAML that stand twice are looked for in the text."""
    labels = {"app.kubernetes.io/name": "mine", "app.kubernetes.io/version": "9"}
    values = {
        "podLabels": labels,
        "podAnnotations": {"checksum/config": "x"},
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"helm.sh/chart": "x"}},
            "prometheusRule": {"enabled": True, "labels": labels},
        },
        "additionalLabels": {"app.kubernetes.io/component": "mine"},
    }
    status, out, err = helm("template", "deployment", values)
    assert status == 0, err
    objects = [one for one in yaml.load_all(out, _Once) if one]
    template_ = workload(objects)["spec"]["template"]["metadata"]
    assert labels.items() <= template_["labels"].items()
    assert template_["labels"]["app.kubernetes.io/component"] == "mine"
    selected = [workload(objects)["spec"]["selector"]["matchLabels"]]
    selected += [one["spec"]["selector"] for one in of_kind(objects, "Service")]
    for kind in ("PodDisruptionBudget", "ServiceMonitor"):
        (one,) = of_kind(objects, kind)
        selected.append(one["spec"]["selector"]["matchLabels"])
    (policy,) = of_kind(objects, "NetworkPolicy")
    selected.append(policy["spec"]["podSelector"]["matchLabels"])
    for selector in selected:
        assert selector == {
            "app.kubernetes.io/name": "mine",
            "app.kubernetes.io/instance": "release-name",
        }
    for service in of_kind(objects, "Service"):
        assert selected[0].items() <= service["metadata"]["labels"].items()


class _Once(yaml.SafeLoader):
    """Refuses a key that stands twice in a map."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)


def test_a_configmap_that_is_there_already() -> None:
    values = {
        "configMap": {"existingName": "mine", "key": "relay.yaml"},
        "config": nested("exporters.otlp.endpoint", ""),
    }
    objects = template("deployment", **values)
    assert not of_kind(objects, "ConfigMap")
    pod = pod_of(objects)
    (volume,) = pod["volumes"]
    assert volume["configMap"]["name"] == "mine"
    assert container_of(pod)["args"][0] == "--config=/etc/k8strace/relay.yaml"
    metadata = workload(objects)["spec"]["template"]["metadata"]
    assert "checksum/config" not in metadata.get("annotations", {})


def test_probes_of_another_kind() -> None:
    own = {"grpc": {"port": 9000}}
    config = {"service": {"extensions": ["zpages"]}}
    objects = template("deployment", config=config, livenessProbe=None, readinessProbe=own)
    container = container_of(pod_of(objects))
    assert "livenessProbe" not in container
    assert container["readinessProbe"]["grpc"] == {"port": 9000}
    assert "httpGet" not in container["readinessProbe"]
    assert "health" not in {one["name"] for one in container["ports"]}


def test_the_daemonset_goes_to_every_control_plane() -> None:
    pod = pod_of(template("daemonset"))
    required = pod["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    labels = set()
    for term in required["nodeSelectorTerms"]:
        (expression,) = term["matchExpressions"]
        assert expression["operator"] == "Exists"  # k3s and RKE2 write "true"
        labels.add(expression["key"])
    role = "node-role.kubernetes.io/"
    assert {role + one for one in ("control-plane", "master", "etcd")} <= labels
    assert "nodeSelector" not in pod
    tolerated = {one["key"] for one in pod["tolerations"]}
    assert {role + one for one in ("control-plane", "master", "etcd")} <= tolerated
    for one in pod["tolerations"]:  # NoSchedule and NoExecute, whatever the value
        assert set(one) == {"key", "operator"}
        assert one["operator"] == "Exists"


@pytest.mark.parametrize("value", [{"x": 1}, [1], "x", 7, True])
def test_names_of_other_charts_have_a_hint(value: Any) -> None:
    """All at once, whatever stands there."""
    values: dict[str, Any] = {}
    for path in HINTS:
        *above, last = path.split(".")
        found = values
        for name in above:
            found = found.setdefault(name, {})
        found[last] = value
    status, _, err = helm("template", "deployment", values)
    assert status == 1
    for path, hint in HINTS.items():
        assert f"{path}: not a value of this chart: {hint}" in err


def test_hints_name_values_that_there_are() -> None:
    for path, hint in HINTS.items():
        found, last = inside(DEFAULTS, path)
        assert last not in found, path
        named = [one.strip(",:;") for one in hint.split()]
        for one in (word for word in named if word.partition(".")[0] in DEFAULTS):
            holder, name = inside(DEFAULTS, one)
            assert name in holder or one.startswith("config."), (path, one)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "image.repository",
            "registry:5000/k8strace:1",
            "image.repository: registry:5000/k8strace:1 has a tag or digest",
        ),
        ("image.repository", "k8strace@sha256:0", "set image.tag or image.digest"),
        ("hostPorts", {"grpc": 1}, "hostPorts.grpc: there is no such port; there are otlp"),
        ("service.nodePorts", {"health": 1}, "service.nodePorts.health: there is no such"),
        (
            "service.nodePorts",
            {"otlp-grpc": 30317},
            "service.nodePorts: a Service of type ClusterIP has none; set service.type to "
            "NodePort or LoadBalancer",
        ),
        ("service.loadBalancerIP", "192.0.2.1", "service.loadBalancerIP: a Service of"),
        ("service.externalTrafficPolicy", "Local", "service.externalTrafficPolicy: a"),
        (
            "service",
            {"type": "NodePort", "clusterIP": "None"},
            "service.clusterIP: a Service of type NodePort has an address",
        ),
        ("autoscaling.cpuPercent", 0, "autoscaling.enabled: there is nothing to scale on"),
        (
            "podDisruptionBudget.maxUnavailable",
            None,
            "podDisruptionBudget.maxUnavailable: it or minAvailable is needed",
        ),
        (
            "autoscaling",
            {"memoryPercent": 80},
            "autoscaling.enabled: it needs resources.requests.memory",
        ),
    ],
)
def test_new_values_that_do_not_go_together(path: str, value: Any, message: str) -> None:
    values = {"resources": {"requests": {"memory": None}}} | nested(path, value)
    status, out, err = helm("template", "deployment", values)
    assert (status, out) == (1, "")
    assert message in err


def test_ports_have_names_that_kubernetes_takes() -> None:
    """Lower case, digits and dashes, 15 at most, each once."""
    server = {"protocols": {"grpc": {"endpoint": ":5317"}}}
    config: dict[str, Any] = {
        "receivers": {"otlp/My_Team.a": server},
        "service": {"pipelines": {"traces": {"receivers": ["otlp", "otlp/My_Team.a"]}}},
    }
    objects = template("deployment", config=config)
    names = {one["name"] for one in container_of(pod_of(objects))["ports"]}
    assert names == {"otlp-grpc", "otlp-http", "grpc-my-team-a", "metrics", "health"}
    longer = ["otlp/of-a-long-team-1", "otlp/of-a-long-team-2"]
    config["receivers"] = dict.fromkeys(longer, server)
    config["service"]["pipelines"]["traces"]["receivers"] = longer
    status, _, err = helm("template", "deployment", {"config": config})
    assert status == 1
    assert "config.receivers: two of the pod's ports would be called grpc-of-a-long" in err


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"maxUnavailable": None, "minAvailable": 0}, "minAvailable", 0),
        ({"minAvailable": "50%"}, "minAvailable", "50%"),
        ({"maxUnavailable": 0}, "maxUnavailable", 0),
        ({"maxUnavailable": "10%", "minAvailable": None}, "maxUnavailable", "10%"),
    ],
)
def test_budgets_of_disruption(given: dict[str, Any], name: str, value: Any) -> None:
    (budget,) = of_kind(
        template("deployment", podDisruptionBudget=given), "PodDisruptionBudget"
    )
    limits = {k: v for k, v in budget["spec"].items() if k.endswith("vailable")}
    assert limits == {name: value}


def test_security_contexts_may_be_left_out() -> None:
    objects = template("daemonset", podSecurityContext=None, securityContext=None)
    pod = pod_of(objects)
    assert "securityContext" not in pod
    assert "securityContext" not in container_of(pod)
    assert pod["initContainers"][0]["command"][1] == "10001:10001"  # the image's user


def test_a_port_of_the_node_is_the_port_on_its_network() -> None:
    status, _, err = helm("template", "daemonset", {"hostPorts": {"metrics": 9999}})
    assert status == 1
    assert "hostPorts.metrics: 9999 is not the port, 8888" in err
    template("daemonset", hostPorts={"metrics": 8888})


def test_it_is_a_part_of_another_chart() -> None:
    template("deployment", enabled=True, **{"global": {"imageRegistry": "x"}})
