"""Addresses are read as the collector reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.addresses import join_address, listen_address


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("localhost:4317", ("localhost", 4317)),
        (":4317", ("", 4317)),
        ("[::1]:0", ("::1", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_listen_address(endpoint: str, expected: tuple[str, int]) -> None:
    assert listen_address(endpoint) == expected


@pytest.mark.parametrize(
    "endpoint", ["", "4317", "localhost", "a:b", "a:65536", "::1:4317", "a:-1"]
)
def test_what_is_no_address_is_named(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"endpoint") as caught:
        listen_address(endpoint)
    assert repr(endpoint) in str(caught.value)


@given(st.sampled_from(["localhost", "10.0.0.1", "::1", ""]), st.integers(0, 65535))
def test_join_is_the_inverse(host: str, port: int) -> None:
    assert listen_address(join_address(host, port)) == (host, port)
