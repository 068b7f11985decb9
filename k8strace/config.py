"""The configuration: collector YAML in, a typed and frozen `GatewayConfig` out.

All mistakes are found before any is reported, each with its file, line and path. What is
configured is checked whether a pipeline uses it or not.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import yaml

from k8strace.component import ComponentID, Config
from k8strace.components import COMPONENTS, Table
from k8strace.config_extensions import mistake, references, texts, unneeded
from k8strace.config_options import Option, options
from k8strace.config_source import resolve
from k8strace.config_structs import Decoder, decode, encode, nearest, not_available
from k8strace.config_telemetry import RESOURCE_NOT_AVAILABLE, Logs, Prometheus, Telemetry
from k8strace.config_unavailable import reference_hint, refusal
from k8strace.config_yaml import Node
from k8strace.errors import ConfigError
from k8strace.memory_guard import LimiterConfig

DEFAULT = Path(__file__).with_name("default.yaml")

_KINDS = ("receivers", "processors", "exporters", "extensions")
_SINGULAR = {
    "receivers": "receiver",
    "processors": "processor",
    "exporters": "exporter",
    "extensions": "extension",
    "connectors": "connector",
}
_SIGNALS = ("traces", "metrics", "logs", "profiles")
MAX_WORKERS = 256
_LONGEST_TYPE, _LONGEST_NAME = 63, 1024


class Pipeline(Config, frozen=True, kw_only=True):
    """One of `service.pipelines`."""

    receivers: tuple[ComponentID, ...] = ()
    processors: tuple[ComponentID, ...] = ()
    exporters: tuple[ComponentID, ...] = ()


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What runs: pipelines, extensions, and the gateway's own telemetry."""

    extensions: tuple[ComponentID, ...]
    pipelines: dict[ComponentID, Pipeline]
    telemetry: Telemetry
    workers: int = 1


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration, checked: every id that `service` names is configured."""

    receivers: dict[ComponentID, Config]
    processors: dict[ComponentID, Config]
    exporters: dict[ComponentID, Config]
    extensions: dict[ComponentID, Config]
    service: Service


class Loaded(NamedTuple):
    """A configuration, and what the log should say of it: one line each.

    `root` is what it was read from, where that is known.
    """

    config: GatewayConfig
    notes: tuple[str, ...]
    root: Node | None = None

    def placed(self, problems: Iterable[str]) -> list[str]:
        """Problems that begin with an option's path, with its file and line before it."""
        return [f"{_place(self.root, one)}{one}" for one in problems]


class _ServiceOptions(Config, frozen=True, kw_only=True):
    extensions: tuple[ComponentID, ...] = ()
    pipelines: Any = None  # each is read by itself
    telemetry: Telemetry = Telemetry()
    workers: Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS)] = 1


def load(
    uris: Sequence[str],
    sets: Sequence[str] = (),
    *,
    traces_only: bool = False,
    components: Table | None = None,
) -> Loaded:
    """Read, merge, expand and check; without `uris` it is the built-in default.

    `traces_only` leaves out pipelines of other signals, and of the components that no
    pipeline of traces names those that such pipelines name or that are not available.
    Raises ConfigError with all problems.
    """
    found = resolve(list(uris) or [f"file:{DEFAULT}"], sets)
    if found.failed:
        raise ConfigError([str(problem) for problem in found.problems])
    loader = _Loader(COMPONENTS if components is None else components, traces_only)
    config = loader.config(found.root)
    problems = found.problems + loader.decoder.problems
    if problems or config is None:
        order = {source: place for place, source in enumerate(found.sources)}
        problems.sort(key=lambda one: (order.get(one.mark.source, -1), one.mark.line))
        raise ConfigError([str(problem) for problem in problems])
    return Loaded(
        config, tuple(found.notes + loader.decoder.notes + loader.left_out), found.root
    )


