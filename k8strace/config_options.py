"""The table of a configuration's options, which the documentation prints."""

from __future__ import annotations

import typing
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from k8strace.config_structs import (
    encode,
    field_default,
    is_struct,
    read_annotation,
    type_text,
)


class Option(NamedTuple):
    """An option as documentation shows it; `effect` is False where it does nothing."""

    path: str
    type: str
    default: str
    effect: bool


def options(config_type: type[msgspec.Struct], default: Any = None) -> list[Option]:
    """Every option of a configuration, nested ones after the one that holds them."""
    return _options(config_type, default, "", True)


def _options(
    config_type: type[msgspec.Struct], base: Any, prefix: str, works: bool
) -> list[Option]:
    rows = []
    for field in msgspec.structs.fields(config_type):
        kind = read_annotation(field.type)
        path = f"{prefix}{field.encode_name}"
        default = field_default(field, base)
        effect = works and not kind.extra.get("no_effect")
        shown = "required" if field.required and base is None else _default_text(default)
        rows.append(Option(path, type_text(kind.inner), shown, effect))
        arguments = typing.get_args(kind.inner)
        if is_struct(kind.inner):
            rows += _options(kind.inner, default or None, f"{path}::", effect)
        elif arguments and is_struct(arguments[0]):
            rows += _options(arguments[0], None, f"{path}[]::", effect)
        elif len(arguments) == 2 and is_struct(arguments[1]):
            rows += _options(arguments[1], None, f"{path}::NAME::", effect)
    return rows


def _default_text(default: Any) -> str:
    if default is None or default is UNSET:
        return "not set"
    if isinstance(default, msgspec.Struct):
        return ""
    plain = encode(default, redact=False)
    if isinstance(plain, str) and plain:
        return plain
    return msgspec.json.encode(plain).decode()
