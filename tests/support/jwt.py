"""Keys and signed JWTs."""

from __future__ import annotations

import subprocess
from base64 import urlsafe_b64encode
from functools import cache
from time import time
from typing import Any

import msgspec
from Crypto.Hash import SHA256, SHA384, SHA512
from Crypto.PublicKey import ECC, RSA
from Crypto.Signature import DSS, eddsa, pkcs1_15, pss

HASHES: dict[str, Any] = {"256": SHA256, "384": SHA384, "512": SHA512}
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


@cache
def private(algorithm: str) -> Any:
    """A key that signs with it; RSA's are one, made by openssl, which is quick."""
    if algorithm in CURVES:
        return ECC.generate(curve=CURVES[algorithm])
    if algorithm == "EdDSA":
        return ECC.generate(curve="Ed25519")
    return RSA.import_key(rsa_pem())


@cache
def rsa_pem() -> bytes:
    command = [
        "openssl",
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
    ]
    return subprocess.run(command, capture_output=True, check=True).stdout


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def number(value: int) -> str:
    return b64(int(value).to_bytes((int(value).bit_length() + 7) // 8, "big"))


def jwk(algorithm: str, **more: Any) -> dict[str, Any]:
    """The public key as an issuer shows it."""
    key = private(algorithm)
    if algorithm in CURVES:
        point = key.public_key().pointQ
        found = {"kty": "EC", "crv": CURVES[algorithm]}
        found |= {"x": number(point.x), "y": number(point.y)}
    elif algorithm == "EdDSA":
        found = {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": b64(key.public_key().export_key(format="raw")),
        }
    else:
        found = {"kty": "RSA", "n": number(key.n), "e": number(key.e)}
    return found | more


def claims(**more: Any) -> dict[str, Any]:
    return {
        "iss": "https://issuer",
        "aud": "traces",
        "sub": "ann",
        "exp": time() + 600,
    } | more


def encoded(header: dict[str, Any], body: dict[str, Any]) -> str:
    return f"{b64(msgspec.json.encode(header))}.{b64(msgspec.json.encode(body))}"


def sign(algorithm: str, signed: bytes) -> bytes:
    key = private(algorithm)
    if algorithm == "EdDSA":
        return bytes(eddsa.new(key, "rfc8032").sign(signed))
    digest = HASHES[algorithm[2:]].new(signed)
    if algorithm in CURVES:
        return bytes(DSS.new(key, "fips-186-3", "binary").sign(digest))
    return bytes((pkcs1_15 if algorithm[0] == "R" else pss).new(key).sign(digest))


def jwt(algorithm: str, body: dict[str, Any], **header: Any) -> str:
    signed = encoded({"alg": algorithm} | header, body)
    return f"{signed}.{b64(sign(algorithm, signed.encode()))}"
