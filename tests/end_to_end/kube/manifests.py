"""Objects that traffic creates, and those that make a kube-apiserver call others."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tests.end_to_end.kube.callees import GROUP

Object = dict[str, Any]
ADMISSION = "admissionregistration.k8s.io"
RBAC = "rbac.authorization.k8s.io"


def thing(version: str, kind: str, name: str, **fields: Any) -> Object:
    labels = fields.pop("labels", {})
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def config_map(name: str, size: int = 64) -> Object:
    return thing("v1", "ConfigMap", name, data={"text": "x" * size})


def pod(name: str) -> Object:
    container = {"name": "main", "image": "registry.example/main:1"}
    return thing("v1", "Pod", name, spec={"containers": [container]})


def namespace(name: str) -> Object:
    return thing("v1", "Namespace", name, labels={"test": name})


def service_account() -> Object:
    return thing("v1", "ServiceAccount", "default")


def everything_for(group: str) -> Object:
    """A group of users may do all."""
    role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"}
    subjects = [{"apiGroup": RBAC, "kind": "Group", "name": group}]
    name, version = f"all-{group}", f"{RBAC}/v1"
    return thing(version, "ClusterRoleBinding", name, roleRef=role, subjects=subjects)


def webhook(
    name: str, url: str, authority: Path, *, ignored: bool = False, timeout: int = 20
) -> Object:
    """One that is called for the ConfigMaps of the namespace with its name.

    `ignored` is whether its failure is; `timeout` is in seconds.
    """
    operations = {"operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}
    return {
        "name": f"{name}.k8strace.test",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "timeoutSeconds": timeout,
        "failurePolicy": "Ignore" if ignored else "Fail",
        "clientConfig": {"url": url, "caBundle": bundle(authority)},
        "namespaceSelector": {"matchLabels": {"test": name}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], **operations}],
    }


def webhooks(kind: str, name: str, *hooks: Object) -> Object:
    """`kind` is Mutating or Validating."""
    full = f"{kind}WebhookConfiguration"
    return thing(f"{ADMISSION}/v1", full, name, webhooks=list(hooks))


def custom_resource(url: str, authority: Path) -> Object:
    """Widgets in two versions, which a webhook at `url` converts."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    versions = [
        {
            "name": name,
            "served": True,
            "storage": name == "v1",
            "schema": {"openAPIV3Schema": anything},
        }
        for name in ("v1", "v1beta1")
    ]
    client = {"url": url, "caBundle": bundle(authority)}
    hook = {"conversionReviewVersions": ["v1"], "clientConfig": client}
    spec = {
        "group": "k8strace.test",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": versions,
        "conversion": {"strategy": "Webhook", "webhook": hook},
    }
    version, kind = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
    return thing(version, kind, "widgets.k8strace.test", spec=spec)


def aggregated(port: int) -> tuple[Object, Object]:
    """The service of an aggregated API on loopback, and the API."""
    external = {"type": "ExternalName", "externalName": "localhost"}
    service = thing("v1", "Service", "things", spec={**external, "ports": [{"port": port}]})
    where = {"namespace": "default", "name": "things", "port": port}
    priorities = {"groupPriorityMinimum": 1000, "versionPriority": 15}
    spec = {"group": GROUP, "version": "v1", "service": where, **priorities}
    # Its certificate is localhost's, not that of a service.
    spec["insecureSkipTLSVerify"] = True
    version = "apiregistration.k8s.io/v1"
    return service, thing(version, "APIService", f"v1.{GROUP}", spec=spec)


def bundle(authority: Path) -> str:
    """A certificate as fields want it."""
    return base64.b64encode(authority.read_bytes()).decode()
