"""A real kube-apiserver takes what stands in deploy/: all of admission, nothing stored."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from scripts.manifests import CHART, DEPLOY
from tests.deploy.test_chart import template
from tests.deploy.test_values import given
from tests.end_to_end.kube.client import Answer, Client
from tests.end_to_end.kube.control_plane import ControlPlane
from tests.support.manifests import (
    VARIANTS,
    Document,
    committed,
    documents,
    of_kind,
    workload,
)
from tests.support.programs import built, output_of

pytestmark = [
    pytest.mark.control_plane,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]
NAMESPACES = {"observability": "restricted", "kube-system": "privileged"}
OPERATOR = "github.com/prometheus-operator/prometheus-operator"
GO_MODULE = Path(__file__).parent / "go" / "crds"
CRDS = ("servicemonitors", "prometheusrules")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def control_plane(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ControlPlane]:
    async with ControlPlane(tmp_path_factory.mktemp("deploy")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(control_plane: ControlPlane) -> AsyncIterator[Client]:
    """Of a cluster with namespaces, which say what pods may, and ServiceAccounts in them.

    Controllers, which would make a namespace's `default`, there are none.
    """
    async with control_plane.client() as client:
        for namespace, policy in NAMESPACES.items():
            labels = {"pod-security.kubernetes.io/enforce": policy}
            await taken(client, thing("Namespace", namespace, "", labels=labels))
            for name in ("default", "k8strace"):
                await taken(client, thing("ServiceAccount", name, namespace))
        yield client


def thing(kind: str, name: str, namespace: str, **metadata: Any) -> Document:
    where = {"namespace": namespace} if namespace else {}
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, **where, **metadata},
    }


async def taken(client: Client, manifest: Document, *, dry_run: bool = False) -> Answer:
    answer = await client.apply(manifest, dry_run=dry_run)
    what = (manifest["kind"], manifest["metadata"]["name"])
    assert answer.status in (200, 201), (what, answer.body)
    return answer


def pod(objects: list[Document]) -> Document:
    """The pod that a workload's controller would make."""
    made = workload(objects)
    of_template = made["spec"]["template"]
    volumes = [
        {"name": one["metadata"]["name"], "persistentVolumeClaim": {"claimName": "queue-0"}}
        for one in made["spec"].get("volumeClaimTemplates", ())
    ]
    spec = of_template["spec"]
    return {
        **thing("Pod", "k8strace-0", made["metadata"]["namespace"]),
        "spec": {**spec, "volumes": [*spec["volumes"], *volumes]},
    }


def definitions() -> Iterator[Document]:
    """The operator's CRDs, out of its Go module."""
    go = os.environ.get("GO") or shutil.which("go")
    if not go:
        pytest.skip("the Prometheus operator's CRDs come by Go: https://go.dev/dl")
    done = subprocess.run(
        [go, "mod", "download", "-json", OPERATOR],
        cwd=GO_MODULE,
        stdout=subprocess.PIPE,
        check=True,
    )
    folder = Path(json.loads(done.stdout)["Dir"]) / "example" / "prometheus-operator-crd"
    for name in CRDS:
        yield yaml.safe_load((folder / f"monitoring.coreos.com_{name}.yaml").read_text())


@pytest.mark.parametrize("variant", VARIANTS)
async def test_manifests_are_accepted(client: Client, variant: str) -> None:
    for one in committed(variant):
        answer = await taken(client, one, dry_run=True)
        assert answer.json["kind"] == one["kind"]


@pytest.mark.parametrize("variant", VARIANTS)
async def test_their_pods_are_admitted_to_their_namespace(
    client: Client, variant: str
) -> None:
    await taken(client, pod(committed(variant)), dry_run=True)


async def test_a_pod_of_the_node_is_not_admitted_where_pods_are_restricted(
    client: Client,
) -> None:
    made = pod(committed("daemonset"))
    made["metadata"]["namespace"] = "observability"
    answer = await client.apply(made, dry_run=True)
    assert answer.status == 403
    assert b'violates PodSecurity \\"restricted:latest\\"' in answer.body


