"""deploy/README.md: its table of values, its examples and its commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from k8strace import __version__
from k8strace.config import load
from scripts import helm_values
from scripts.manifests import CHART, DEPLOY
from tests.deploy.test_chart import template
from tests.support.manifests import configuration, container_of, pod_of

TEXT = (DEPLOY / "README.md").read_text()
# Maps of Kubernetes' or the gateway's own, of which the chart sets a part.
OPEN = (
    *("config", "resources", "podSecurityContext", "securityContext"),
    *("livenessProbe", "readinessProbe", "autoscaling.behavior"),
)


def test_the_table_of_values_is_the_charts() -> None:
    assert helm_values.with_table(TEXT) == TEXT, "run make manifests"


def test_every_value_has_its_row() -> None:
    def leaves(values: dict[str, object], path: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            where = f"{path}{name}"
            is_open = where in OPEN
            if isinstance(value, dict) and value and not is_open:
                found |= leaves(value, f"{where}.")
            else:
                found.add(where)
        return found

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = set(re.findall(r"^\| `([\w.]+)` \|", TEXT, re.MULTILINE))
    assert leaves(values) == rows


def test_every_value_is_used() -> None:
    templates = "".join(one.read_text() for one in (CHART / "templates").iterdir())
    for name in re.findall(r"^\| `([\w.]+)` \|", TEXT, re.MULTILINE):
        *_, last = name.split(".")
        assert re.search(rf'[."]{last}\b', templates), f"{name} is in no template"


def test_the_chart_has_the_gateways_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__
    sidecar = (DEPLOY / "examples" / "kube-apiserver-sidecar.yaml").read_text()
    assert f"image: ghcr.io/k8strace/k8strace:{__version__}" in sidecar


def test_the_example_of_values_is_one_that_the_gateway_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    values = yaml.safe_load(text)
    objects = template("deployment", **values)
    path = tmp_path / "config.yaml"
    path.write_text(configuration(objects))
    (variable,) = container_of(pod_of(objects))["env"]
    monkeypatch.setenv(variable["name"], "tenant-1")
    loaded = load([str(path)], [])
    assert loaded.notes == ()
    assert "http" not in yaml.safe_load(path.read_text())["receivers"]["otlp"]["protocols"]


def test_paths_in_commands_are_there() -> None:
    for path in re.findall(r"\bdeploy/[\w./-]+", TEXT):
        assert (DEPLOY.parent / path).exists(), path
