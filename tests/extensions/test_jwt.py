"""JWTs: keys, signatures, claims."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
from pathlib import Path
from typing import Any

import pytest

from k8strace.extensions._jwt import (
    ALGORITHMS,
    UnknownKeyError,
    check,
    read,
    read_keys,
    verify,
)
from tests.support.jwt import b64, claims, encoded, jwk, jwt, rsa_pem, sign

ISSUER = "https://issuer"


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_signatures(algorithm: str) -> None:
    keys = read_keys({"keys": [jwk(algorithm, kid="a", use="sig")]})
    for token in (jwt(algorithm, claims(), kid="a"), jwt(algorithm, claims())):
        verify(read(token), keys)
        head, body, signature = token.split(".")
        other = encoded({"alg": algorithm}, claims(sub="eve"))
        for wrong in (
            f"{other}.{signature}",
            f"{head}.{body}.{b64(b'x' * 64)}",
            f"{head}.{body}.{signature[:-8]}",
        ):
            with pytest.raises(ValueError, match="signature is not right"):
                verify(read(wrong), keys)
    with pytest.raises(UnknownKeyError, match="hasn't"):
        verify(read(jwt(algorithm, claims(), kid="b")), keys)


def test_a_signature_that_openssl_made(tmp_path: Path) -> None:
    key, text = tmp_path / "key", tmp_path / "text"
    key.write_bytes(rsa_pem())
    signed = encoded({"alg": "RS256"}, claims())
    text.write_text(signed)
    command = ["openssl", "dgst", "-sha256", "-sign", str(key), str(text)]
    made = subprocess.run(command, capture_output=True, check=True).stdout
    verify(read(f"{signed}.{b64(made)}"), read_keys({"keys": [jwk("RS256")]}))


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "", None, 5, ["RS256"]])
def test_algorithms_that_are_not_accepted(algorithm: Any) -> None:
    """`none`, and HMAC with the public key as its secret."""
    keys = read_keys({"keys": [jwk("RS256", kid="a")]})
    signed = encoded({"alg": algorithm, "kid": "a"}, claims())
    public = subprocess.run(
        ["openssl", "pkey", "-pubout"], input=rsa_pem(), capture_output=True, check=True
    ).stdout
    mac = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    with pytest.raises(ValueError, match="is not accepted"):
        verify(read(f"{signed}.{b64(mac)}"), keys)


def test_the_key_says_which_algorithm() -> None:
    token = read(jwt("PS256", claims()))
    verify(token, read_keys({"keys": [jwk("RS256")]}))
    with pytest.raises(ValueError, match="signature is not right"):
        verify(token, read_keys({"keys": [jwk("RS256", alg="RS256")]}))
    signed = encoded({"alg": "ES256"}, claims())
    confused = read(f"{signed}.{b64(sign('RS256', signed.encode()))}")
    with pytest.raises(ValueError, match="signature is not right"):
        verify(confused, read_keys({"keys": [jwk("RS256")]}))


def test_critical_extensions_are_not_known() -> None:
    token = read(jwt("ES256", claims(), crit=["b64"]))
    with pytest.raises(ValueError, match="critical"):
        verify(token, read_keys({"keys": [jwk("ES256")]}))


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"keys": {}},
        {"keys": [5, {}, {"kty": "oct", "k": "aGVsbG8"}]},
        {"keys": [{"kty": "RSA", "n": b64(b"\xff" * 128), "e": "AQAB"}]},
        {"keys": [{"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"}]},
        {"keys": [{"kty": "EC", "crv": "secp256k1", "x": "AQ", "y": "AQ"}]},
        {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AQ"}]},
    ],
)
def test_sets_without_a_key(found: Any) -> None:
    with pytest.raises(ValueError, match="has no RSA, EC or Ed25519 key"):
        read_keys(found)


def test_keys_for_other_uses_are_left_out() -> None:
    with pytest.raises(ValueError, match="has no"):
        read_keys({"keys": [jwk("ES256", use="enc"), jwk("ES256", alg="HS256")]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "e30.e30.",
        "W10.e30.AA",
        "..",
        "ä.b.c",
        "e30.e30.AA::::AA",
    ],
)
def test_what_is_no_jwt(text: str) -> None:
    with pytest.raises(ValueError, match="no signed JWT"):
        read(text)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"iss": "https://other"}, "of another issuer, 'https://other'"),
        ({"iss": None}, "another issuer"),
        ({"iss": "x" * 500}, "another issuer"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ["other"]}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"aud": {"traces": 1}}, "another audience"),
        ({"exp": None}, "never expires"),
        ({"exp": "soon"}, "exp is no time"),
        ({"exp": True}, "exp is no time"),
        ({"exp": 10**400}, "exp is no time"),
        ({"exp": 1000}, "has expired"),
        ({"exp": 999.5}, "has expired"),
        ({"nbf": 1301}, "not valid yet"),
        ({"nbf": "x"}, "nbf is no time"),
    ],
)
def test_claims_that_do_not_hold(more: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        check(claims(exp=2000) | more, ISSUER, "traces", 1000.0)
    assert len(str(caught.value)) < 200


def test_claims_that_hold() -> None:
    for more in ({}, {"aud": ["a", "traces"]}, {"nbf": 1300}, {"nbf": 5.5}):
        assert check(claims(exp=2000) | more, ISSUER, "traces", 1000.0) == 2000.0
    assert check(claims(exp=2000, aud="other"), ISSUER, None, 1000.0) == 2000.0
