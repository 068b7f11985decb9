"""Signed JWTs (RFC 7515, 7517, 7519): keys, signatures, and what the claims allow.

- Which algorithm a signature has is the key's to say: a token's `alg` only has to be one of
  those. Keys are public ones alone, so that there is no `none`, and no HMAC to confuse one
  with.
- No error has anything of a token in it but short texts that say what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from Crypto.Hash import SHA256, SHA384, SHA512
from Crypto.PublicKey import ECC, RSA
from Crypto.Signature import DSS, eddsa, pkcs1_15, pss

from k8strace.extensions._tokens import decoded, json_part

MIN_RSA = 2048  # bits
MAX_RSA = 8192
NOT_BEFORE_LEEWAY = 300.0  # seconds; clocks differ, and go-oidc allows as much
_SHOWN = 100  # characters of what a token says

_HASHES: dict[str, Any] = {"256": SHA256, "384": SHA384, "512": SHA512}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_ED25519 = frozenset({"EdDSA"})
ALGORITHMS = _RSA | frozenset(_CURVES.values()) | _ED25519


class Key(NamedTuple):
    """A public key, and the algorithms that it signs with."""

    id: str | None
    algorithms: frozenset[str]
    key: Any


class UnknownKeyError(ValueError):
    """No key is known that a token could be signed with."""


class Token(NamedTuple):
    """A JWT, taken apart and not verified."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def read_keys(found: Any) -> list[Key]:
    """The usable keys of a JWK set. Raises ValueError where there is none."""
    members = found.get("keys") if isinstance(found, dict) else None
    keys = []
    for one in members if isinstance(members, list) else ():
        if isinstance(one, dict) and one.get("use", "sig") == "sig":
            try:
                key = _read_key(one)
            except (ValueError, KeyError, TypeError):
                key = None
            if key is not None:
                keys.append(key)
    if not keys:
        raise ValueError("has no RSA, EC or Ed25519 key for signatures in it")
    return keys


def read(text: str) -> Token:
    """A token's parts. Raises ValueError for what is no signed JWT."""
    parts = text.split(".")
    if len(parts) != 3:
        raise ValueError("the token is no signed JWT")
    head, body, signature = parts
    try:
        return Token(
            json_part(head), json_part(body), f"{head}.{body}".encode(), decoded(signature)
        )
    except ValueError as error:
        raise ValueError("the token is no signed JWT") from error


def verify(token: Token, keys: Sequence[Key]) -> None:
    """Raises UnknownKeyError, or ValueError where the signature is not right."""
    algorithm = token.header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"the token's algorithm {_shown(algorithm)} is not accepted")
    if "crit" in token.header:
        raise ValueError("the token has critical extensions")
    wanted = token.header.get("kid")
    named = [one for one in keys if wanted is None or one.id == wanted]
    if not named:
        raise UnknownKeyError("the token is signed with a key that the issuer hasn't")
    able = [one for one in named if algorithm in one.algorithms]
    if not any(_is_right(token, algorithm, one.key) for one in able):
        raise ValueError("the token's signature is not right")


def check(claims: dict[str, Any], issuer: str, audience: str | None, now: float) -> float:
    """When the token expires; raises ValueError where it is of no use now or here."""
    if claims.get("iss") != issuer:
        raise ValueError(f"the token is of another issuer, {_shown(claims.get('iss'))}")
    given = claims.get("aud")
    if audience is not None and audience not in (
        given if isinstance(given, list) else [given]
    ):
        raise ValueError(f"the token is for another audience, {_shown(given)}")
    expires = _time(claims, "exp")
    if expires is None:
        raise ValueError("the token never expires")
    if now >= expires:
        raise ValueError("the token has expired")
    begins = _time(claims, "nbf")
    if begins is not None and now + NOT_BEFORE_LEEWAY < begins:
        raise ValueError("the token is not valid yet")
    return expires


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if type(value) in (int, float):
        with suppress(OverflowError):
            return float(value)
    raise ValueError(f"the token's {name} is no time")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _read_key(one: dict[str, Any]) -> Key | None:
    kind = one["kty"]
    key: Any = None
    algorithms: frozenset[str] = frozenset()
    if kind == "RSA":
        key = RSA.construct((_number(one["n"]), _number(one["e"])))
        if MIN_RSA <= key.size_in_bits() <= MAX_RSA:
            algorithms = _RSA
    elif kind == "EC" and one["crv"] in _CURVES:
        curve = one["crv"]
        x, y = _number(one["x"]), _number(one["y"])
        key = ECC.construct(curve=curve, point_x=x, point_y=y)
        algorithms = frozenset({_CURVES[curve]})
    elif kind == "OKP" and one["crv"] == "Ed25519":
        key = eddsa.import_public_key(decoded(one["x"]))
        algorithms = _ED25519
    if "alg" in one:
        algorithms &= {one["alg"]}
    return Key(one.get("kid"), algorithms, key) if algorithms else None


def _number(text: str) -> int:
    return int.from_bytes(decoded(text), "big")


def _is_right(token: Token, algorithm: str, key: Any) -> bool:
    try:
        if algorithm == "EdDSA":
            eddsa.new(key, "rfc8032").verify(token.signed, token.signature)
            return True
        digest = _HASHES[algorithm[2:]].new(token.signed)
        if algorithm.startswith("RS"):
            pkcs1_15.new(key).verify(digest, token.signature)
        elif algorithm.startswith("PS"):
            pss.new(key).verify(digest, token.signature)
        else:
            DSS.new(key, "fips-186-3", "binary").verify(digest, token.signature)
    except ValueError:
        return False
    return True
