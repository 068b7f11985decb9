"""Whether a component of a version takes a tracing configuration, and what it would say."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml

from k8strace.kube._go_url import quoted
from k8strace.kube.tracing_config import (
    GROUP,
    TracingConfigurationError,
    parse_kubelet,
    read,
    unreachable,
)
from k8strace.kube.versions import (
    APISERVER_TRACING,
    FIRST_VERSIONS,
    KUBELET_TRACING,
    Gate,
    Version,
    shown,
)

_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")


class Problem(NamedTuple):
    """What is wrong; `line` of the file, None where it is not of one."""

    text: str
    line: int | None = None


def judged(component: str, path: Path, version: Version, gates: str) -> list[Problem]:
    """What is wrong with a file for a kube-apiserver or kubelet; `gates` are its flag's."""
    is_kubelet = component == "kubelet"
    gate = KUBELET_TRACING if is_kubelet else APISERVER_TRACING
    found: list[Problem] = []
    fields = _Fields(path)
    try:
        config = parse_kubelet(path.read_text("utf-8-sig")) if is_kubelet else read(path)
        if config is None:
            found.append(Problem("the kubelet has no `tracing`: it makes no spans"))
        elif problem := unreachable(config.endpoint):
            where = "tracing.endpoint" if is_kubelet else "endpoint"
            found.append(Problem(problem, fields.line(where)))
    except TracingConfigurationError as error:
        found.append(Problem(str(error), fields.line(*error.fields)))
    except (OSError, UnicodeDecodeError) as error:
        found.append(Problem(str(error)))
    group, _, name = fields.value("apiVersion").partition("/")
    first = FIRST_VERSIONS.get(name)
    if group == GROUP and first is not None and version < first:
        found.append(
            Problem(
                f"kube-apiserver {shown(version)} does not know {group}/{name}: "
                f"{shown(first)} is the first",
                fields.line("apiVersion"),
            )
        )
    where, line = f"--feature-gates={gate.name}=true", None
    value = dict(_pairs(gates)).get(gate.name, "")
    if is_kubelet:
        in_file = f"featureGates.{gate.name}"
        where = f"featureGates: {{{gate.name}: true}}"
        line = fields.line(in_file)
        value = fields.value(in_file) or value
    if problem := _of_gate(gate, value, version, where):
        found.append(Problem(problem, line))
    return found


def _of_gate(gate: Gate, value: str, version: Version, where: str) -> str:
    """What is wrong with a feature gate, "" for nothing; an empty `value` is none."""
    if version < gate.first:
        return f"{shown(version)} has no {gate.name}: {shown(gate.first)} is the first"
    if value and version >= gate.gone:
        return (
            f"unrecognized feature gate: {gate.name}: it was removed in "
            f"{shown(gate.gone)}, tracing is always there: leave the gate out"
        )
    if value and value.lower() not in (*_TRUE, *_FALSE):
        return (
            f"invalid value of {gate.name}={value}, err: strconv.ParseBool: parsing "
            f"{quoted(value)}: invalid syntax"
        )
    is_off = value.lower() in _FALSE
    if is_off and version >= gate.locked:
        return f"cannot set feature gate {gate.name} to false, feature is locked to true"
    if is_off:
        return f"{gate.name}=false switches tracing off"
    if not value and version < gate.on:
        return f"{shown(version)} needs {where}"
    return ""


def _pairs(gates: str) -> list[tuple[str, str]]:
    """Of a flag's `A=true,B=false`."""
    parts = (part.partition("=") for part in gates.split(",") if part.strip())
    return [(name.strip(), value.strip()) for name, _, value in parts]


class _Fields:
    """The fields of a file, as far as it is YAML: what stands there, and where."""

    def __init__(self, path: Path) -> None:
        self._lines: dict[str, int] = {}
        self._values: dict[str, str] = {}
        try:
            text = path.read_text("utf-8-sig")
            root = next(iter(yaml.compose_all(text, yaml.CSafeLoader)), None)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
            return  # it has been said already, in Kubernetes' words
        self._add(root, "", 2)

    def line(self, *paths: str) -> int | None:
        """The first on which one of these stands."""
        return min((self._lines[p] for p in paths if p in self._lines), default=None)

    def value(self, path: str) -> str:
        """What stands there, "" for nothing."""
        return self._values.get(path, "")

    def _add(self, node: yaml.Node | None, path: str, depth: int) -> None:
        if not isinstance(node, yaml.MappingNode) or not depth:
            return
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            self._lines[path + key.value] = key.start_mark.line + 1
            if isinstance(value, yaml.ScalarNode):
                self._values[path + key.value] = value.value
            self._add(value, f"{path}{key.value}.", depth - 1)
