"""Between nodes and structs: what was written becomes the typed, frozen configuration.

Rules, the collector's where it has one:

- Every option is looked at, and every mistake is reported at its own place. A struct's own
  checks (`__post_init__`) run when all of its values have the right type.
- What is not given keeps the value of the default, which for a nested struct is the default
  of its field, not of its class; only an `enabled` that is not given is the class's, so
  that writing anything into a part that is off turns it on.
- Null is a struct with its defaults (`grpc:`), the default of a list or map, and otherwise
  the zero value of its type.
- A string option takes the text of any scalar as it was written. Nothing else is converted.
- The values of secrets (`SECRET`, and all in `headers`) are in no error.
"""

from __future__ import annotations

import enum
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

import msgspec
from msgspec import NODEFAULT, UNSET, UnsetType

from k8strace.component import ComponentID
from k8strace.config_yaml import Mark, Node, Problem, Value, kind_of, scalar_value
from k8strace.errors import ConfigError
from k8strace.units import Duration

C = TypeVar("C", bound=msgspec.Struct)

REDACTED = "[REDACTED]"
_INDEX = re.compile(r"\[\d+\]")
_SHOWN = 60  # characters of a wrong value in an error


class _Mistake(enum.Enum):
    """Instead of a value: it is wrong, which is reported; or it was not given."""

    FAILED = 1
    ABSENT = 2


FAILED, ABSENT = _Mistake.FAILED, _Mistake.ABSENT
_ZEROS: dict[Any, Any] = {str: "", int: 0, float: 0.0, bool: False, Duration: Duration(0)}
_LISTS: tuple[Any, ...] = (list, tuple, set, frozenset, Sequence)
_MAPS: tuple[Any, ...] = (dict, Mapping)
_PARSED: tuple[Any, ...] = (Duration, ComponentID)
_NAMES: dict[Any, str] = {
    Duration: "duration",
    ComponentID: "id",
    str: "string",
    Any: "any",
}


class _Type(NamedTuple):
    """An annotation, taken apart. `leaf` still has msgspec's constraints."""

    inner: Any
    leaf: Any
    optional: bool
    extra: Mapping[str, Any]


class Option(NamedTuple):
    """An option as documentation shows it; `effect` is False where it does nothing."""

    path: str
    type: str
    default: str
    effect: bool


def decode(config_type: type[C], values: Mapping[str, Any]) -> C:
    """The configuration of plain values, as YAML gives them.

    Raises ConfigError with all problems.
    """
    decoder = Decoder()
    config = decoder.struct(config_type, to_node(values), "")
    if decoder.problems or config is FAILED:
        raise ConfigError([str(problem) for problem in decoder.problems])
    return typing.cast("C", config)


