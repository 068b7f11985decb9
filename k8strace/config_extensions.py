"""Which extensions other components name, and whether these can do what they should."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from k8strace.auth import AuthConfig, Authenticator
from k8strace.component import Component, ComponentID, Config, Storage
from k8strace.config_structs import read_annotation
from k8strace.config_unavailable import reference_hint
from k8strace.config_yaml import Node
from k8strace.middleware import ServerMiddleware

_CANNOT = {
    "server": "cannot authenticate the callers of a server",
    "client": "cannot authenticate a client to its server",
    "middleware": "is no middleware of servers",
    "storage": "is not a storage extension",
}
"""What is said of one that is named for what it isn't, by what it is named for."""


class Reference(NamedTuple):
    """An option that names an extension, where it stands, and what for."""

    node: Node
    path: str
    id: ComponentID
    role: str


def references(config: msgspec.Struct, node: Node, path: str) -> Iterator[Reference]:
    """All of a component's; `node` is what its configuration was read from.

    What is switched off by its own `enabled` uses none.
    """
    given = node.value if isinstance(node.value, dict) else {}
    for field in msgspec.structs.fields(config):
        value = getattr(config, field.name)
        child, below = given.get(field.encode_name, node), f"{path}::{field.encode_name}"
        role = read_annotation(field.type).extra.get("extension")
        if isinstance(value, msgspec.Struct):
            if getattr(value, "enabled", True):
                yield from references(value, child, below)
        elif role and value is not None:
            yield Reference(child, below, value, role)
        elif isinstance(value, tuple):
            yield from _references_of_items(value, child, below)


def _references_of_items(
    items: tuple[Any, ...], node: Node, path: str
) -> Iterator[Reference]:
    given = node.value if isinstance(node.value, list) else [node] * len(items)
    for index, (item, child) in enumerate(zip(items, given, strict=True)):
        if isinstance(item, msgspec.Struct):
            yield from references(item, child, f"{path}[{index}]")


def texts(node: Node) -> Iterator[str]:
    """All texts in what `node` holds: among them are the extensions that it names."""
    if isinstance(node.value, dict):
        for child in node.value.values():
            yield from texts(child)
    elif isinstance(node.value, list):
        for child in node.value:
            yield from texts(child)
    elif isinstance(node.value, str):
        yield node.value


def unneeded(
    extensions: Iterable[ComponentID],
    nodes: Mapping[str, Node],
    ours: set[str],
    others: set[str],
    types: Mapping[str, type[Component[Any]]],
) -> set[ComponentID]:
    """Those of `extensions` that are named in `others` and not in `ours`.

    Both are texts of components: of those that run, and of those that are left out.
    `nodes` are what the extensions are configured with: they may name each other. One that
    does something by itself is never unneeded.
    """
    found: set[ComponentID] = set()
    rest = {one for one in extensions if _serves_others(types.get(one.type))}
    while True:
        kept = {
            text
            for name, node in nodes.items()
            if name not in map(str, found)
            for text in texts(node)
        }
        more = {one for one in rest - found if str(one) in others - ours - kept}
        if not more:
            return found
        found |= more
        others = others.union(
            *(texts(nodes[str(one)]) for one in more if str(one) in nodes)
        )


def _serves_others(type_: type[Component[Any]] | None) -> bool:
    return type_ is None or issubclass(type_, (Authenticator, ServerMiddleware, Storage))


def mistake(
    one: Reference,
    declared: Collection[ComponentID],
    configs: Mapping[ComponentID, Config],
    running: Collection[ComponentID] | None,
    types: Mapping[str, type[Component[Any]]],
) -> str | None:
    """What is wrong with naming this extension, if anything.

    `configs` are of those extensions of which they could be read, `running` those that
    `service` has (None: the component doesn't run itself), `types` are all there are.
    """
    if one.role == "storage" and running is None:
        return None  # as in the Collector, where a queue asks for it when it starts
    if one.id not in declared:
        hint = reference_hint("extensions", one.id, declared, types)
        return f'references extension "{one.id}" which is not configured{hint}'
    config = configs.get(one.id)
    if config is None:
        return None
    if one.role == "middleware":
        can, could = issubclass(types[one.id.type], ServerMiddleware), False
    elif one.role == "storage":
        can, could = issubclass(types[one.id.type], Storage), False
    else:
        sides = config.sides if isinstance(config, AuthConfig) else ()
        can, could = one.role in sides, bool(sides)
    if not can:
        how = " as it is configured" if could else ""
        return f'extension "{one.id}"{how} {_CANNOT[one.role]}'
    if running is not None and one.id not in running:
        return f'references extension "{one.id}": add it to service::extensions'
    return None
