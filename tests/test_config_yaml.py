"""YAML as Go's yaml.v3 reads it, with the place of everything, and bounded."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.config_yaml import (
    MAX_DEPTH,
    MAX_NODES,
    Allowance,
    Document,
    InvalidError,
    LimitError,
    Mark,
    Node,
    Problem,
    merge,
    scalar_value,
)

HERE = Mark("a.yaml")


def read(text: str) -> Node:
    return Document(text, HERE, Allowance()).read()


def plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, None) for text in ("", "~", "null", "Null", "NULL")],
        *[(text, True) for text in ("true", "True", "TRUE")],
        *[(text, False) for text in ("false", "False", "FALSE")],
        *[(text, text) for text in ("yes", "no", "on", "off", "y", "n", "tRUE", "nUll")],
        *[("0", 0), ("-5", -5), ("+5", 5), ("1_000", 1000), ("0x1F", 31), ("-0x1f", -31)],
        *[("0o17", 15), ("017", 15), ("0b101", 5), ("0899", 899.0), ("_1", "_1")],
        *[("9223372036854775807", 2**63 - 1), ("18446744073709551615", 2**64 - 1)],
        *[("18446744073709551616", 2.0**64), ("0x", "0x"), ("0x_", "0x_")],
        *[("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-1.5E-2", -0.015)],
        *[(".inf", math.inf), ("-.INF", -math.inf), ("1e999", "1e999"), ("inf", "inf")],
        *[("9" * 100, "9" * 100), ("1.2.3", "1.2.3"), ("5s", "5s"), ("e5", "e5")],
        *[("2001-01-01", "2001-01-01"), ("1:30", "1:30"), ("٣", "٣"), ("0x1G", "0x1G")],
    ],
)
def test_scalars(text: str, value: object) -> None:
    result = scalar_value(text)
    assert (result, type(result)) == (value, type(value))


def test_nan() -> None:
    assert math.isnan(scalar_value(".NaN"))  # type: ignore[arg-type]


@given(st.text(alphabet="0123456789abcdefxobeE+-._nfi", max_size=80))
def test_any_scalar_has_a_value(text: str) -> None:
    assert isinstance(scalar_value(text), (str, int, float, type(None)))


def test_quoted_and_tagged_scalars() -> None:
    text = "[\"5\", '~', ! 5, !!str 5, !!int '0x10', !!float 1, !!bool 'true', !!null '']"
    assert plain(read(text)) == ["5", "~", "5", "5", 16, 1, True, None]
    assert plain(read("[!!map {a: b}, !!seq [c]]")) == [{"a": "b"}, ["c"]]


@pytest.mark.parametrize("text", ["!!int x", "!!binary YQ==", "!x a", "!!seq {}", "!x [a]"])
def test_other_tags_are_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="tag") as caught:
        read(f"\n- {text}")
    assert caught.value.mark == ("a.yaml", 2)


def test_places_and_texts() -> None:
    root = read("a:\n  b: 007\n  c:\n    - x\n    - >\n      folded\nd: {e: ~}\n")
    assert isinstance(root.value, dict)
    a = root.value["a"]
    assert isinstance(a.value, dict)
    b, c = a.value["b"], a.value["c"]
    assert isinstance(c.value, list)
    assert [node.mark.line for node in (a, b, c, *c.value)] == [1, 2, 3, 4, 5]
    assert (b.value, b.text) == (7, "007")
    assert c.value[1].value == "folded\n"
    assert str(b.mark) == "a.yaml:2"


def test_a_key_with_colons_is_a_path() -> None:
    root = read("a::b::c: 1\na: {b: {d: 2}}\na::e: 3\n")
    assert plain(root) == {"a": {"b": {"c": 1, "d": 2}, "e": 3}}


def test_anchors_and_merge_keys() -> None:
    text = (
        "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\n"
        "one: {<<: *x, b: 5}\nboth: {<<: [*x, *y]}\nalias: *x\nquoted: {'<<': 1}\n"
    )
    root = plain(read(text))
    assert root["one"] == {"a": 1, "b": 5}
    assert root["both"] == {"a": 1, "b": 2, "c": 4}
    assert root["alias"] == {"a": 1, "b": 2}
    assert root["quoted"] == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb: [", 3, "is not YAML"),
        ("a: 1\n\tb: 2", 2, "is not YAML"),
        ("a:\n\tb: 2", 2, "is not YAML: a tab where only spaces may indent"),
        ("ü:\n  b: 2\n\tc: 3", 3, "is not YAML: a tab where only spaces may indent"),
        ("a: *x", 1, "is not YAML|alias"),
        ("a: 1\nb: \x01", 2, "control characters"),
        ("a: 1\nb: &x [*x]", 2, "alias"),
        ("a: 1\n? [b]\n: 1", 2, "key"),
        ("a: 1\nb: {<<: 1}", 2, "<<"),
        ("\ud800", 0, "is not YAML text"),
    ],
)
def test_what_is_no_configuration(text: str, line: int, reason: str) -> None:
    with pytest.raises(InvalidError, match=reason) as caught:
        read(text)
    assert caught.value.mark == ("a.yaml", line)


def test_keys_given_twice_are_all_found() -> None:
    document = Document("a: 1\nb:\n  c: 1\n  c: 2\na: 2\n", HERE, Allowance())
    document.read()
    assert [str(problem) for problem in document.problems] == [
        "a.yaml:4: key 'c' is already given at line 3",
        "a.yaml:5: key 'a' is already given at line 1",
    ]


def test_only_the_first_document_is_read() -> None:
    document = Document("---\na: 1\n---\nb: 2\n", HERE, Allowance())
    assert plain(document.read()) == {"a": 1}
    assert document.notes == ["a.yaml: only its first YAML document is read"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * (MAX_DEPTH + 2),
        "[" * 100_000,
        "{a: " * (MAX_DEPTH + 2),
        "::".join("a" * 100) + ": 1",
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100)),
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}, x: *a{n - 1}}}\n" for n in range(1, 100)),
        "[" + "x," * (MAX_NODES + 1) + "]",
        "a: &a [" + "x," * 1000 + "]\nb: [" + "*a," * 200 + "]",
        "a: &a {"
        + ",".join(f"k{n}" for n in range(1000))
        + "}\nb: ["
        + "{<<: *a}," * 200
        + "]",
    ],
    ids=[
        "deep",
        "deeper",
        "maps",
        "path",
        "aliases",
        "merges",
        "wide",
        "bomb",
        "inherited",
    ],
)
def test_what_is_too_much(text: str) -> None:
    with pytest.raises(LimitError, match=r"nested deeper than 64|more than 100000 values"):
        read(text)


def test_what_is_just_not_too_deep() -> None:
    node = read("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        assert isinstance(node.value, list)
        node = node.value[0]
    assert node.value == []


def test_merging() -> None:
    below = read("{a: {b: 1, c: [1, 2]}, d: {e: 1}, f: 1, g: {h: 1}}")
    above = read("{a: {b: 2, c: [3]}, d: 5, f: {x: 1}, g: }")
    assert plain(merge(below, above)) == {
        "a": {"b": 2, "c": [3]},
        "d": 5,
        "f": {"x": 1},
        "g": None,
    }
    assert plain(below)["a"]["b"] == 1


def test_a_problem_is_one_line() -> None:
    assert str(Problem(Mark("a", 3), "b::c", "d")) == "a:3: b::c: d"
    assert str(Problem(Mark(), "", "x\ny\u2028z")) == "x y z"


@given(st.text(alphabet=st.sampled_from("ab:[]{},&*x!\"'#|>-?%@ \n\t<\x00\ud800ä0.")))
def test_any_text_is_read_or_refused(text: str) -> None:
    document = Document(text, HERE, Allowance())
    try:
        node = document.read()
    except InvalidError as error:
        assert error.text  # noqa: PT017
        assert error.mark.source == "a.yaml"  # noqa: PT017
    else:
        assert node.mark.source == "a.yaml"
