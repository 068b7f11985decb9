"""Where a configuration comes from: URIs, `--set`, merging, `${}`.

The rules are the collector's (confmap):

- Several sources are merged first, then `${}` is expanded: maps are merged, everything
  else is replaced by the later source.
- A value that is one whole `${}` gets the type that its text has as YAML; inside of a
  longer text it is pasted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple

from k8strace.config_yaml import (
    MAX_BYTES,
    MAX_DEPTH,
    Allowance,
    Document,
    InvalidError,
    LimitError,
    Mark,
    Node,
    Problem,
    Value,
    kind_of,
    merge,
)
from k8strace.files import read_whole

MAX_URIS = 100  # ${} in one value, one after the other
MAX_EXPANSIONS = 10_000  # ${} in all
MAX_PROBLEMS = 100  # with ${}; one that holds itself is found wrong on every level

_VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)


class Resolved(NamedTuple):
    """What `resolve` found; `failed` where a source could not be used at all."""

    failed: bool
    sources: list[str]
    root: Node
    problems: list[Problem]
    notes: list[str]


def resolve(
    uris: Sequence[str], sets: Sequence[str], environ: Mapping[str, str] | None = None
) -> Resolved:
    """Read and merge `uris` and the `--set` options, then expand `${}`."""
    source = _Source(os.environ if environ is None else environ)
    read = [source.document(uri) for uri in uris]
    read += [source.assignment(assignment) for assignment in sets]
    layers = [node for node in read if node is not None]
    root = reduce(merge, layers) if layers else Node({}, Mark())
    sources = [node.mark.source for node in layers]
    if len(read) > 1:
        root = Node(root.value, Mark())
    failed = len(layers) < len(read)
    return Resolved(failed, sources, source.expand(root), source.problems, source.notes)


class _Source:
    """One reading of a configuration: what was found wrong, and what is left to spend."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._environ = environ
        self._allowance = Allowance()
        self._expansions = MAX_EXPANSIONS

    def document(self, uri: str) -> Node | None:
        """The map that a `--config` URI stands for; None where a problem was noted."""
        match = _SCHEME.fullmatch(uri)
        scheme, rest = match.groups() if match else ("file", uri)
        # The rest of other URIs may hold secrets, so it is no name for a place.
        named = {"file": rest, "env": f"env:{rest.partition(':-')[0]}"}
        mark = Mark(named.get(scheme, f"--config {scheme}"))
        try:
            text = self._retrieve(scheme, rest, mark)
            if text is None:
                self.notes.append(f"{mark}: environment variable {rest} is not set")
                return Node({}, mark, unset=rest)
            document = Document(text, mark, self._allowance)
            node = document.read()
        except InvalidError as error:
            self.problems.append(Problem(error.mark, "", error.text))
            return None
        self.problems += document.problems
        self.notes += document.notes
        if node.value is None:
            return Node({}, mark)
        if not isinstance(node.value, dict):
            text = f"must hold a map of sections, not {kind_of(node)}"
            self.problems.append(Problem(mark, "", text))
            return None
        return Node(node.value, mark)

    def assignment(self, text: str) -> Node | None:
        """The map that a `--set` option stands for; None where a problem was noted."""
        key, equals, value = text.partition("=")
        key = key.strip()
        mark = Mark(f"--set {key}")
        parts = key.replace("::", ".").split(".")
        wrong = ""
        if not equals:
            wrong = "missing equal sign: write --set key=value"
        elif not all(parts) or len(parts) > MAX_DEPTH:
            wrong = "is no option's name: write --set a.b.c=value"
        if wrong:
            self.problems.append(Problem(mark, "", wrong))
            return None
        try:
            self._spend(value, mark)
            node = Document(value.strip(), mark, self._allowance, mark).read()
        except InvalidError as error:
            self.problems.append(Problem(mark, "", error.text))
            return None
        for part in reversed(parts):
            node = Node({part: node}, mark)
        return node

    def expand(self, node: Node, path: str = "", depth: int = 0) -> Node:
        """`node` with every `${}` in it replaced."""
        value = node.value
        if depth > MAX_DEPTH:
            return self._broken(node, path, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, str):
            return self._expand_text(value, node, path, depth)
        expanded: Value
        if isinstance(value, dict):
            expanded = {
                key: self.expand(one, f"{path}::{key}" if path else key, depth + 1)
                for key, one in value.items()
            }
        elif isinstance(value, list):
            expanded = [
                self.expand(one, f"{path}[{index}]", depth + 1)
                for index, one in enumerate(value)
            ]
        else:
            return node
        text = None if node.text is None or "${" in node.text else node.text
        text = text and text.replace("$$", "$")
        return Node(expanded, node.mark, text, unset=node.unset)

    def _expand_text(self, text: str, node: Node, path: str, depth: int) -> Node:
        unset = ""
        for _ in range(MAX_URIS):
            found = _find(text)
            if found is None:
                plain = text.replace("$$", "$")
                return Node(plain, node.mark, plain, unset=unset)
            if self._expansions <= 0:
                return self._broken(node, path, f"more than {MAX_EXPANSIONS} ${{}} in all")
            self._expansions -= 1
            start, end = found
            try:
                part = self._reference(text[start + 2 : end - 1], node.mark)
            except InvalidError as error:
                return self._broken(node, path, error.text)
            unset = part.unset or unset
            if (start, end) == (0, len(text)) and not isinstance(part.value, str):
                return self.expand(part, path, depth + 1)
            text = text[:start] + (part.text or "") + text[end:]
        return self._broken(node, path, f"more than {MAX_URIS} ${{}} in one value")

    def _reference(self, uri: str, mark: Mark) -> Node:
        """What `${uri}` stands for; its text is what is pasted into a longer value."""
        match = _SCHEME.fullmatch(uri if ":" in uri else f"env:{uri}")
        if match is None:
            name, dash, _ = uri.partition(":-")
            if dash and _VARIABLE.fullmatch(name):
                raise InvalidError(mark, f"write ${{env:{name}:-default}}")
            raise InvalidError(mark, "${} holds no name: write $${ for the characters ${")
        scheme, rest = match[1], match[2]
        if rest.startswith("-") and scheme not in ("env", "file", "yaml"):
            raise InvalidError(mark, f"write ${{env:{scheme}:-default}}")
        if "$" in rest:
            raise InvalidError(mark, f"${{{scheme}:…}} holds a $ that is no ${{}}")
        text = self._retrieve(scheme, rest, mark)
        if text is None:
            self.notes.append(f"{mark}: environment variable {rest} is not set")
            return Node(None, mark, "", unset=rest)
        if scheme == "env" and rest.endswith(":-") and not text:
            return Node("", mark, "")
        if scheme == "file":
            text = text.removesuffix("\n")
        try:
            node = Document(text, mark, self._allowance, mark).read()
        except LimitError:
            raise
        except InvalidError:
            return Node(text, mark, text)
        value = text if isinstance(node.value, str) else node.value
        return Node(value, mark, text)

    def _retrieve(self, scheme: str, rest: str, mark: Mark) -> str | None:
        """The text behind a URI; None for a variable that is not set."""
        text: str | None
        if scheme == "file":
            text = self._file(rest, mark)
        elif scheme == "yaml":
            text = rest
        elif scheme == "env":
            name, dash, default = rest.partition(":-")
            if not _VARIABLE.fullmatch(name):
                raise InvalidError(
                    mark,
                    f"{name!r} is no name of an environment variable; "
                    "write $${ for the characters ${",
                )
            text = self._environ.get(name, default if dash else None)
        else:
            raise InvalidError(
                mark, f"scheme {scheme!r} is not available: there are file, env and yaml"
            )
        if text is not None:
            self._spend(text, mark)
        return text

    def _file(self, path: str, mark: Mark) -> str:
        try:
            data = read_whole(path, MAX_BYTES)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidError(mark, f"cannot read the file {path!r}: {reason}") from error
        if len(data) > MAX_BYTES:
            raise InvalidError(mark, f"the file {path!r} is larger than {MAX_BYTES} bytes")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidError(mark, f"the file {path!r} is not UTF-8 text") from error

    def _spend(self, text: str, mark: Mark) -> None:
        self._allowance.size -= len(text)
        if self._allowance.size < 0:
            raise LimitError(
                mark, f"the configuration is larger than {MAX_BYTES} bytes in all"
            )

    def _broken(self, node: Node, path: str, text: str) -> Node:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(node.mark, path, text))
        return Node(None, node.mark, broken=True)


def _find(text: str) -> tuple[int, int] | None:
    """Where the first `${}` stands that holds no other and is not escaped by a `$`."""
    begin = 0
    while (close := text.find("}", begin)) >= 0:
        start = text.rfind("${", begin, close)
        if start >= 0:
            dollars = 0
            while dollars < start and text[start - dollars - 1] == "$":
                dollars += 1
            if dollars % 2 == 0:
                return start, close + 1
        begin = close + 1
    return None