def render(
    config: GatewayConfig | Loaded,
    mode: Literal["redacted", "unredacted"] = "redacted",
    fmt: Literal["yaml", "json"] = "yaml",
) -> str:
    """The configuration as it takes effect, defaults included, as a configuration.

    Read again it is the same; a `$` that would begin a `${}` is written `$$`.
    """
    config = config.config if isinstance(config, Loaded) else config
    redact = mode != "unredacted"
    plain: dict[str, Any] = {}
    for kind in _KINDS:
        if section := getattr(config, kind):
            plain[kind] = encode(section, redact)
    service = config.service
    plain["service"] = {
        "telemetry": encode(service.telemetry, redact),
        "extensions": encode(service.extensions, redact),
        "pipelines": encode(service.pipelines, redact),
        "workers": service.workers,
    }
    # An attribute that is null is a part of its own, unlike any other null.
    attributes = service.telemetry.resource
    plain["service"]["telemetry"]["resource"] |= {
        name: None for name, value in attributes.items() if value is None
    }
    if fmt == "json":
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


class _Loader:
    """Checks one merged configuration; `decoder` gathers problems and notes."""

    def __init__(self, components: Table, traces_only: bool) -> None:
        self.decoder = Decoder()
        self.left_out: list[str] = []
        self._components = components
        self._traces_only = traces_only
        self._declared: dict[str, dict[ComponentID, Node]] = {kind: {} for kind in _KINDS}
        self._connector_ids: set[ComponentID] = set()
        self._of_others: dict[str, set[ComponentID]] = {kind: set() for kind in _KINDS}

    def config(self, root: Node) -> GatewayConfig | None:
        sections = self._map(root, "")
        if not any(node.value for name, node in sections.items() if name != "service"):
            unset = f" (environment variable {root.unset} is not set)" if root.unset else ""
            self._problem(root, "", f"empty configuration{unset}")
            return None
        known = (*self._components, "connectors", "service")
        for name, node in sections.items():
            if name not in known:
                self._problem(node, name, f"unknown section{nearest(name, known)}")
        service = sections.get("service", Node({}, root.mark))
        options_, pipelines = self._service(service)
        extensions = self._extensions(options_, service)
        named = self._named(extensions, pipelines)
        if self._traces_only:
            named["extensions"] -= self._extensions_of_others(extensions, sections, named)
        configs = {
            kind: self._section(kind, sections.get(kind), named[kind]) for kind in _KINDS
        }
        self._connectors(sections.get("connectors"), named)
        broken = self._broken(sections)
        for kind in ("receivers", "exporters"):
            if not self._declared[kind] and kind not in broken:
                text = f"no {_SINGULAR[kind]} configuration specified in config"
                self._problem(root, kind, text)
        if "extensions" not in broken:
            path = "service::extensions"
            self._references("extensions", extensions, service, path)
        self._check_references(pipelines, broken)
        if "extensions" not in broken:
            self._check_extensions(configs, named)
        if self.decoder.problems or options_ is None:
            self._check_room(configs, named, 1 if options_ is None else options_.workers)
            return None
        return GatewayConfig(
            **configs,
            service=Service(
                extensions=tuple(one for one in extensions if one in named["extensions"]),
                pipelines={id_: pipeline for id_, (pipeline, _) in pipelines.items()},
                telemetry=options_.telemetry,
                workers=options_.workers,
            ),
        )

    def _service(
        self, node: Node
    ) -> tuple[_ServiceOptions | None, dict[ComponentID, tuple[Pipeline, Node]]]:
        service = dict(self._map(node, "service"))
        section = service.get("pipelines", Node({}, node.mark))
        if isinstance(telemetry := service.get("telemetry"), Node):
            service["telemetry"] = self._telemetry(telemetry)
        found = self.decoder.struct(_ServiceOptions, Node(service, node.mark), "service")
        pipelines: dict[ComponentID, tuple[Pipeline, Node]] = {}
        for name, one in self._map(section, "service::pipelines").items():
            path = f"service::pipelines::{name}"
            id_ = self._id(name, one, path)
            if id_ is None:
                continue
            if id_.type != "traces":
                self._other_signal(id_, one, path)
                continue
            pipeline = self.decoder.struct(Pipeline, one, path)
            if id_ in pipelines:
                self._problem(one, path, f"duplicate id {str(id_)!r}")
            elif isinstance(pipeline, Pipeline):
                pipelines[id_] = pipeline, one
        if not section.value and not section.broken and not node.broken:
            text = "service must have at least one pipeline"
            self._problem(section, "service::pipelines", text)
        elif not pipelines and not self.decoder.problems:
            text = "there is no pipeline of traces"
            self._problem(section, "service::pipelines", text)
        return (found if isinstance(found, _ServiceOptions) else None), pipelines

    def _extensions(
        self, found: _ServiceOptions | None, service: Node
    ) -> tuple[ComponentID, ...]:
        """The ids in `service.extensions`, also where another option there is wrong."""
        if found is None and isinstance(service.value, dict):
            only = {k: v for k, v in service.value.items() if k == "extensions"}
            again = Decoder().struct(_ServiceOptions, Node(only, service.mark), "service")
            found = again if isinstance(again, _ServiceOptions) else None
        return () if found is None else found.extensions

    def _other_signal(self, id_: ComponentID, node: Node, path: str) -> None:
        if id_.type not in _SIGNALS:
            hint = nearest(id_.type, ("traces",))
            self._problem(node, path, f"unknown signal {id_.type!r}{hint}")
        elif self._traces_only:
            self.left_out.append(f"{node.mark}: {path}: left out: not traces")
            found = Decoder().struct(Pipeline, node, path)
            if isinstance(found, Pipeline):
                for kind, ids in _ids_of(found):
                    self._of_others[kind] |= set(ids)
        else:
            text = f"{id_.type} pipelines are not available: only traces are; "
            self._problem(node, path, f"{text}leave them out with --traces-only")

    def _telemetry(self, node: Node) -> Node:
        """`node` with the newer way to write `resource` turned into the older one."""
        value = node.value
        resource = value.get("resource") if isinstance(value, dict) else None
        if resource is None or not isinstance(resource.value, dict):
            return node
        attributes: dict[str, Node] = {}
        for name, child in resource.value.items():
            path = f"service::telemetry::resource::{name}"
            if name == "attributes" and isinstance(child.value, list):
                attributes |= self._attributes(child, path)
            elif name == "schema_url":
                self.decoder.notes.append(f"{child.mark}: {path}: has no effect here")
            elif name in RESOURCE_NOT_AVAILABLE:
                self._problem(child, path, not_available(RESOURCE_NOT_AVAILABLE[name]))
            else:
                attributes[name] = child
        assert isinstance(value, dict)
        return Node({**value, "resource": Node(attributes, resource.mark)}, node.mark)

    def _attributes(self, node: Node, path: str) -> dict[str, Node]:
        attributes = {}
        assert isinstance(node.value, list)
        for index, item in enumerate(node.value):
            found = self.decoder.struct(_Attribute, item, f"{path}[{index}]")
            if isinstance(found, _Attribute) and isinstance(item.value, dict):
                attributes[found.name] = item.value.get("value", Node(None, item.mark))
        return attributes

    def _section(
        self, kind: str, node: Node | None, named: set[ComponentID]
    ) -> dict[ComponentID, Config]:
        types = self._components.get(kind, {})
        configs: dict[ComponentID, Config] = {}
        for name, child in self._map(node, kind).items() if node else ():
            path = f"{kind}::{name}"
            id_ = self._id(name, child, path)
            if id_ is None:
                continue
            if id_ in self._declared[kind]:
                self._problem(child, path, f"duplicate id {str(id_)!r}")
                continue
            self._declared[kind][id_] = child
            component = types.get(id_.type)
            is_others = component is None or id_ in self._of_others[kind]
            if self._traces_only and is_others and id_ not in named:
                self._leave_out(child, path)
            elif component is not None:
                config = self.decoder.struct(component.config_type, child, path)
                if isinstance(config, Config):
                    configs[id_] = config
            else:
                text = refusal(kind, _SINGULAR[kind], id_.type, types)
                self._problem(child, path, text)
        return configs

    def _connectors(self, node: Node | None, named: dict[str, set[ComponentID]]) -> None:
        for name, child in self._map(node, "connectors").items() if node else ():
            path = f"connectors::{name}"
            id_ = self._id(name, child, path)
            if id_ is None:
                continue
            self._connector_ids.add(id_)
            if self._traces_only and id_ not in named["receivers"] | named["exporters"]:
                self._leave_out(child, path)
            else:
                self._problem(child, path, refusal("connectors", "connector", id_.type, ()))

    def _leave_out(self, node: Node, path: str) -> None:
        text = "left out: no pipeline of traces names it"
        if path.startswith("extensions::"):
            text = "left out: nothing that pipelines of traces name needs it"
        self.left_out.append(f"{node.mark}: {path}: {text}")

    def _extensions_of_others(
        self,
        extensions: Iterable[ComponentID],
        sections: dict[str, Node],
        named: dict[str, set[ComponentID]],
    ) -> set[ComponentID]:
        """Those of `extensions` that only components name that are left out."""
        ours, others = set[str](), set[str]()
        named = {**named, "connectors": named["receivers"] | named["exporters"]}
        for kind in ("receivers", "processors", "exporters", "connectors"):
            running = set(map(str, named[kind]))
            of_others = set(map(str, self._of_others.get(kind, ())))
            types = self._components.get(kind, {})
            for name, child in _members(sections.get(kind)).items():
                is_others = name.partition("/")[0].strip() not in types or name in of_others
                is_left_out = is_others and name not in running
                (others if is_left_out else ours).update(texts(child))
        nodes = _members(sections.get("extensions"))
        types = self._components.get("extensions", {})
        found = unneeded(extensions, nodes, ours, others, types)
        self._of_others["extensions"] |= found
        return found

    def _named(
        self,
        extensions: Iterable[ComponentID],
        pipelines: dict[ComponentID, tuple[Pipeline, Node]],
    ) -> dict[str, set[ComponentID]]:
        """The ids that pipelines and `service.extensions` name, by kind."""
        named: dict[str, set[ComponentID]] = {kind: set() for kind in _KINDS}
        named["extensions"] |= set(extensions)
        for pipeline, _ in pipelines.values():
            for kind, ids in _ids_of(pipeline):
                named[kind] |= set(ids)
        return named

    def _check_references(
        self, pipelines: dict[ComponentID, tuple[Pipeline, Node]], broken: set[str]
    ) -> None:
        for id_, (pipeline, node) in pipelines.items():
            path = f"service::pipelines::{id_}"
            for kind, ids in _ids_of(pipeline):
                if not ids and kind != "processors":
                    self._problem(node, path, f"must have at least one {_SINGULAR[kind]}")
                if kind not in broken:
                    self._references(kind, ids, node, path)

    def _check_extensions(
        self,
        configs: dict[str, dict[ComponentID, Config]],
        named: dict[str, set[ComponentID]],
    ) -> None:
        declared, extensions = self._declared["extensions"], configs["extensions"]
        types = self._components.get("extensions", {})
        for kind in ("receivers", "exporters", "extensions"):
            for id_, config in configs[kind].items():
                running = named["extensions"] if id_ in named[kind] else None
                node = self._declared[kind][id_]
                for one in references(config, node, f"{kind}::{id_}"):
                    text = mistake(one, declared, extensions, running, types)
                    if text is not None:
                        self._problem(one.node, one.path, text)

    def _check_room(
        self,
        configs: dict[str, dict[ComponentID, Config]],
        named: dict[str, set[ComponentID]],
        workers: int,
    ) -> None:
        """Report limits that leave no room beside other mistakes; else the graph does."""
        for kind in ("processors", "extensions"):
            for id_ in sorted(named[kind]):
                config = configs[kind].get(id_)
                if isinstance(config, LimiterConfig) and (
                    problem := config.lack_of_room(workers)
                ):
                    self._problem(self._declared[kind][id_], f"{kind}::{id_}", problem)

    def _references(
        self, kind: str, ids: Iterable[ComponentID], holder: Node, path: str
    ) -> None:
        """Report ids in the list `kind` of `holder` that come twice or aren't declared."""
        seen: set[ComponentID] = set()
        for index, id_ in enumerate(ids):
            node = _item(holder, kind, index)
            what = f'references {_SINGULAR[kind]} "{id_}"'
            if id_ in seen:
                self._problem(node, path, f"{what} multiple times")
            elif kind in ("receivers", "exporters") and id_ in self._connector_ids:
                pass  # that there are no connectors is said of it
            elif id_ not in self._declared[kind]:
                types = self._components.get(kind, {})
                hint = reference_hint(kind, id_, self._declared[kind], types)
                self._problem(node, path, f"{what} which is not configured{hint}")
            seen.add(id_)

    def _id(self, text: str, node: Node, path: str) -> ComponentID | None:
        try:
            id_ = ComponentID.parse(text)
            check_id(id_)
        except ValueError as error:
            self._problem(node, path, str(error))
            return None
        return id_

    def _map(self, node: Node, path: str) -> dict[str, Node]:
        if isinstance(node.value, dict):
            return node.value
        if node.value is not None and not node.broken:
            self._problem(node, path, "expected a map")
        return {}

    def _broken(self, sections: dict[str, Node]) -> set[str]:
        return {name for name, node in sections.items() if node.broken}

    def _problem(self, node: Node, path: str, text: str) -> None:
        self.decoder.problem(node.mark, path, text)


