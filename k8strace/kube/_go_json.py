"""JSON as Go's encoding/json reads it, with what it says of texts that are none."""

from __future__ import annotations

import json
import re
from typing import Any

from k8strace.kube._go_url import quoted

_CONTAINERS = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
_TRAILING_COMMA = re.compile(r",?\s*")
_HEXADECIMAL = re.compile(r"u[0-9a-fA-F]*")
_AT_END = "unexpected end of JSON input"
# What Python's json says, by how it begins, and where Go found the character.
_PLACES = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name": "looking for beginning of object key string",
    "Illegal trailing comma before end of object": "looking for beginning of object key "
    "string",
    "Illegal trailing comma before end of array": "looking for beginning of value",
    "Expecting ':'": "after object key",
    "Extra data": "after top-level value",
    "Invalid control character": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\u": "in \\u hexadecimal character escape",
}


class GoJSONError(ValueError):
    """Its text is what Go's error says."""


class Object(dict[str, Any]):
    """An object; keys that stand twice are twice in `written`, and the last one counts."""

    written: tuple[str, ...] = ()


class Literal(float):
    """A number that is no integer of 64 bits; `text` is how it stands there."""

    text: str

    def __new__(cls, text: str) -> Literal:
        made = super().__new__(cls, text)
        made.text = text
        return made


def is_json(text: str) -> bool:
    """Whether Kubernetes takes it for JSON; anything else is YAML."""
    return text.lstrip().startswith("{")


def load(text: str) -> Any:
    """Raises GoJSONError for what is not JSON, and RecursionError for what is too deep."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=Literal,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise GoJSONError(_said(error)) from None


def _object(pairs: list[tuple[str, Any]]) -> Object:
    made = Object(pairs)
    made.written = tuple(key for key, _ in pairs)
    return made


def _integer(text: str) -> int | Literal:
    value = int(text) if len(text) < 21 else 2**64
    return value if -(2**63) <= value < 2**63 else Literal(text)


def _constant(text: str) -> None:
    place = "looking for beginning of value"
    if text.startswith("-"):
        text, place = text[1:], "in numeric literal"
    raise GoJSONError(f"invalid character '{text[0]}' {place}")


def _said(error: json.JSONDecodeError) -> str:
    text, at = error.doc, error.pos
    if error.msg.startswith("Unterminated"):
        return _AT_END
    if error.msg.startswith("Invalid \\"):
        at = text.rindex("\\", 0, at + 1) + 1
        if digits := _HEXADECIMAL.match(text, at):
            at = digits.end()
    elif error.msg.startswith("Illegal trailing comma"):
        comma = _TRAILING_COMMA.match(text, at)
        at = comma.end() if comma else at
    if not text[at:].strip():
        return _AT_END
    places = (place for begin, place in _PLACES.items() if error.msg.startswith(begin))
    place = next(places, None) or f"after {_inside(text[:at])}"
    return f"invalid character {_character(text[at])} {place}"


def _character(one: str) -> str:
    """As Go quotes it, which is between single quotes."""
    inside = {"'": "\\'", '"': '"'}.get(one) or quoted(one)[1:-1]
    return f"'{inside}'"


def _inside(text: str) -> str:
    """What a text that is cut off has begun last."""
    opened: list[str] = []
    for part in _CONTAINERS.findall(text):
        if part in "[{":
            opened.append(part)
        elif part in "]}":
            opened.pop()
    return "array element" if opened[-1:] == ["["] else "object key:value pair"
