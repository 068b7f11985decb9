"""Bearer tokens, as they come in a header, and what a JWT says before it is believed."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from typing import Any

import msgspec

# What Python's decoder doesn't know it passes over.
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
MAX_TOKEN = 16 * 1024  # bytes; headers are not larger


def scheme_and_rest(credential: bytes) -> tuple[bytes, bytes]:
    """The authentication scheme in lower case, and what follows it.

    Case doesn't matter in a scheme, and one space or more end it (RFC 9110, section 11.4).
    """
    scheme, _, rest = credential.strip(b" ").partition(b" ")
    return scheme.lower(), rest.lstrip(b" ")


def bearer(credential: bytes) -> str | None:
    """The token of `Bearer TOKEN`; None where it is not that."""
    scheme, token = scheme_and_rest(credential)
    if scheme != b"bearer" or not 0 < len(token) <= MAX_TOKEN:
        return None
    if not token.isascii() or b" " in token:
        return None
    text = token.decode("ascii")
    return text if text.isprintable() else None


def json_part(part: str) -> dict[str, Any]:
    """The object that a part of a JWT is. Raises ValueError for what is none."""
    try:
        return msgspec.json.decode(decoded(part), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("a part is no JSON object") from error


def decoded(part: str) -> bytes:
    """The bytes of base64url without padding. Raises ValueError for what is none."""
    if _BASE64URL.fullmatch(part) is None:
        raise ValueError("a part is no base64url")
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except Base64Error as error:
        raise ValueError("a part is no base64url") from error


def expiry(token: str) -> float | None:
    """When a JWT says that it expires (seconds since the epoch); unverified."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        found = json_part(parts[1]).get("exp")
    except ValueError:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    try:
        return float(found)
    except OverflowError:
        return None