class Decoder:
    """Decodes nodes; `problems` and `notes` gather what it finds on its way.

    `unavailable` says what to answer for options that the collector has, by their path,
    where that is more than that they are unknown.
    """

    def __init__(self, unavailable: Mapping[str, str] | None = None) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._unavailable = unavailable or {}
        self._secrets: set[str] = set()

    def problem(self, mark: Mark, path: str, text: str) -> _Mistake:
        """Report a mistake; always FAILED."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        self.problems.append(Problem(mark, path, text))
        return FAILED

    def struct(
        self,
        struct: type[C],
        node: Node,
        path: str,
        default: Any = None,
        secret: bool = False,
    ) -> C | _Mistake:
        """A struct from the map `node`, over `default` if that is one of its kind."""
        given = node.value
        if node.broken:
            return FAILED
        if given is None or (given == "" and node.unset):
            given = {}
        if not isinstance(given, dict):
            shown = _shown(node, secret)
            return self.problem(node.mark, path, f"expected a map of options, not {shown}")
        base = default if isinstance(default, struct) else None
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        values: dict[str, Any] = {}
        failed = False
        for name, child in given.items():
            below = f"{path}::{name}" if path else name
            field = fields.get(name)
            if field is None:
                known = self._unavailable.get(_INDEX.sub("[]", below))
                text = known or f"unknown option{nearest(name, fields)}"
                self.problem(child.mark, below, text)
                continue
            hidden = secret or name == "headers"
            value = self.value(field.type, child, below, _default(field, base), hidden)
            failed = failed or value is FAILED
            if value is not ABSENT:
                values[field.name] = value
            if _read(field.type).extra.get("no_effect"):
                self.notes.append(str(Problem(child.mark, below, "has no effect here")))
        for field in fields.values():
            if field.name in values:
                continue
            if base is not None and field.name != "enabled":
                values[field.name] = getattr(base, field.name)
            elif field.required:
                missing = f"{path}::{field.encode_name}" if path else field.encode_name
                self.problem(node.mark, missing, "is missing")
                failed = True
        if failed:
            return FAILED
        try:
            return struct(**values)
        except ConfigError as error:
            for text in error.problems:
                self.problem(_named(node, given, text), path, text)
        except ValueError as error:
            self.problem(_named(node, given, str(error)), path, str(error))
        return FAILED

    def value(
        self,
        annotation: Any,
        node: Node,
        path: str,
        default: Any = None,
        secret: bool = False,
    ) -> Any:
        """A value of the type `annotation`; FAILED if reported, ABSENT to leave it out."""
        kind = _read(annotation)
        inner = kind.inner
        secret = secret or bool(kind.extra.get("secret"))
        if node.broken:
            return FAILED
        if secret and node.text:
            self._secrets.add(node.text)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            return self.struct(inner, node, path, default, secret)
        if inner is Any:
            return self._any(node)
        shape = typing.get_origin(inner) or inner
        if node.value is None:
            if kind.optional:
                return None
            if inner not in _ZEROS:
                return ABSENT
            node = Node(_ZEROS[inner], node.mark, "", unset=node.unset)
        if shape in _LISTS:
            return self._list(kind, node, path, secret)
        if shape in _MAPS:
            return self._map(kind, node, path, secret)
        if inner in _PARSED:
            return self._parsed(inner, node, path, secret)
        return self._leaf(kind, node, path, secret)

    def _any(self, node: Node) -> Any:
        if isinstance(node.value, dict):
            return {name: self._any(child) for name, child in node.value.items()}
        if isinstance(node.value, list):
            return [self._any(child) for child in node.value]
        return node.value

    def _list(self, kind: _Type, node: Node, path: str, secret: bool) -> Any:
        arguments = [one for one in typing.get_args(kind.inner) if one is not Ellipsis]
        shape = typing.get_origin(kind.inner) or kind.inner
        items = node.value
        if isinstance(items, str):  # as the collector reads "a,b" where it wants a list
            parts = items.split(",") if items else []
            items = [Node(part, node.mark, part) for part in parts]
        if not isinstance(items, list):
            return self.problem(
                node.mark, path, f"expected a list, not {_shown(node, secret)}"
            )
        item_type = arguments[0] if arguments else Any
        values = [
            self.value(item_type, item, f"{path}[{index}]", None, secret)
            for index, item in enumerate(items)
        ]
        if any(value is FAILED for value in values):
            return FAILED
        wanted = list if shape is Sequence else shape
        return wanted(value for value in values if value is not ABSENT)

    def _map(self, kind: _Type, node: Node, path: str, secret: bool) -> Any:
        if not isinstance(node.value, dict):
            return self.problem(
                node.mark, path, f"expected a map, not {_shown(node, secret)}"
            )
        arguments = typing.get_args(kind.inner) or (str, Any)
        values = {
            name: self.value(arguments[1], child, f"{path}::{name}", None, secret)
            for name, child in node.value.items()
        }
        if any(value is FAILED for value in values.values()):
            return FAILED
        return {name: value for name, value in values.items() if value is not ABSENT}

    def _parsed(self, inner: Any, node: Node, path: str, secret: bool) -> Any:
        value = node.value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if value == 0 and inner is Duration:
                return Duration(0)
            if inner is Duration:
                text = f"a duration needs a unit: write {node.text}s or {node.text}ms"
                return self.problem(node.mark, path, text)
            value = node.text
        if not isinstance(value, str):
            name = _NAMES[inner]
            return self.problem(
                node.mark, path, f"expected a {name}, not {_shown(node, secret)}"
            )
        try:
            return inner.parse(value)
        except ValueError as error:
            return self.problem(node.mark, path, str(error))

    def _leaf(self, kind: _Type, node: Node, path: str, secret: bool) -> Any:
        value: Value = node.value
        takes = _alternatives(kind.inner)
        if isinstance(value, float) and not math.isfinite(value):
            return self.problem(node.mark, path, f"expected a finite number, not {value}")
        if str in takes and not isinstance(value, str) and type(value) not in takes:
            value = node.text if node.text is not None else value
        if isinstance(value, float) and value.is_integer() and takes == (int,):
            value = int(value)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return self.problem(node.mark, path, f"number too large: {value}")
        if isinstance(value, (dict, list)):
            wanted = _type_text(kind.inner)
            return self.problem(node.mark, path, f"expected {wanted}, not {kind_of(node)}")
        try:
            return msgspec.convert(value, kind.leaf)
        except msgspec.ValidationError as error:
            shown = _shown(node, secret)
            text = str(error).partition(" - at")[0].partition(", got")[0].replace("`", "")
            if text.startswith("Invalid enum value"):
                choices = [str(choice) for choice in _choices(kind.inner)]
                hint = "" if secret else nearest(str(value), choices)
                text = f"expected one of {', '.join(choices)}, not {shown}{hint}"
            else:
                text = f"e{text[1:]}, not {shown}{_hint(takes, value)}"
            return self.problem(node.mark, path, text)


def to_node(value: Any) -> Node:
    """Plain values as nodes without a place."""
    mark = Mark()
    if isinstance(value, Mapping):
        return Node({str(name): to_node(child) for name, child in value.items()}, mark)
    if isinstance(value, (list, tuple)) and not isinstance(value, ComponentID):
        return Node([to_node(child) for child in value], mark)
    if value is None or type(value) in (bool, int, float):
        return Node(value, mark, "" if value is None else str(value))
    return Node(str(value), mark, str(value))


def encode(value: Any, redact: bool, secret: bool = False) -> Any:
    """Plain values that `decode` reads as the same; secrets are hidden with `redact`.

    What is None or UNSET is left out, since null would be a part with its defaults; so is
    what has no effect and was not given.
    """
    if isinstance(value, msgspec.Struct):
        result = {}
        for field in msgspec.structs.fields(value):
            one = getattr(value, field.name)
            if one is None or one is UNSET:
                continue
            extra = _read(field.type).extra
            if extra.get("no_effect") and one == _default(field, None):
                continue
            hidden = secret or field.encode_name == "headers" or bool(extra.get("secret"))
            result[field.encode_name] = encode(one, redact, hidden)
        return result
    if isinstance(value, Mapping):
        return {str(name): encode(one, redact, secret) for name, one in value.items()}
    if isinstance(value, (Duration, ComponentID)):
        value = str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [encode(one, redact, secret) for one in items]
    if secret and redact and value not in ("", None):
        return REDACTED
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str) and ("${" in value or "$$" in value):
        return value.replace("$", "$$")
    return value


def options(config_type: type[msgspec.Struct], default: Any = None) -> list[Option]:
    """Every option of a configuration, nested ones after the one that holds them."""
    return _options(config_type, default, "", True)


def _options(
    config_type: type[msgspec.Struct], base: Any, prefix: str, works: bool
) -> list[Option]:
    rows = []
    for field in msgspec.structs.fields(config_type):
        kind = _read(field.type)
        path = f"{prefix}{field.encode_name}"
        default = _default(field, base)
        effect = works and not kind.extra.get("no_effect")
        shown = "required" if field.required and base is None else _default_text(default)
        rows.append(Option(path, _type_text(kind.inner), shown, effect))
        arguments = typing.get_args(kind.inner)
        if _is_struct(kind.inner):
            rows += _options(kind.inner, default or None, f"{path}::", effect)
        elif arguments and _is_struct(arguments[0]):
            rows += _options(arguments[0], None, f"{path}[]::", effect)
        elif len(arguments) == 2 and _is_struct(arguments[1]):
            rows += _options(arguments[1], None, f"{path}::NAME::", effect)
    return rows


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint at the name most like `name`; empty where none is like it."""
    close = get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _read(annotation: Any) -> _Type:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        read = _read(annotation.__origin__)
        extra = dict(read.extra)
        for meta in annotation.__metadata__:
            if isinstance(meta, msgspec.Meta) and meta.extra:
                extra |= meta.extra
        bare = _is_struct(read.inner) or read.inner in _PARSED or read.optional
        leaf = read.leaf if bare else annotation
        return _Type(read.inner, leaf, read.optional, extra)
    if origin in (Union, types.UnionType):
        every = typing.get_args(annotation)
        some = [one for one in every if one not in (type(None), UnsetType)]
        if len(some) == 1:
            return _read(some[0])._replace(optional=True)
        several = reduce(or_, some)
        return _Type(several, several, len(some) < len(every), {})
    return _Type(annotation, annotation, False, {})


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _default(field: msgspec.structs.FieldInfo, base: Any) -> Any:
    if base is not None:
        return getattr(base, field.name)
    if field.default is not NODEFAULT:
        return field.default
    return None if field.default_factory is NODEFAULT else field.default_factory()


