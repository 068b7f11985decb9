"""Names and values that headers can have."""

from __future__ import annotations

import pytest

from k8strace.headers import header_name, header_value, is_authority, is_value

BAD_VALUES = ["a\nb", "a\r\nx: y", "ä", "\x7f", "a\tb", "\0", "\ud800", "\u202e"]


@pytest.mark.parametrize(
    "name",
    [
        *("", "a b", "ä", "a:b", "grpc-status", "X-Raw-Bin", ":path", "a\n"),
        *("Connection", "keep-alive", "Transfer-Encoding", "upgrade", "proxy-connection"),
    ],
)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="gRPC"):
        header_name(name)


def test_names_are_in_lower_case() -> None:
    assert header_name("X-Api_Key.1") == "x-api_key.1"


@pytest.mark.parametrize("value", BAD_VALUES)
def test_values_that_cannot_be(value: str) -> None:
    assert not is_value(value)
    with pytest.raises(ValueError, match="not printable ASCII") as caught:
        header_value(value)
    assert value not in str(caught.value)


def test_space_around_a_value_is_no_part_of_it() -> None:
    assert header_value(" \tBearer abc \r\n") == "Bearer abc"
    assert header_value(" ") == ""
    assert is_value("a b~")
    assert not is_value(" a")
    assert not is_value("a ")


def test_authorities() -> None:
    assert is_authority("[::1]:4317")
    assert is_authority("backend.svc:4317")
    assert not any(map(is_authority, ("", "a b", "a\n", "bücher", "a/b")))
