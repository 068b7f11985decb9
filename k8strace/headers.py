"""Names and values of headers that clients send, where they enter: in configuration, in
files, in what others say. One that HTTP/2 doesn't take would cost each request its stream.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"[0-9a-z_.-]+")
_AUTHORITY = re.compile(r"[0-9A-Za-z._~!$&'()*+,;=:@%\[\]-]+")
_SPACE = " \t\r\n"

CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
"""What HTTP/2 has no headers for (RFC 9113, 8.2.2): a request with one is malformed."""

OWN = frozenset({"content-length", "content-type", "te", "user-agent"})
"""What gRPC's clients set themselves; grpc-go, and so the Collector, leaves out others'."""


def header_name(name: str) -> str:
    """A header's name in lower case. Raises ValueError for one that gRPC doesn't take."""
    lower = name.lower()
    if not _NAME.fullmatch(lower):
        raise ValueError(f"{name!r} is no name of a gRPC header")
    if lower.startswith("grpc-") or lower.endswith("-bin"):
        raise ValueError(f"{name!r} is reserved by gRPC")
    if lower in CONNECTION:
        raise ValueError(f"{name!r} is about a connection of HTTP/1.1: gRPC has none of it")
    return lower


def header_value(text: str) -> str:
    """A header's value, without the space around it, which is no part of it (RFC 9110,
    5.5): a file's last newline, say.

    Raises ValueError, whose text has nothing of the value, for what is not printable ASCII.
    """
    value = text.strip(_SPACE)
    if not is_value(value):
        raise ValueError("has characters that are not printable ASCII")
    return value


def is_value(text: str) -> bool:
    """Whether a header can have it: printable ASCII without space around it."""
    return text.isascii() and text.isprintable() and text == text.strip(" ")


def is_authority(text: str) -> bool:
    """Whether `:authority` can have it (RFC 3986, 3.2)."""
    return _AUTHORITY.fullmatch(text) is not None
