"""Writes the Grafana dashboard of deploy/dashboards from the table of its panels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.dashboard_panels import ROWS, Panel

FILE = Path(__file__).parent.parent / "deploy" / "dashboards" / "k8strace.json"
WIDTH = 24  # columns of Grafana's grid
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def queries() -> Iterator[str]:
    """All expressions, with Grafana's variables in them."""
    for panels in ROWS.values():
        for panel in panels:
            yield from (query.expr for query in panel.queries)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "k8strace",
        "title": "k8strace",
        "description": "The trace gateway: what comes, goes, waits and is lost.",
        "tags": ["k8strace", "opentelemetry", "tracing"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": list(_placed()),
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
        },
        {
            "name": "instance",
            "label": "Gateway",
            "type": "query",
            "datasource": SOURCE,
            "query": 'label_values(k8strace_budget_limit_bytes{job="k8strace"}, instance)',
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _placed() -> Iterator[dict[str, Any]]:
    """Rows and panels from the top, each row's panels as wide as three of them."""
    number = top = 0
    for title, panels in ROWS.items():
        number += 1
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        top += 1
        is_numbers = panels[0].is_number
        width, height = (
            (WIDTH // len(panels), HEIGHT // 2) if is_numbers else (WIDTH // 3, HEIGHT)
        )
        for index, panel in enumerate(panels):
            number += 1
            line, column = divmod(index, WIDTH // width)
            place = {"h": height, "w": width, "x": column * width, "y": top + line * height}
            yield _panel(number, panel, place)
        top += -(-len(panels) // (WIDTH // width)) * height


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.is_number:
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if panel.red is not None:
            steps.append({"color": "red", "value": panel.red})
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        options: dict[str, Any] = {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "colorMode": "value",
        }
    else:
        defaults |= {"min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        }
    return {
        "id": number,
        "type": "stat" if panel.is_number else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": panel.is_number,
                "range": not panel.is_number,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """What the file has."""
    return json.dumps(dashboard(), indent=2) + "\n"


def main() -> None:
    """Bring the file up to date."""
    FILE.write_text(text())


if __name__ == "__main__":
    main()
