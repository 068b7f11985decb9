"""Between nodes and structs: what was written becomes the typed, frozen configuration.

Rules, the collector's where it has one:

- Every option is looked at, and every mistake is reported at its own place. What a
  struct's own check (`__post_init__`) refuses is reported where the first option stands
  that its text names.
- What is not given keeps the value of the default, which for a nested struct is the default
  of its field, not of its class; only an `enabled` that is not given is the class's, so
  that writing anything into a part that is off turns it on.
- Null is a struct with its defaults (`grpc:`), the default of a list or map or of an option
  that may be unset, and otherwise the zero value of its type.
- A string option takes the text of any scalar as it was written. Nothing else is converted.
- The values of secrets (of the type `Secret`, and all in a map `headers`) are in no error.
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
from k8strace.secret import REDACTED, Secret
from k8strace.units import Duration

C = TypeVar("C", bound=msgspec.Struct)

_SHOWN = 60  # characters of a wrong value in an error
SHORT_SECRET = 8  # characters; a shorter one may be a part of any other word


class _Mistake(enum.Enum):
    """Instead of a value: it is wrong, which is reported; or it was not given."""

    FAILED = 1
    ABSENT = 2


FAILED, ABSENT = _Mistake.FAILED, _Mistake.ABSENT
_ZEROS: dict[Any, Any] = {str: "", int: 0, float: 0.0, bool: False, Duration: Duration(0)}
_ZEROS[Secret] = ""
_LISTS: tuple[Any, ...] = (list, tuple, set, frozenset, Sequence)
_MAPS: tuple[Any, ...] = (dict, Mapping)
_PARSED: tuple[Any, ...] = (Duration, ComponentID, Secret)
_NAMES: dict[Any, str] = {
    Duration: "a duration",
    ComponentID: "an id",
    str: "string",
    Secret: "string",
    Any: "any",
}


class _Type(NamedTuple):
    """An annotation, taken apart. `leaf` still has msgspec's constraints.

    `optional` and `unset` say that None and UNSET are values of it, too.
    """

    inner: Any
    leaf: Any
    optional: bool
    extra: Mapping[str, Any]
    unset: bool = False


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
    """Decodes nodes; `problems` and `notes` gather what it finds on its way."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._secrets: set[str] = set()

    def problem(self, mark: Mark, path: str, text: str) -> _Mistake:
        """Report a mistake; always FAILED."""
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
        lacking: Mapping[str, str] = getattr(struct, "not_available", {})
        values: dict[str, Any] = {}
        wrong: set[str] = set()
        for name, child in given.items():
            below = f"{path}::{name}" if path else name
            field = fields.get(name)
            if field is None:
                text = f"unknown option{nearest(name, fields)}"
                if name in lacking:
                    text = not_available(lacking[name])
                self.problem(child.mark, below, text)
                continue
            hidden = secret or _has_headers(field)
            value = self.value(field.type, child, below, field_default(field, base), hidden)
            if value is FAILED:
                wrong.add(name)
            elif value is not ABSENT:
                values[name] = value
            if why := read_annotation(field.type).extra.get("no_effect"):
                text = "has no effect here" + ("" if why is True else f": {why}")
                self.notes.append(str(Problem(child.mark, below, text)))
        missing = False
        for field in fields.values():
            name = field.encode_name
            if field.required and base is None and name not in values:
                missing = True
                # What is given in its place is not available, which is said already.
                if name not in wrong and not lacking.keys() & given.keys():
                    below = f"{path}::{name}" if path else name
                    self.problem(node.mark, below, "is missing")
        if missing:
            return FAILED
        return self._checked(struct, node, path, base, values, wrong)

    def _checked(
        self,
        struct: type[C],
        node: Node,
        path: str,
        base: C | None,
        values: dict[str, Any],
        wrong: set[str],
    ) -> C | _Mistake:
        """The struct of `values`, which its own checks let pass.

        Options that are `wrong` have their defaults. So have those that a check names when
        it fails, until no check fails; what a check says of a wrong option is no news.
        """
        given = typing.cast("dict[str, Node]", node.value or {})
        for _ in range(len(values) + 1):
            arguments = {}
            for field in msgspec.structs.fields(struct):
                if field.encode_name in values:
                    arguments[field.name] = values[field.encode_name]
                elif base is not None and field.name != "enabled":
                    arguments[field.name] = getattr(base, field.name)
            try:
                built = struct(**arguments)
            except ConfigError as error:
                texts = error.problems
            except ValueError as error:
                texts = [str(error)]
            else:
                return FAILED if wrong else built
            named = [name for name in re.findall(r"\w+", " ".join(texts)) if name in given]
            if wrong and (not named or not wrong.isdisjoint(named)):
                return FAILED
            culprit = given[named[0]] if named else node
            for text in texts:
                self.problem(culprit.mark, path, self._hidden(text) + _why_empty(culprit))
            wrong.update(named)
            required = {f.encode_name for f in msgspec.structs.fields(struct) if f.required}
            if not values.keys() & set(named) or required & set(named):
                return FAILED
            values = {name: value for name, value in values.items() if name not in named}
        return FAILED

    def _hidden(self, text: str) -> str:
        """`text`, which a component wrote, without the secrets that are known.

        Short ones, such as a header's `1`, are hidden where they are whole words.
        """
        for secret in sorted(self._secrets, key=len, reverse=True):
            whole = re.escape(secret)
            if len(secret) < SHORT_SECRET:
                whole = rf"(?<!\w){whole}(?!\w)"
            text = re.sub(whole, REDACTED, text)
        return text

    def value(
        self,
        annotation: Any,
        node: Node,
        path: str,
        default: Any = None,
        secret: bool = False,
    ) -> Any:
        """A value of the type `annotation`; FAILED if reported, ABSENT to leave it out."""
        kind = read_annotation(annotation)
        inner = kind.inner
        secret = secret or Secret in (inner, *typing.get_args(inner))
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
            if kind.unset or inner not in _ZEROS:
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
        wanted = tuple if shape is Sequence else shape
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
        if inner is Secret and not isinstance(value, (dict, list)):
            return Secret(node.text if node.text is not None else str(value))
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
                node.mark, path, f"expected {name}, not {_shown(node, secret)}"
            )
        try:
            return inner.parse(value)
        except ValueError as error:
            return self.problem(node.mark, path, self._hidden(str(error)))

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
            wanted = type_text(kind.inner)
            return self.problem(node.mark, path, f"expected {wanted}, not {kind_of(node)}")
        try:
            return msgspec.convert(value, kind.leaf)
        except msgspec.ValidationError as error:
            shown = _shown(node, secret)
            text = str(error).partition(" - at")[0].partition(", got")[0].replace("`", "")
            if text.startswith("Invalid enum value"):
                choices = [str(choice) for choice in _choices(kind.inner) if choice != ""]
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
            extra = read_annotation(field.type).extra
            if extra.get("no_effect") and one == field_default(field, None):
                continue
            hidden = secret or _has_headers(field)
            result[field.encode_name] = encode(one, redact, hidden)
        return result
    if isinstance(value, Mapping):
        return {str(name): encode(one, redact, secret) for name, one in value.items()}
    if isinstance(value, Secret):
        value, secret = value.reveal(), True
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


