"""What callers say who they are, and files of users, made of any bytes."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode

from k8strace.auth import Verdict
from k8strace.extensions import _htpasswd, _jwt, basicauth
from k8strace.extensions._tokens import MAX_TOKEN, bearer, expiry


def credential(data: bytes) -> None:
    """Anything is one or is none; what is read of one says what it said."""
    basic(data)
    token = bearer(data)
    if token is not None:
        assert 0 < len(token) <= MAX_TOKEN
        assert data.strip(b" ")[6:].lstrip(b" ") == token.encode("ascii")
        jwt(token)
    jwt(data.decode("latin-1"))
    users(data)


def basic(data: bytes) -> None:
    found = basicauth._read(data)
    if isinstance(found, Verdict):
        assert found.denial
        assert found.subject is None
    else:
        both = found.user + b":" + found.password
        assert b":" not in found.user
        encoded = data.strip(b" ")[len(b"basic") :].lstrip(b" ")
        assert same(b64encode(both), encoded)


def same(one: bytes, other: bytes) -> bool:
    """Whether both are base64 of the same: the last character may have bits of nobody."""
    return one.rstrip(b"=")[:-1] == other.rstrip(b"=")[:-1]


def jwt(text: str) -> None:
    expires = expiry(text)
    try:
        token = _jwt.read(text)
    except ValueError:
        return
    assert text.startswith(token.signed.decode() + ".")
    signature = text.rpartition(".")[2].encode()
    assert same(urlsafe_b64encode(token.signature), signature)
    assert expires is None or expires == float(token.claims["exp"])
    try:
        _jwt.verify(token, [])
    except ValueError:
        pass
    else:
        raise AssertionError("there is no key that it could be signed with")
    try:
        until = _jwt.check(token.claims, "https://issuer", None, 1e9)
    except ValueError:
        return
    assert until > 1e9
    assert token.claims["iss"] == "https://issuer"


def users(data: bytes) -> None:
    try:
        found = _htpasswd.parse(data)
    except ValueError:
        return
    for user, hashed in found.items():
        assert user
        assert b":" not in user
        assert hashed in data
        if not _htpasswd.is_slow(hashed):
            assert not _htpasswd.matches(hashed + b"x", hashed)