async def test_the_static_pod_is_accepted(client: Client) -> None:
    text = (DEPLOY / "examples" / "kube-apiserver-sidecar.yaml").read_text()
    (static,) = documents(text)
    await taken(client, static, dry_run=True)


async def test_rights_and_scaling_that_are_asked_for_are_accepted(client: Client) -> None:
    config = {
        "extensions": {"k8s_token_review": {"audiences": ["traces"]}},
        "service": {"extensions": ["health_check", "k8s_token_review"]},
    }
    peers: list[Document] = [{"namespaceSelector": {}}]
    objects = template(
        "deployment",
        config=config,
        autoscaling={"queue": {"enabled": True}},
        networkPolicy={"senders": peers, "scrapers": peers, "egress": [{"to": peers}]},
        podDisruptionBudget={"maxUnavailable": "25%"},
    )
    assert "ClusterRole" in {one["kind"] for one in objects}
    for one in objects:
        await taken(client, one, dry_run=True)


@pytest.mark.parametrize("variant", VARIANTS)
async def test_whatever_operators_set_is_accepted(client: Client, variant: str) -> None:
    """All values at once; what monitors is tried where its definitions are there."""
    await taken(client, thing("Namespace", "traces", ""))
    for one in template(variant, **given(variant)):
        if not one["apiVersion"].startswith("monitoring.coreos.com/"):
            await taken(client, one, dry_run=True)


async def test_what_monitors_is_accepted_after_its_definitions(client: Client) -> None:
    for definition in definitions():
        await taken(client, definition)
    objects = template("deployment", **given("deployment"))
    for one in of_kind(objects, "ServiceMonitor", "PrometheusRule"):
        await taken(client, thing("Namespace", one["metadata"]["namespace"], ""))
        await served(client, one)
        await taken(client, one, dry_run=True)
    monitor, rule = committed("monitoring")
    for one in (monitor, rule):
        await served(client, one)
        await taken(client, one, dry_run=True)
    monitor["spec"]["endpoints"][0]["prot"] = "metrics"
    rule["spec"]["groups"][0]["rules"][0]["expr"] = ["up"]
    for one, wrong in ((monitor, b".spec.endpoints[0].prot"), (rule, b".expr")):
        answer = await client.apply(one, dry_run=True)
        assert answer.status >= 400
        assert wrong in answer.body


async def served(client: Client, manifest: Document) -> None:
    """Until the kube-apiserver serves the object's kind, which it does a little later."""
    async with asyncio.timeout(60):
        while True:
            answer = await client.request("GET", f"/apis/{manifest['apiVersion']}")
            kinds = answer.json["resources"] if answer.status == 200 else ()
            if manifest["kind"] in {one["kind"] for one in kinds}:
                return
            await asyncio.sleep(0.1)


async def helm(kubeconfig: Path, *arguments: str) -> str:
    """What helm says, which has to end well."""
    command = (built("helm", "deploy-tools"), *arguments, f"--kubeconfig={kubeconfig}")
    status, out = await output_of(*command)
    assert status == 0, out.decode()
    return out.decode()


async def test_helm_installs_upgrades_and_takes_away(
    control_plane: ControlPlane, client: Client, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {
        "server": control_plane.url,
        "certificate-authority": str(control_plane.authority.cert),
    }
    config = {
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": "admin-token"}}],
        "contexts": [{"name": "it", "context": {"cluster": "here", "user": "admin"}}],
        "current-context": "it",
    }
    kubeconfig.write_text(yaml.safe_dump(config))
    where = ("--namespace=traces", "--create-namespace")
    backend = "--set=config.exporters.otlp.endpoint=http://tempo:4317"
    said = await helm(kubeconfig, "install", "gate", str(CHART), *where, backend)
    assert "grpc  gate-k8strace.traces.svc:4317" in said
    path = "/apis/apps/v1/namespaces/traces/deployments/gate-k8strace"
    before = (await client.request("GET", path)).json
    changed = "--set=config.exporters.otlp.timeout=9s"
    await helm(kubeconfig, "upgrade", "gate", str(CHART), *where, backend, changed)
    after = (await client.request("GET", path)).json
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    await helm(kubeconfig, "uninstall", "gate", where[0])
    assert (await client.request("GET", path)).status == 404
