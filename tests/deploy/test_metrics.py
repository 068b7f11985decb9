"""Alerts and dashboard ask for what a gateway shows, in PromQL that parses."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from k8strace.grpc.status import Code, StatusError
from scripts import dashboard
from scripts.manifests import CHART, DEPLOY
from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.gateway import GatewayProcess
from tests.support.manifests import committed, started
from tests.support.programs import built
from tests.support.requests import request

RULES = CHART / "rules" / "k8strace.yaml"
ALERTS = Path(__file__).parent / "alerts.yaml"
SERIES = re.compile(r"\b(?:k8strace|otelcol)_\w+")
GROUPS = re.compile(r"\b(?:by|on) \(([^)]*)\)")
NAMES = re.compile(r"\w+")
MATCHED = re.compile(r"(\w+)(?:=~|!=|!~|=)\"")
# What Prometheus and its operator add to what it scrapes.
TARGET_LABELS = {"job", "instance", "namespace", "pod"}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def adapter_query() -> str:
    """The adapter's query, with what it puts in."""
    (rule,) = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text())["rules"][
        "custom"
    ]
    query: str = rule["metricsQuery"]
    matchers = 'namespace="observability", pod=~"a|b"'
    return query.replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", matchers)


def queries() -> list[str]:
    """All queries, with what Grafana puts in for its variables."""
    of_rules = [one["expr"] for one in rules()]
    of_panels = [
        query.replace("$__rate_interval", "1m").replace("$__range", "1h")
        for query in dashboard.queries()
    ]
    return [*of_rules, *of_panels, adapter_query()]


def promtool(*arguments: str, given: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [built("promtool", "deploy-tools"), *arguments],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_rules_are_right() -> None:
    status, out = promtool("check", "rules", "--lint-fatal", str(RULES))
    assert (status, "SUCCESS" in out) == (0, True), out


@pytest.mark.slow
def test_the_alerts_fire_where_they_should() -> None:
    status, out = promtool("test", "rules", str(ALERTS))
    assert (status, "SUCCESS" in out) == (0, True), out


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    alerts = [one for one in rules() if "alert" in one]
    assert len(alerts) > 10
    tried = set(re.findall(r'alertname="(\w+)", alertstate="firing"', ALERTS.read_text()))
    assert {one["alert"] for one in alerts} == tried
    for one in alerts:
        assert one["labels"]["severity"] in ("critical", "warning")
        assert set(one["annotations"]) == {"summary", "description", "runbook"}


def test_the_queries_parse(tmp_path: Path) -> None:
    """All of them as the expressions of one file of rules, which promtool reads."""
    path = tmp_path / "rules.yaml"
    recorded = [
        {"record": f"query:{number}", "expr": query}
        for number, query in enumerate(queries())
    ]
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": recorded}]}))
    status, out = promtool("check", "rules", str(path))
    assert (status, f"{len(recorded)} rules found" in out) == (0, True), out
    path.write_text(path.read_text().replace("sum", "sumo"))
    assert promtool("check", "rules", str(path))[0] != 0


def test_the_dashboard_is_made_of_its_table() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run make manifests"


def test_panels_have_their_own_place() -> None:
    panels = dashboard.dashboard()["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for one in panels:
        place = one["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, one["title"]
        assert max(x for x, _ in cells) < dashboard.WIDTH
        taken |= cells


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a gateway shows that has some of everything: a store, workers, losses."""
    folder = tmp_path_factory.mktemp("gateway")

    async def refuse(_: object) -> None:
        raise StatusError(Code.INVALID_ARGUMENT, "no")

    async with Backend() as backend:
        backend.answer = refuse
        start = started(committed("statefulset"), folder)
        arguments = start.with_free_ports(f"http://{backend.endpoint}", folder)
        async with GatewayProcess(*arguments, "--workers=2", out=folder / "out") as gateway:
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(10))
            await gateway.wait_for_metric("k8strace_spans_dropped_total", 10)
            # Workers write their gauges down once a second.
            samples = await gateway.wait_for_samples(
                lambda samples: "otelcol_exporter_queue_capacity{" in samples.text
            )
    return samples.text


@pytest.mark.slow
def test_a_gateway_shows_all_series_that_are_asked_for(shown: str) -> None:
    labels_of: dict[str, set[str]] = {}
    for line in shown.splitlines():
        if match := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            labels = re.findall(r'(\w+)="', match[2] or "")
            labels_of.setdefault(match[1], set()).update(labels)
    for query in queries():
        names = set(SERIES.findall(query))
        assert names or "up{" in query or "k8strace:" in query, query
        assert names <= set(labels_of), query
        asked = {label for text in GROUPS.findall(query) for label in NAMES.findall(text)}
        asked |= set(MATCHED.findall(query))
        known = set().union(*(labels_of[name] for name in names)) | TARGET_LABELS
        assert asked <= known, query
    # An id that is another one at each start would make all series new ones.
    del labels_of["target_info"]
    assert "service_instance_id" not in set().union(*labels_of.values())


@pytest.mark.slow
def test_what_a_gateway_shows_is_as_prometheus_wants_it(shown: str) -> None:
    assert promtool("check", "metrics", given=shown) == (0, "")
