"""The YAML of a configuration, as nodes that know where they were written.

A node knows its line and the text that it was written as, so that a later error can name
the place and a string option gets `0123` as it stands. Scalars are read as Go's yaml.v3
reads them, a key `a::b` means `b` inside `a`. What is read is bounded in nodes and depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import yaml

MAX_BYTES = 4 * 1024 * 1024  # all that is read; a ConfigMap in Kubernetes ends at 1 MiB
MAX_NODES = 100_000  # with aliases counted as what they stand for
MAX_DEPTH = 64  # levels of nesting, with what ${} brings in

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # a problem is one line
_INT = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_TAG = "tag:yaml.org,2002:"
_TAGGED: dict[str, tuple[type, ...]] = {
    _TAG + "null": (type(None),),
    _TAG + "bool": (bool,),
    _TAG + "int": (int,),
    _TAG + "float": (int, float),
    _TAG + "map": (dict,),
    _TAG + "seq": (list,),
}
_NODES = (
    yaml.AliasEvent,
    yaml.ScalarEvent,
    yaml.SequenceStartEvent,
    yaml.MappingStartEvent,
)


class Mark(NamedTuple):
    """A place in a source; `line` counts from 1, 0 is the source as a whole."""

    source: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


Value: TypeAlias = "dict[str, Node] | list[Node] | str | int | float | bool | None"


class Node:
    """A value and where it was written; never changed after it was made.

    `text` is the scalar as written; for maps and lists it is None, unless a variable held
    them. `unset` names the variable that has no value, `broken` marks what could not be
    had and is already reported.
    """

    __slots__ = ("broken", "mark", "text", "unset", "value")

    def __init__(
        self,
        value: Value,
        mark: Mark,
        text: str | None = None,
        *,
        unset: str = "",
        broken: bool = False,
    ) -> None:
        self.value = value
        self.mark = mark
        self.text = text
        self.unset = unset
        self.broken = broken


class Problem(NamedTuple):
    """A mistake in the configuration, and where it is."""

    mark: Mark
    path: str
    text: str

    def __str__(self) -> str:
        parts = (str(self.mark), self.path, self.text)
        return _CONTROL.sub(" ", ": ".join(part for part in parts if part))


class InvalidError(Exception):
    """What was read is not usable; `text` says why."""

    def __init__(self, mark: Mark, text: str) -> None:
        super().__init__(text)
        self.mark = mark
        self.text = text


class LimitError(InvalidError):
    """There is more of it than is read."""


def merge(below: Node, above: Node) -> Node:
    """`above` over `below`: maps are merged, anything else is replaced."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, above.mark)


class Allowance:
    """How much may still be read, of everything together."""

    __slots__ = ("nodes", "size")

    def __init__(self) -> None:
        self.size = MAX_BYTES
        self.nodes = MAX_NODES


