"""What the gateway says of itself, and what it refuses to say."""

from __future__ import annotations

from typing import Any

import pytest

from k8strace.config_structs import decode
from k8strace.config_telemetry import Prometheus, Telemetry
from k8strace.errors import ConfigError


def prometheus(**values: Any) -> dict[str, Any]:
    return {"pull": {"exporter": {"prometheus": values}}}


def test_the_defaults() -> None:
    telemetry = decode(Telemetry, {})
    assert telemetry.prometheus == Prometheus(host="localhost", port=8888)
    assert (telemetry.logs.level, telemetry.logs.encoding) == ("info", "console")
    assert telemetry.resource_attributes == {}


@pytest.mark.parametrize("level", ["none", "None", "NONE"])
def test_level_none_serves_nothing(level: str) -> None:
    assert decode(Telemetry, {"metrics": {"level": level}}).prometheus is None
    assert (
        decode(Telemetry, {"metrics": {"level": level, "readers": []}}).prometheus is None
    )


@pytest.mark.parametrize("level", ["basic", "normal", "Detailed"])
def test_every_other_level_serves(level: str) -> None:
    readers = [prometheus(host="::", port=0)]
    telemetry = decode(Telemetry, {"metrics": {"level": level, "readers": readers}})
    assert telemetry.prometheus == Prometheus(host="::", port=0)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"metrics": {"level": "all"}}, "metrics: level must be one of none, basic"),
        ({"metrics": {"readers": []}}, "metrics: readers is empty"),
        (
            {"metrics": {"readers": [prometheus(), prometheus()]}},
            "metrics: readers has 2 entries: one is available",
        ),
        ({"metrics": {"readers": [{"pull": {"exporter": {}}}]}}, "prometheus: is missing"),
        ({"logs": {"level": "fatal"}}, "logs: level must be one of debug"),
        ({"logs": {"output_paths": ["stdout"]}}, "output_paths can be [stderr] only"),
        ({"logs": {"output_paths": ["stderr", "a.log"]}}, "output_paths can be [stderr]"),
        ({"traces": {"level": "basic"}}, "the gateway makes no spans of its own"),
        ({"resource": {"a": [1]}}, "resource::a: expected string, not a list"),
    ],
)
def test_what_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(Telemetry, values)
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, {"service.name", "service.version", "k8s.pod.name"}),
        ({"included": ["service.*"]}, {"service.name", "service.version"}),
        ({"excluded": ["service.?ame"]}, {"service.version", "k8s.pod.name"}),
        ({"included": ["service.*"], "excluded": ["service.name"]}, {"service.version"}),
    ],
)
def test_constant_labels(labels: dict[str, list[str]], expected: set[str]) -> None:
    config = decode(Prometheus, {"with_resource_constant_labels": labels})
    names = ("service.name", "service.version", "k8s.pod.name")
    assert {name for name in names if config.has_constant_label(name)} == expected
