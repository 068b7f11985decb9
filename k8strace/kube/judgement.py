"""Whether a component of a version starts with a tracing configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from k8strace.kube.tracing_config import (
    GROUP,
    KUBELET_KIND,
    Examined,
    TracingConfiguration,
    examine,
    examine_kubelet,
    unreachable,
)
from k8strace.kube.versions import (
    APISERVER_TRACING,
    EGRESS_MENDED,
    FIRST_VERSIONS,
    KUBELET_TRACING,
    STRICT,
    Gate,
    Version,
    shown,
)

_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")

# It does not start, it starts and ignores the part, it starts and makes or sends no spans.
Effect = Literal["stops", "ignored", "silent"]


class Problem(NamedTuple):
    """What is wrong; `line` of the file, None where it is not of one."""

    text: str
    effect: Effect
    line: int | None = None


def verdict(problems: list[Problem]) -> str:
    """What becomes of the component, in three words or more."""
    effects = {problem.effect for problem in problems}
    if "stops" in effects:
        return "does not start"
    if "ignored" in effects:
        return "starts with parts ignored"
    return "starts"


def judged(
    component: str | None, path: Path, version: Version, gates: str
) -> tuple[str, list[Problem]]:
    """Whose file it is, and what is wrong with it; `gates` are the component's flag.

    Without `component` the file's kind tells a kubelet's; any other is kube-apiserver's.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        problem = Problem(f"it cannot be read: {error.strerror or error}", "stops")
        return component or "kube-apiserver", [problem]
    except UnicodeDecodeError as error:
        problem = Problem(f"it is not UTF-8: {error}", "stops")
        return component or "kube-apiserver", [problem]
    fields = _Fields(text)
    if component is None:
        is_kubelets = fields.value("kind") == KUBELET_KIND
        component = "kubelet" if is_kubelets else "kube-apiserver"
    of_component = _of_kubelet if component == "kubelet" else _of_apiserver
    return component, list(of_component(text, fields, version, gates))


def notes(component: str, version: Version) -> list[str]:
    """What is known of a version, and cannot be seen in the file."""
    if component == "kube-apiserver" and version < EGRESS_MENDED:
        return [
            f"kube-apiserver {shown(version)} crashes (a nil dialer) with tracing and an "
            "egress selector (--egress-selector-config-file, as k3s and RKE2 set it) that "
            f"has no `controlplane`; {shown(EGRESS_MENDED)} is the first that does not"
        ]
    return []


def _of_apiserver(
    text: str, fields: _Fields, version: Version, gates: str
) -> Iterator[Problem]:
    gate = APISERVER_TRACING
    if version < gate.first:
        yield Problem(
            f"kube-apiserver {shown(version)} has no tracing, {shown(gate.first)} is the "
            "first; it says: unknown flag: --tracing-config-file",
            "stops",
        )
        return
    yield from _of_examined(examine(text), fields, is_strict=version >= STRICT, path="")
    group, _, name = fields.value("apiVersion").partition("/")
    first = FIRST_VERSIONS.get(name)
    if group == GROUP and first is not None and version < first:
        yield Problem(
            f"kube-apiserver {shown(version)} does not know {group}/{name}: {shown(first)} "
            f'is the first; it says: no kind "TracingConfiguration" is registered for '
            f'version "{group}/{name}"',
            "stops",
            fields.line("apiVersion"),
        )
    value = dict(_pairs(gates)).get(gate.name, "")
    off = "APIServerTracing feature is not enabled, but tracing config file was provided"
    yield from _of_gate(gate, value, version, f"--feature-gates={gate.name}=true", off)


def _of_kubelet(
    text: str, fields: _Fields, version: Version, gates: str
) -> Iterator[Problem]:
    """Its decoding falls back to a lenient one, in all versions."""
    gate = KUBELET_TRACING
    examined = examine_kubelet(text)
    in_file = f"featureGates.{gate.name}"
    of_flag = dict(_pairs(gates)).get(gate.name, "")
    # The flag wins, as it does in the kubelet.
    value, line = of_flag or fields.value(in_file), fields.line(in_file)
    line = None if of_flag else line
    if version < gate.first:
        if value:
            yield Problem(f"unrecognized feature gate: {gate.name}", "stops", line)
        if examined.has_tracing:
            yield Problem(
                f"kubelet {shown(version)} has no tracing, {shown(gate.first)} is the "
                'first: unknown field "tracing"',
                "ignored",
                fields.line("tracing"),
            )
        return
    yield from _of_examined(examined, fields, is_strict=False, path="tracing.")
    off = "tracing should not be configured if KubeletTracing feature flag is disabled."
    needed = f"featureGates: {{{gate.name}: true}}"
    for problem in _of_gate(gate, value, version, needed, off):
        if examined.has_tracing or off not in problem.text:
            yield problem._replace(line=line)


def _of_examined(
    examined: Examined, fields: _Fields, *, is_strict: bool, path: str
) -> Iterator[Problem]:
    for problem in examined.problems:
        effect: Effect = "ignored" if problem.is_lenient and not is_strict else "stops"
        text = problem.strictly if effect == "stops" else problem.text
        yield Problem(text, effect, fields.line(*problem.fields))
    if not examined.has_tracing:
        yield Problem("the kubelet has no `tracing`: it makes no spans", "silent")
    elif examined.config is not None:
        yield from _of_config(examined.config, fields, path)


def _of_config(
    config: TracingConfiguration, fields: _Fields, path: str
) -> Iterator[Problem]:
    """What starts, and brings no spans to the gateway."""
    if text := unreachable(config.endpoint):
        yield Problem(text, "silent", fields.line(f"{path}endpoint"))
    if config.sampling_rate_per_million is None:
        yield Problem(
            f"{path}samplingRatePerMillion: is missing, which is 0: it begins no traces, "
            "and only goes on with those that its callers have sampled",
            "silent",
            fields.line(path.removesuffix(".")),
        )


def _of_gate(
    gate: Gate, value: str, version: Version, needed: str, off: str
) -> Iterator[Problem]:
    """What is wrong with a feature gate whose `value` is given, "" for not.

    `needed` sets it; `off` is what the component says where it is off.
    """
    is_off = value.lower() in _FALSE
    if value and version >= gate.gone:
        yield Problem(
            f"unrecognized feature gate: {gate.name}: it was removed in "
            f"{shown(gate.gone)}, tracing is always there: leave the gate out",
            "stops",
        )
    elif value and value.lower() not in (*_TRUE, *_FALSE):
        yield Problem(f"{gate.name}={value}: neither true nor false", "stops")
    elif is_off and version >= gate.locked:
        yield Problem(
            f"cannot set feature gate {gate.name} to false, feature is locked to true: "
            "leave the gate out",
            "stops",
        )
    elif is_off:
        yield Problem(f"{gate.name}=false: leave it out; it says: {off}", "stops")
    elif not value and version < gate.on:
        yield Problem(f"{shown(version)} needs {needed}; it says: {off}", "stops")


def _pairs(gates: str) -> list[tuple[str, str]]:
    """Of a flag's `A=true,B=false`."""
    parts = (part.partition("=") for part in gates.split(",") if part.strip())
    return [(name.strip(), value.strip()) for name, _, value in parts]


class _Fields:
    """The fields of a text, as far as it is YAML: what stands there, and where."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {}
        self._values: dict[str, str] = {}
        try:
            root = next(iter(yaml.compose_all(text, yaml.CSafeLoader)), None)
        except (yaml.YAMLError, RecursionError):
            return  # it is told already, as what keeps it from being decoded
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
