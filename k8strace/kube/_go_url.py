"""What Go's net/url says of an address, in its words, which Kubernetes hands on."""

from __future__ import annotations

import re
from string import ascii_letters, digits

_ESCAPES = {
    0x07: r"\a",
    0x08: r"\b",
    0x09: r"\t",
    0x0A: r"\n",
    0x0B: r"\v",
    0x0C: r"\f",
    0x0D: r"\r",
    0x22: r"\"",
    0x5C: r"\\",
}
_IN_HOST = frozenset(ascii_letters + digits + "-_.~!$&'()*+,;=:[]<>\"%")
_PORT = re.compile(r"(:[0-9]*)?")


class GoURLError(ValueError):
    """Its text is what Go's error says."""


def quoted(text: str) -> str:
    """`text` as Go's %q writes it."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if code in _ESCAPES:
        return _ESCAPES[code]
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return character


def scheme_of(url: str) -> str:
    """The scheme in small letters, "" where there is none.

    Raises GoURLError for what Go's url.Parse refuses.
    """
    try:
        return _parse(url)
    except GoURLError as error:
        raise GoURLError(f"parse {quoted(url)}: {error}") from None


def _parse(url: str) -> str:
    url, _, fragment = url.partition("#")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in url):
        raise GoURLError("net/url: invalid control character in URL")
    scheme, rest = _split_scheme(url)
    rest = rest.partition("?")[0]
    if not rest.startswith("/"):
        if scheme:
            return scheme.lower()  # opaque
        if ":" in rest.partition("/")[0]:
            raise GoURLError("first path segment in URL cannot contain colon")
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        _check_host(authority.rpartition("@")[2])
        rest = slash + path
    _check_escapes(rest)
    _check_escapes(fragment)
    return scheme.lower()


def _split_scheme(url: str) -> tuple[str, str]:
    for index, character in enumerate(url):
        if character in ascii_letters:
            continue
        if character in digits + "+-.":
            if index == 0:
                break
        elif character == ":":
            if index == 0:
                raise GoURLError("missing protocol scheme")
            return url[:index], url[index + 1 :]
        else:
            break
    return "", url


def _check_host(host: str) -> None:
    if host.startswith("["):
        end = host.rfind("]")
        if end < 0:
            raise GoURLError("missing ']' in host")
        port = host[end + 1 :]
    else:
        colon = host.rfind(":")
        port = host[colon:] if colon >= 0 else ""
    if not _PORT.fullmatch(port):
        raise GoURLError(f"invalid port {quoted(port)} after host")
    _check_escapes(host, is_host=True)
    for character in host:
        if ord(character) < 0x80 and character not in _IN_HOST:
            raise GoURLError(f"invalid character {quoted(character)} in host name")


def _check_escapes(text: str, *, is_host: bool = False) -> None:
    at = text.find("%")
    while at >= 0:
        escape = text[at : at + 3]
        if not re.fullmatch("%[0-9A-Fa-f]{2}", escape) or (
            is_host and escape[1] in "01234567" and escape != "%25"
        ):
            raise GoURLError(f"invalid URL escape {quoted(escape)}")
        at = text.find("%", at + 3)