def not_available(instead: str) -> str:
    """What to say of an option that the collector has and we don't."""
    return "not available in k8strace" + (f"; {instead}" if instead else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint at the name most like `name`; empty where none is like it."""
    close = closest(name, known)
    return f"; did you mean {close}?" if close else ""


def closest(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The name most like `name`; empty where none is like it: `likeness` of 1 is equal."""
    return next(iter(get_close_matches(name, sorted(known), 1, likeness)), "")


def read_annotation(annotation: Any) -> _Type:
    """Take the annotation of a field apart."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        read = read_annotation(annotation.__origin__)
        extra = dict(read.extra)
        for meta in annotation.__metadata__:
            if isinstance(meta, msgspec.Meta) and meta.extra:
                extra |= meta.extra
        union = read.optional or read.unset
        bare = is_struct(read.inner) or read.inner in _PARSED or union
        leaf = read.leaf if bare else annotation
        return read._replace(leaf=leaf, extra=extra)
    if origin in (Union, types.UnionType):
        every = typing.get_args(annotation)
        some = [one for one in every if one not in (type(None), UnsetType)]
        several = reduce(or_, some)
        read = _Type(several, several, False, {})
        if len(some) == 1:
            read = read_annotation(some[0])
        return read._replace(optional=type(None) in every, unset=UnsetType in every)
    return _Type(annotation, annotation, False, {})


def is_struct(annotation: Any) -> bool:
    """Whether the type is a struct."""
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def field_default(field: msgspec.structs.FieldInfo, base: Any) -> Any:
    """What a field is where it is not given, `base` being the struct's own default."""
    if base is not None:
        return getattr(base, field.name)
    if field.default is not NODEFAULT:
        return field.default
    return None if field.default_factory is NODEFAULT else field.default_factory()


def _has_headers(field: msgspec.structs.FieldInfo) -> bool:
    """Whether the option is a map of headers, which may have credentials."""
    inner = read_annotation(field.type).inner
    return field.encode_name == "headers" and typing.get_origin(inner) in _MAPS


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


def _why_empty(node: Node) -> str:
    return f" (environment variable {node.unset} is not set)" if node.unset else ""


def _shown(node: Node, secret: bool) -> str:
    if node.unset:
        return f"nothing{_why_empty(node)}"
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


def type_text(inner: Any) -> str:
    """A type as an error or a table shows it."""
    inner = read_annotation(inner).inner
    arguments = [one for one in typing.get_args(inner) if one is not Ellipsis]
    shape = typing.get_origin(inner) or inner
    if choices := _choices(inner):
        return "one of " + ", ".join(str(choice) for choice in choices if choice != "")
    if shape in (Union, types.UnionType):
        return " or ".join(type_text(one) for one in arguments)
    if shape in _LISTS:
        return f"list of {type_text(arguments[0])}" if arguments else "list"
    if shape in _MAPS:
        return f"map of {type_text(arguments[1])}" if arguments else "map"
    if is_struct(inner):
        return "map"
    if inner in _PARSED:
        return _NAMES[inner].split()[-1]
    return _NAMES[inner] if inner in _NAMES else str(getattr(inner, "__name__", inner))