class Document:
    """Makes nodes of a YAML text, with YAML 1.2's scalars as Go's yaml.v3 reads them.

    Built from libyaml's events and not its composer, which has no limit for nesting or
    aliases. `place` is the mark of all nodes where the text is no file of its own.
    `problems` and `notes` are what is wrong with it though it can be read.
    """

    def __init__(
        self, text: str, mark: Mark, allowance: Allowance, place: Mark | None = None
    ) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._allowance = allowance
        self._text = text
        self._mark = mark
        self._place = place
        self._anchors: dict[str, tuple[Node, int, int]] = {}

    def read(self) -> Node:
        """The first document; raises InvalidError."""
        try:
            events = yaml.parse(self._text, Loader=yaml.CSafeLoader)
            node = Node(None, self._mark, "")
            documents = 0
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        break
                elif isinstance(event, _NODES):
                    node, _ = self._node(event, events, 0)
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            raise self._error(line, f"is not YAML: {error.reason}") from error
        except yaml.MarkedYAMLError as error:
            at = error.problem_mark
            line, problem = at.line + 1 if at else 0, error.problem
            if at and self._text[at.index : at.index + 1] == "\t":
                problem = "a tab where only spaces may indent"
            wrong = self._error(line, f"is not YAML: {problem}")
            if "nesting depth" in str(error.problem):
                # libyaml's own limit: it reads ahead of us, for the colon of a key.
                raise LimitError(wrong.mark, _TOO_DEEP) from error
            raise wrong from error
        except (yaml.YAMLError, UnicodeError) as error:
            raise InvalidError(self._mark, "is not YAML text") from error
        if documents > 1:
            self.notes.append(f"{self._mark}: only its first YAML document is read")
        return node

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> tuple[Node, int]:
        """The node that begins with `event`, and how deep it is."""
        mark = self._at(event)
        before = self._allowance.nodes
        self._allowance.nodes -= 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise InvalidError(mark, f"alias *{event.anchor} inside of what it means")
            node, height, size = self._anchors[event.anchor]
            self._allowance.nodes -= size
            self._check(mark, depth + height)
            return node, height
        self._check(mark, depth)
        height = 0
        if isinstance(event, yaml.ScalarEvent):
            node = Node(_scalar(event, mark), mark, event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(child := next(events), yaml.SequenceEndEvent):
                item, below = self._node(child, events, depth + 1)
                items.append(item)
                height = max(height, below + 1)
            node = Node(items, mark)
        else:
            node, height = self._map(mark, events, depth)
        if not isinstance(event, yaml.ScalarEvent):
            _check_tag(event.tag, node)
        if event.anchor is not None:
            self._anchors[event.anchor] = node, height, before - self._allowance.nodes
        return node, height

    def _map(self, mark: Mark, events: Iterator[Any], depth: int) -> tuple[Node, int]:
        entries: dict[str, Node] = {}
        inherited: list[Node] = []
        lines: dict[str, int] = {}
        height = 0
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            at = self._at(key)
            if not isinstance(key, yaml.ScalarEvent):
                raise InvalidError(at, "a key must be a plain text")
            node, below = self._node(next(events), events, depth + 1)
            if key.value == "<<" and key.implicit[0]:
                inherited += node.value if isinstance(node.value, list) else [node]
                height = max(height, below)
                continue
            if key.value in lines:
                other = f" at line {lines[key.value]}" if not self._place else ""
                self._duplicate(at, f"key {key.value!r} is already given{other}")
            lines[key.value] = at.line
            first, *rest = key.value.split("::")
            height = max(height, below + 1 + len(rest))
            self._check(at, depth + height)
            node = Node(node.value, at, node.text)
            for part in reversed(rest):
                node = Node({part: node}, at)
            entries[first] = merge(entries[first], node) if first in entries else node
        for one in inherited:
            if not isinstance(one.value, dict):
                raise InvalidError(mark, "<< must name a map or a list of maps")
            self._allowance.nodes -= len(one.value)
            self._check(mark, depth)
            entries = {**one.value, **entries}
        return Node(entries, mark), height

    def _duplicate(self, mark: Mark, text: str) -> None:
        if self._place:
            raise InvalidError(mark, text)
        self.problems.append(Problem(mark, "", text))

    def _check(self, mark: Mark, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise LimitError(mark, _TOO_DEEP)
        if self._allowance.nodes < 0:
            raise LimitError(mark, f"more than {MAX_NODES} values, aliases counted")

    def _at(self, event: Any) -> Mark:
        return self._place or Mark(self._mark.source, event.start_mark.line + 1)

    def _error(self, line: int, text: str) -> InvalidError:
        return InvalidError(self._place or Mark(self._mark.source, line), text)


def kind_of(node: Node) -> str:
    """What `node` is, in a word for an error."""
    if isinstance(node.value, dict):
        return "a map"
    if isinstance(node.value, list):
        return "a list"
    return "nothing" if node.value is None else "a single value"


def _scalar(event: yaml.ScalarEvent, mark: Mark) -> str | int | float | bool | None:
    text: str = event.value
    if event.tag in _TAGGED:
        value = scalar_value(text)
        if not isinstance(value, _TAGGED[event.tag]):
            raise InvalidError(mark, f"is not of the type that its tag names: {event.tag}")
        return value
    if event.tag not in (None, "!", _TAG + "str"):
        raise InvalidError(mark, f"tag {event.tag} is not available")
    return scalar_value(text) if event.tag is None and event.implicit[0] else text


def _check_tag(tag: str | None, node: Node) -> None:
    if tag is not None and not isinstance(node.value, _TAGGED.get(tag, ())):
        raise InvalidError(node.mark, f"tag {tag} is not available here")


def scalar_value(text: str) -> str | int | float | bool | None:
    """The value of a scalar without quotes, as yaml.v3 reads it into `any`."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 64:
        return text
    if _INT.fullmatch(text):
        digits = text.replace("_", "")
        unsigned = digits.lstrip("+-")
        octal = len(unsigned) > 1 and unsigned[0] == "0" and unsigned[1].isdigit()
        try:
            number = int(digits, 8 if octal else 0)
        except ValueError:  # 0899, 0x_: yaml.v3 goes on to read a float
            number = None
        if number is not None:
            return number if -(2**63) <= number < 2**64 else float(number)
    if _FLOAT.fullmatch(text):
        real = float(text.replace("_", ""))
        return text if real in (float("inf"), float("-inf")) else real
    return text
