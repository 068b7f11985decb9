"""What stands in deploy/: manifests as documents, and the gateway that they start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scripts.manifests import MANIFESTS

Document = dict[str, Any]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
VARIANTS = ("deployment", "statefulset", "daemonset")
CONFIG = "/etc/k8strace/config.yaml"


def documents(text: str) -> list[Document]:
    """The objects of a manifest."""
    return [one for one in yaml.safe_load_all(text) if one]


def committed(name: str) -> list[Document]:
    return documents((MANIFESTS / f"{name}.yaml").read_text())


def of_kind(objects: list[Document], *kinds: str) -> list[Document]:
    return [one for one in objects if one["kind"] in kinds]


def workload(objects: list[Document]) -> Document:
    (one,) = of_kind(objects, *WORKLOADS)
    return one


def pod_of(objects: list[Document]) -> Document:
    """The pod's spec."""
    pod: Document = workload(objects)["spec"]["template"]["spec"]
    return pod


def container_of(pod: Document) -> Document:
    (one,) = (one for one in pod["containers"] if one["name"] == "k8strace")
    container: Document = one
    return container


def configuration(objects: list[Document]) -> str:
    """The gateway's configuration, as it stands in the ConfigMap that the pod mounts."""
    pod = pod_of(objects)
    (volume,) = (one for one in pod["volumes"] if one["name"] == "config")
    (mount,) = (one for one in container_of(pod)["volumeMounts"] if one["name"] == "config")
    (config,) = (
        one
        for one in of_kind(objects, "ConfigMap")
        if one["metadata"]["name"] == volume["configMap"]["name"]
    )
    text: str = config["data"][Path(CONFIG).relative_to(mount["mountPath"]).name]
    return text


class Started(NamedTuple):
    """A gateway as a container starts it: arguments, and the configuration they name."""

    arguments: list[str]
    configuration: Document

    def with_free_ports(self, backend: str, folder: Path) -> list[str]:
        """The arguments, with addresses and directories that a test may have."""
        changes = self._changes(backend, folder)
        return [*self.arguments, *(f"--set={change}" for change in changes)]

    def _changes(self, backend: str, folder: Path) -> Iterator[str]:
        config = self.configuration
        for id_, receiver in config["receivers"].items():
            for protocol, server in receiver["protocols"].items():
                is_unix = (server or {}).get("transport") == "unix"
                endpoint = folder / "otlp.sock" if is_unix else "127.0.0.1:0"
                yield f"receivers.{id_}.protocols.{protocol}.endpoint={endpoint}"
        yield f"exporters.otlp.endpoint={backend}"
        for id_ in config["service"]["extensions"]:
            option, value = "endpoint", "127.0.0.1:0"
            if id_ == "file_storage":
                option, value = "directory", str(folder / "queue")
            yield f"extensions.{id_}.{option}={value}"
        (reader,) = config["service"]["telemetry"]["metrics"]["readers"]
        reader["pull"]["exporter"]["prometheus"] |= {"host": "127.0.0.1", "port": 0}
        yield f"service.telemetry.metrics.readers={json.dumps([reader])}"


def started(objects: list[Document], folder: Path) -> Started:
    """The gateway of a manifest; its configuration is written into `folder`."""
    arguments = container_of(pod_of(objects))["args"]
    assert arguments[0] == f"--config={CONFIG}"
    path = folder / "config.yaml"
    path.write_text(configuration(objects))
    config = yaml.safe_load(path.read_text())
    return Started([f"--config={path}", *arguments[1:]], config)
