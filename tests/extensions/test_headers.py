"""Headers that have credentials."""

from __future__ import annotations

from k8strace.extensions._headers import OneHeader, is_scheme


def test_schemes() -> None:
    assert is_scheme("Bearer")
    assert not is_scheme("Bearer token")


def test_the_same_tuple_as_long_as_nothing_changes() -> None:
    one = OneHeader("a")
    headers = (("a", "old"), ("b", "2"))
    first = one.set(headers, "1")
    assert first == (("b", "2"), ("a", "1"))
    assert one.set(headers, "1") is first
    assert one.set(headers, "3") == (("b", "2"), ("a", "3"))
    assert one.set((), "3") == (("a", "3"),)
