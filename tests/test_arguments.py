"""Numbers on the command line."""

import argparse

import pytest

from k8strace.arguments import non_negative, positive_int


def test_numbers() -> None:
    assert [positive_int("1"), positive_int("42")] == [1, 42]
    assert [non_negative("0"), non_negative("2.5")] == [0.0, 2.5]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", ""])
def test_no_positive_int(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="from 1 on") as caught:
        positive_int(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "x", ""])
def test_no_number_of_zero_or_more(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="0 or more") as caught:
        non_negative(text)
    assert repr(text) in str(caught.value)
