"""Headers that have credentials."""

from __future__ import annotations

import pytest

from k8strace.extensions._headers import OneHeader, header_name, is_scheme, is_value


@pytest.mark.parametrize(
    "name", ["", "a b", "ä", "a:b", "grpc-status", "X-Raw-Bin", ":path", "a\n"]
)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="gRPC"):
        header_name(name)


def test_names_are_in_lower_case() -> None:
    assert header_name("X-Api_Key.1") == "x-api_key.1"


def test_schemes_and_values() -> None:
    assert is_scheme("Bearer")
    assert not is_scheme("Bearer token")
    assert is_value("a b~")
    assert not any(map(is_value, ("a\n", "ä", "\x7f")))


def test_the_same_tuple_as_long_as_nothing_changes() -> None:
    one = OneHeader("a")
    headers = (("a", "old"), ("b", "2"))
    first = one.set(headers, "1")
    assert first == (("b", "2"), ("a", "1"))
    assert one.set(headers, "1") is first
    assert one.set(headers, "3") == (("b", "2"), ("a", "3"))
    assert one.set((), "3") == (("a", "3"),)