class _Attribute(Config, frozen=True, kw_only=True):
    name: str
    value: Any = None
    type: str = "string"


def _members(section: Node | None) -> dict[str, Node]:
    """The components of a section; none where it is not a map, which is said elsewhere."""
    value = None if section is None else section.value
    return value if isinstance(value, dict) else {}


def _ids_of(pipeline: Pipeline) -> Iterator[tuple[str, tuple[ComponentID, ...]]]:
    """What a pipeline names, by kind."""
    for kind in ("receivers", "processors", "exporters"):
        yield kind, getattr(pipeline, kind)


def check_id(id_: ComponentID) -> None:
    """Raise ValueError for characters that the collector doesn't take in an id."""
    kind, name = id_
    plain = kind.isascii() and kind.replace("_", "a").isalnum() and kind[0].isalpha()
    if not plain or len(kind) > _LONGEST_TYPE:
        raise ValueError(
            f"type {kind!r} of an id must begin with a letter and consist of at most "
            f"{_LONGEST_TYPE} letters, digits and _"
        )
    if len(name) > _LONGEST_NAME or any(unicodedata.category(c)[0] in "ZCS" for c in name):
        raise ValueError(
            f"name {name[:_LONGEST_TYPE]!r} of an id must consist of at most "
            f"{_LONGEST_NAME} characters without spaces, control characters and symbols"
        )


def _place(root: Node | None, problem: str) -> str:
    """Where the path that `problem` begins with is written, as far as it is."""
    node, mark = root, None
    for name in problem.partition(": ")[0].split("::"):
        node = node.value.get(name) if node and isinstance(node.value, dict) else None
        if node is None:
            break
        mark = node.mark
    return f"{mark}: " if mark and mark.source else ""


def _item(holder: Node, key: str, index: int) -> Node:
    """The node of an item of a list, or the nearest that holds it."""
    node = holder.value.get(key, holder) if isinstance(holder.value, dict) else holder
    return node.value[index] if isinstance(node.value, list) else node


__all__ = [
    "GatewayConfig",
    "Loaded",
    "Logs",
    "Option",
    "Pipeline",
    "Prometheus",
    "Service",
    "Telemetry",
    "decode",
    "load",
    "options",
    "render",
]
