"""Which extensions other components name in `auth`, and whether these can do it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import msgspec

from k8strace.auth import AuthConfig, Side
from k8strace.component import ComponentID, Config
from k8strace.config_structs import nearest, read_annotation
from k8strace.config_yaml import Node

_WHOM = {"server": "the callers of a server", "client": "a client to its server"}


class Reference(NamedTuple):
    """An option that names an authenticator, and where it stands."""

    node: Node
    path: str
    id: ComponentID
    side: Side


def references(config: msgspec.Struct, node: Node, path: str) -> Iterator[Reference]:
    """All of a component's; `node` is what its configuration was read from."""
    given = node.value if isinstance(node.value, dict) else {}
    for field in msgspec.structs.fields(config):
        value = getattr(config, field.name)
        child, below = given.get(field.encode_name, node), f"{path}::{field.encode_name}"
        side = read_annotation(field.type).extra.get("authenticator")
        if isinstance(value, msgspec.Struct):
            yield from references(value, child, below)
        elif side and value is not None:
            yield Reference(child, below, value, side)


def mistake(
    one: Reference,
    declared: Collection[ComponentID],
    configs: Mapping[ComponentID, Config],
    running: Collection[ComponentID] | None,
) -> str | None:
    """What is wrong with naming this extension, if anything.

    `configs` are of those extensions of which they could be read, `running` those that
    `service` has (None: the component doesn't run itself).
    """
    if one.id not in declared:
        hint = nearest(str(one.id), map(str, declared))
        return f'references extension "{one.id}" which is not configured{hint}'
    config = configs.get(one.id)
    if config is None:
        return None
    sides = config.sides if isinstance(config, AuthConfig) else ()
    if one.side not in sides:
        how = " as it is configured" if sides else ""
        return f'extension "{one.id}"{how} cannot authenticate {_WHOM[one.side]}'
    if running is not None and one.id not in running:
        return f'references extension "{one.id}": add it to service::extensions'
    return None
