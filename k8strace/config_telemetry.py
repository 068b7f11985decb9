"""`service.telemetry`: what the gateway says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from k8strace.component import NO_EFFECT, Config, no_effect

_LEVELS = ("none", "basic", "normal", "detailed")
_LOG_LEVELS = ("debug", "info", "warn", "error")

_SPANS = "the gateway makes no spans of its own; leave it out"
_DETECTORS = "write the attributes themselves"

RESOURCE_NOT_AVAILABLE = {
    "detectors": _DETECTORS,
    "detection/development": _DETECTORS,
    "attributes_list": "write attributes",
}
"""The collector's options of `resource` that we don't have, and what to do instead."""


def _check_level(level: str, known: Sequence[str]) -> None:
    if level.lower() not in known:
        raise ValueError(f"level must be one of {', '.join(known)}, not {level!r}")


class Logs(Config, frozen=True, kw_only=True):
    """`logs`: `level` is debug, info, warn or error, in any case."""

    not_available: ClassVar[Mapping[str, str]] = {
        "processors": "logs go to stderr only",
        "initial_fields": "add the fields where the logs are collected",
    }

    level: str = "info"
    encoding: Literal["console", "json"] = "console"
    output_paths: tuple[str, ...] = ("stderr",)
    error_output_paths: Annotated[tuple[str, ...], NO_EFFECT] = ("stderr",)
    sampling: Annotated[dict[str, Any], NO_EFFECT] = msgspec.field(default_factory=dict)
    development: Annotated[bool, NO_EFFECT] = False
    disable_caller: Annotated[bool, NO_EFFECT] = False
    disable_stacktrace: Annotated[bool, NO_EFFECT] = False
    disable_zap_resource: Annotated[bool, NO_EFFECT] = False

    def __post_init__(self) -> None:
        _check_level(self.level, _LOG_LEVELS)
        if self.output_paths != ("stderr",):
            raise ValueError("output_paths can be [stderr] only: logs go to stderr")


class ConstantLabels(Config, frozen=True, kw_only=True):
    """Which resource attributes are labels of every series; patterns with * and ?."""

    included: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


class Prometheus(Config, frozen=True, kw_only=True):
    """Where /metrics is served, and how its series are named.

    `without_type_suffix` leaves out `_total`, `without_units` those units that the
    collector's own names do not have; `without_scope_info: false` adds `otel_scope_name`
    and `otel_scope_version` as labels.

    The collector's default is true for all three from v0.152.0 on; before, it was that for
    a configuration without `readers` only, and false for one with them. Names keep their
    suffixes here unless it is said: alerts and dashboards for either ask for those.
    """

    host: str = "localhost"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8888
    without_scope_info: bool = True
    without_type_suffix: bool = False
    without_units: bool = False
    with_resource_constant_labels: ConstantLabels = ConstantLabels()

    def has_constant_label(self, attribute: str) -> bool:
        """Whether every series has the resource attribute `attribute` as a label."""
        labels = self.with_resource_constant_labels
        if any(fnmatchcase(attribute, pattern) for pattern in labels.excluded):
            return False
        included = labels.included or ("*",)
        return any(fnmatchcase(attribute, pattern) for pattern in included)


class PullExporter(Config, frozen=True, kw_only=True):
    not_available: ClassVar[Mapping[str, str]] = {
        "otlp": "the exporter of a pull reader is prometheus",
    }

    prometheus: Prometheus


class Pull(Config, frozen=True, kw_only=True):
    not_available: ClassVar[Mapping[str, str]] = {
        "producers": "leave it out",
        "cardinality_limits": "leave it out",
    }

    exporter: PullExporter


class Reader(Config, frozen=True, kw_only=True):
    """One of `readers`: a pull reader, which Prometheus scrapes."""

    not_available: ClassVar[Mapping[str, str]] = {
        "periodic": "write a pull reader, and let it be scraped",
        "producers": "leave it out",
    }

    pull: Pull


class Metrics(Config, frozen=True, kw_only=True):
    """`metrics`: `level` is none, basic, normal or detailed, in any case."""

    not_available: ClassVar[Mapping[str, str]] = {
        "views": "drop or relabel series where they are scraped",
    }

    level: str = "normal"
    address: Annotated[
        str,
        no_effect(
            "as in the collector since v0.123; write service::telemetry::metrics::readers"
        ),
    ] = ""
    readers: tuple[Reader, ...] = (
        Reader(pull=Pull(exporter=PullExporter(prometheus=Prometheus()))),
    )

    def __post_init__(self) -> None:
        _check_level(self.level, _LEVELS)
        if self.level.lower() != "none" and not self.readers:
            raise ValueError("readers is empty: write one, or level: none")
        if len(self.readers) > 1:
            raise ValueError(f"readers has {len(self.readers)} entries: one is available")


class Traces(Config, frozen=True, kw_only=True):
    """`traces`: the gateway makes no spans of its own."""

    not_available: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "processors",
            "propagators",
            "sampler",
            "limits",
        ),
        _SPANS,
    )

    level: str = "none"

    def __post_init__(self) -> None:
        if self.level.lower() != "none":
            raise ValueError(
                f"level {self.level!r} is not available: the gateway makes no spans of "
                "its own; write none"
            )


class Telemetry(Config, frozen=True, kw_only=True):
    """`service.telemetry`. An attribute of `resource` that is null is left out."""

    logs: Logs = Logs()
    metrics: Metrics = Metrics()
    traces: Traces = Traces()
    resource: dict[str, str | None] = msgspec.field(default_factory=dict)

    @property
    def prometheus(self) -> Prometheus | None:
        """Where metrics are served; None where they are not."""
        if self.metrics.level.lower() == "none":
            return None
        return self.metrics.readers[0].pull.exporter.prometheus

    @property
    def resource_attributes(self) -> dict[str, str]:
        """The attributes that were given a value."""
        return {k: v for k, v in self.resource.items() if v is not None}

    @property
    def suppressed_attributes(self) -> frozenset[str]:
        """The attributes that were given as null: the built-in ones are left out, too."""
        return frozenset(k for k, v in self.resource.items() if v is None)
