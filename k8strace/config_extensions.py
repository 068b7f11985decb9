"""Which extensions other components name, and whether these can do what they should."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from k8strace.auth import AuthConfig
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