def _alternatives(inner: Any) -> tuple[Any, ...]:
    """The builtin types that `inner` takes, a Literal's being that of its values."""
    if typing.get_origin(inner) in (Union, types.UnionType):
        return tuple(one for arg in typing.get_args(inner) for one in _alternatives(arg))
    if typing.get_origin(inner) is Annotated:
        return _alternatives(inner.__origin__)
    choices = _choices(inner)
    return tuple({type(one) for one in choices}) if choices else (inner,)


def _choices(inner: Any) -> list[Any]:
    if typing.get_origin(inner) is Literal:
        return list(typing.get_args(inner))
    if isinstance(inner, type) and issubclass(inner, enum.Enum):
        return [member.value for member in inner]
    return []


def _shown(node: Node, secret: bool) -> str:
    if node.unset:
        return f"nothing (environment variable {node.unset} is not set)"
    if isinstance(node.value, (dict, list)) or node.value is None:
        return kind_of(node)
    if secret:
        return "the given value"
    text = node.text or ""
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return f'"{text}"' if isinstance(node.value, str) else text


def _hint(takes: tuple[Any, ...], value: Any) -> str:
    if not isinstance(value, str):
        return ""
    if takes == (bool,) and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return "; write true or false"
    return "; write it without quotes" if type(scalar_value(value)) in takes else ""


def _named(node: Node, given: Mapping[str, Node], text: str) -> Mark:
    """The place of the first option that `text` names, else of the whole."""
    for word in re.findall(r"\w+", text):
        if word in given:
            return given[word].mark
    return node.mark


def _type_text(inner: Any) -> str:
    inner = _read(inner).inner
    arguments = [one for one in typing.get_args(inner) if one is not Ellipsis]
    shape = typing.get_origin(inner) or inner
    if choices := _choices(inner):
        return "one of " + ", ".join(map(str, choices))
    if shape in (Union, types.UnionType):
        return " or ".join(_type_text(one) for one in arguments)
    if shape in _LISTS:
        return f"list of {_type_text(arguments[0])}" if arguments else "list"
    if shape in _MAPS:
        return f"map of {_type_text(arguments[1])}" if arguments else "map"
    if _is_struct(inner):
        return "map"
    return _NAMES[inner] if inner in _NAMES else str(getattr(inner, "__name__", inner))


def _default_text(default: Any) -> str:
    if default is None or default is UNSET:
        return "not set"
    if isinstance(default, msgspec.Struct):
        return ""
    plain = encode(default, redact=False)
    if isinstance(plain, str) and plain:
        return plain
    return msgspec.json.encode(plain).decode()
