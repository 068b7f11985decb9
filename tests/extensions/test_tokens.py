"""Bearer tokens and the parts of JWTs."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest

from k8strace.extensions._tokens import bearer, expiry, json_part


def part(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_bearer_token(scheme: str) -> None:
    for spaces in (" ", "   "):
        assert bearer(f"{scheme}{spaces}a.b-c_d".encode()) == "a.b-c_d"


@pytest.mark.parametrize(
    "credential",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer\ta",
        b"Bearera",
        b"Bearer a b",
        b"Basic a",
        b"Bearer \xff\xfe",
        "Bearer ä".encode(),
        b"Bearer a\0b",
        b"Bearer a\nb",
        b"Bearer " + b"a" * 20_000,
    ],
)
def test_what_is_none(credential: bytes) -> None:
    assert bearer(credential) is None


def test_when_it_expires() -> None:
    for body, seconds in (('{"exp": 5}', 5.0), ('{"exp": 5.5}', 5.5)):
        assert expiry(f"a.{part(body)}.c") == seconds
    for body in (
        '{"exp": "5"}',
        '{"exp": true}',
        "{}",
        "[]",
        "x",
        f'{{"exp": 1{"0" * 400}}}',
    ):
        assert expiry(f"a.{part(body)}.c") is None
    for token in ("", "a.b", "a.b.c", "a.b.c.d", "a..c", "a.ä.c"):
        assert expiry(token) is None


# Python 3.14 takes 10,000; what a header may hold is 12,000.
DEEP = part('{"a": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}")


@pytest.mark.parametrize(
    "bad", ["", "!", part("{}") + "=", "a+b", "a/b", part("[1]"), "e", DEEP], ids=len
)
def test_parts_that_are_none(bad: str) -> None:
    with pytest.raises(ValueError, match="a part is no"):
        json_part(bad)
