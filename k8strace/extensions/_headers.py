"""Headers that have credentials: their schemes, and a request's with one more."""

from __future__ import annotations

import re

from k8strace.auth import Metadata

_SCHEME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def is_scheme(text: str) -> bool:
    """Whether it can be the name of an authentication scheme."""
    return _SCHEME.fullmatch(text) is not None


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
