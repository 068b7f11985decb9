"""Headers that have credentials: their names, their values, a request's with one more."""

from __future__ import annotations

import re

from k8strace.auth import Metadata

_NAME = re.compile(r"[0-9a-z_.-]+")
_SCHEME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def header_name(name: str) -> str:
    """A header's name in lower case. Raises ValueError for one that gRPC doesn't take."""
    lower = name.lower()
    if not _NAME.fullmatch(lower):
        raise ValueError(f"{name!r} is no name of a gRPC header")
    if lower.startswith("grpc-") or lower.endswith("-bin"):
        raise ValueError(f"{name!r} is reserved by gRPC")
    return lower


def is_scheme(text: str) -> bool:
    """Whether it can be the name of an authentication scheme."""
    return _SCHEME.fullmatch(text) is not None


def is_value(text: str) -> bool:
    """Whether a header can have it: printable ASCII."""
    return text.isascii() and text.isprintable()


class OneHeader:
    """Sets one header; for the same headers and value it gives the same tuple.

    Clients encode a tuple once, as long as it stays the same.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._headers: Metadata = ()
        self._value: str | None = None
        self._made: Metadata = ()

    def set(self, headers: Metadata, value: str) -> Metadata:
        """`headers` with this value, and no other of its name."""
        if headers is not self._headers or value != self._value:
            others = tuple(pair for pair in headers if pair[0] != self._name)
            self._headers, self._value = headers, value
            self._made = (*others, (self._name, value))
        return self._made
