"""URIs, `--set`, and `${}` as the collector reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.config_source import (
    MAX_EXPANSIONS,
    MAX_PROBLEMS,
    MAX_URIS,
    Resolved,
    resolve,
)
from k8strace.config_yaml import MAX_BYTES, Node

ENVIRON = {
    "HOST": "10.0.0.1",
    "PORT": "4317",
    "OCTAL": "0123",
    "TRUE": "true",
    "LIST": "[a, '${env:PORT}']",
    "MAP": "{a: {b: 1}}",
    "EMPTY": "",
    "QUOTED": '"5"',
    "NAME": "PORT",
    "AGAIN": "${env:PORT}",
    "DOLLAR": "a$$b",
    "BAD": "%x: [",
    "SELF": "${env:SELF}",
    "DEEP": "['${env:DEEP}']",
    "WIDE": "['${env:WIDE}', '${env:WIDE}']",
    "BIG": "x" * (MAX_BYTES // 4),
}


def plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def resolved(*uris: str, sets: tuple[str, ...] = ()) -> Resolved:
    return resolve(uris, sets, ENVIRON)


def problems(*uris: str, sets: tuple[str, ...] = ()) -> list[str]:
    return [str(problem) for problem in resolved(*uris, sets=sets).problems]


def value(text: str) -> Node:
    found = resolved(f"yaml:a: '{text}'")
    assert found.problems == []
    assert isinstance(found.root.value, dict)
    return found.root.value["a"]


@pytest.mark.parametrize(
    ("text", "expected", "written"),
    [
        ("${env:HOST}:${PORT}", "10.0.0.1:4317", "10.0.0.1:4317"),
        ("${PORT}", 4317, "4317"),
        ("${env:OCTAL}", 83, "0123"),
        ("${env:TRUE}", True, "true"),
        ("${env:QUOTED}", '"5"', '"5"'),
        ("${env:BAD}", "%x: [", "%x: ["),
        ("${env:LIST}", ["a", 4317], None),
        ("${env:MAP}", {"a": {"b": 1}}, "{a: {b: 1}}"),
        ("${env:${NAME}}", 4317, "4317"),
        ("${env:AGAIN}", 4317, "4317"),
        ("x${env:AGAIN}", "x4317", "x4317"),
        ("${env:EMPTY}", None, ""),
        ("a${env:EMPTY}b", "ab", "ab"),
        ("${env:NONE:-5}", 5, "5"),
        ("${env:NONE:-}", "", ""),
        ("${env:NONE:-a:b}", "a:b", "a:b"),
        ("${env:PORT:-5}", 4317, "4317"),
        ("${env:EMPTY:-5}", None, ""),
        ("${env:NONE:-${HOST}}", "10.0.0.1", "10.0.0.1"),
        ("${yaml:b: 1}", {"b": 1}, "b: 1"),
        ("${yaml:[1, ${PORT}]}", [1, 4317], "[1, 4317]"),
        ("$$", "$", "$"),
        ("$${PORT}", "${PORT}", "${PORT}"),
        ("$$${PORT}", "$4317", "$4317"),
        ("$$$$${PORT}", "$$4317", "$$4317"),
        ("$${PORT} ${PORT}", "${PORT} 4317", "${PORT} 4317"),
        ("${env:DOLLAR}", "a$b", "a$b"),
        ("$PORT", "$PORT", "$PORT"),
        ("${PORT", "${PORT", "${PORT"),
        ("} ${PORT}", "} 4317", "} 4317"),
    ],
)
def test_expansion(text: str, expected: object, written: str | None) -> None:
    node = value(text)
    assert plain(node) == expected
    assert node.text == written


def test_keys_and_other_values_are_left_alone() -> None:
    found = resolved("yaml:{'${HOST}': 1, b: [2.5, null, {c: '${HOST}'}]}")
    assert plain(found.root) == {"${HOST}": 1, "b": [2.5, None, {"c": "10.0.0.1"}]}


def test_a_variable_that_is_not_set() -> None:
    found = resolved("yaml:a: {b: '${env:NONE}', c: 'x${NONE}'}")
    assert plain(found.root) == {"a": {"b": None, "c": "x"}}
    assert found.notes == ["--config yaml:1: environment variable NONE is not set"] * 2
    assert isinstance(found.root.value, dict)
    inner = found.root.value["a"].value
    assert isinstance(inner, dict)
    assert inner["b"].unset == "NONE"


def test_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret: of mine\n@\n")
    (tmp_path / "port").write_text("4317\n")
    part = tmp_path / "part.yaml"
    part.write_text("\ufeffotlp:\n  endpoint: ${HOST}:1\n", encoding="utf-8")
    main = tmp_path / "main.yaml"
    main.write_text(
        f"receivers: ${{file:{part}}}\ntoken: ${{file:{tmp_path}/token}}\n"
        f"port: ${{file:{tmp_path}/port}}\n"
    )
    for uri in (str(main), f"file:{main}"):
        found = resolved(uri)
        assert plain(found.root) == {
            "receivers": {"otlp": {"endpoint": "10.0.0.1:1"}},
            "token": "secret: of mine\n@",
            "port": 4317,
        }
        assert found.root.mark == (str(main), 0)


def test_sources_are_merged_before_they_are_expanded(tmp_path: Path) -> None:
    part = tmp_path / "part.yaml"
    part.write_text("{x: 1}")
    assert plain(resolved(f"yaml:a: ${{file:{part}}}", "yaml:a: {y: 2}").root) == {
        "a": {"y": 2}
    }
    assert plain(resolved("yaml:a: {y: 2}", "env:MAP").root) == {"a": {"y": 2, "b": 1}}


def test_an_empty_source_is_an_empty_map(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    found = resolved(str(empty))
    assert (plain(found.root), found.failed) == ({}, False)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("a.b=c", {"a": {"b": "c"}}),
        ("a.b/c.d = 5s ", {"a": {"b/c": {"d": "5s"}}}),
        ("a::b=5", {"a": {"b": 5}}),
        ("a=", {"a": None}),
        ("a=b=c", {"a": "b=c"}),
        ("a={b: [1, 2]}", {"a": {"b": [1, 2]}}),
        ("a=${PORT}", {"a": 4317}),
    ],
)
def test_set(option: str, expected: object) -> None:
    found = resolved(sets=(option,))
    assert found.problems == []
    assert plain(found.root) == expected


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("a", "--set a: missing equal sign: write --set key=value"),
        ("=a", "--set : is no option's name: write --set a.b.c=value"),
        ("a..b=c", "--set a..b: is no option's name: write --set a.b.c=value"),
        ("a.=c", "--set a.: is no option's name: write --set a.b.c=value"),
        (".".join("a" * 99) + "=c", "is no option's name"),
        ("a=[hunter2", "--set a: is not YAML"),
    ],
)
def test_set_that_is_wrong(option: str, reason: str) -> None:
    found = resolved(sets=(option,))
    assert found.failed
    (problem,) = map(str, found.problems)
    assert reason in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("https://a:hunter2@b/c", "--config https: scheme 'https' is not available"),
        ("none.yaml", "none.yaml: cannot read the file 'none.yaml': No such file"),
        ("/", "/: cannot read the file '/': Is a directory"),
        ("a\x00b", "cannot read the file"),
        ("./a:b", "./a:b: cannot read the file './a:b'"),
        ("yaml:hunter2", "--config yaml: must hold a map of sections, not a single value"),
        ("env:LIST", "env:LIST: must hold a map of sections, not a list"),
        ("env:a-b", "env:a-b: 'a-b' is no name of an environment variable"),
        ("env:BAD", "env:BAD:1: is not YAML"),
        ("yaml:a: ]", "--config yaml:1: is not YAML"),
    ],
)
def test_uris_that_are_wrong(uri: str, reason: str) -> None:
    found = resolved("yaml:{a: 1}", uri)
    assert found.failed
    (problem,) = map(str, found.problems)
    assert reason in problem
    assert "hunter2" not in problem


def test_files_that_are_wrong(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe4")
    assert problems(str(latin)) == [f"{latin}: the file '{latin}' is not UTF-8 text"]
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    assert problems(str(large)) == [
        f"{large}: the file '{large}' is larger than {MAX_BYTES} bytes"
    ]
    assert problems("/dev/zero") == [
        f"/dev/zero: the file '/dev/zero' is larger than {MAX_BYTES} bytes"
    ]
    assert "larger than" in problems(*["env:BIG"] * 5)[-1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${1}", "'1' is no name of an environment variable; write $${"),
        ("${}", "'' is no name of an environment variable"),
        ("${http://x}", "scheme 'http' is not available"),
        ("${PORT:-5}", "write ${env:PORT:-default}"),
        ("${MY_PORT:-5}", "write ${env:MY_PORT:-default}"),
        ("${a:b}", "${} holds no name"),
        ("${yaml:$}", "${yaml:…} holds a $"),
        ("${file:/none}", "cannot read the file '/none'"),
        ("${env:SELF}", f"more than {MAX_URIS} ${{}} in one value"),
        ("x${env:SELF}", f"more than {MAX_URIS} ${{}} in one value"),
        ("${env:DEEP}", "nested deeper than 64 levels"),
        ("${BIG}${BIG}${BIG}${BIG}${BIG}", "is larger than"),
    ],
)
def test_expansions_that_are_wrong(text: str, reason: str) -> None:
    found = resolved(f"yaml:b: {{a: '{text}', c: 1}}")
    (problem,) = map(str, found.problems)
    assert problem.startswith("--config yaml:1: b::a")
    assert reason in problem
    assert not found.failed
    assert plain(found.root)["b"]["c"] == 1


def test_expansions_are_bounded_in_all() -> None:
    found = resolved("env:WIDE", "yaml:a: ${env:WIDE}")
    assert len(found.problems) <= MAX_PROBLEMS
    many = ",".join(["'${PORT}'"] * (MAX_EXPANSIONS + 1))
    (problem,) = problems(f"yaml:a: [{many}]")
    assert problem == (
        f"--config yaml:1: a[{MAX_EXPANSIONS}]: more than {MAX_EXPANSIONS} ${{}} in all"
    )


@given(st.text(alphabet=st.sampled_from("${}:-envyamlfile PORTSELF[]")))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    found = resolve(["yaml:{}"], [f"a='{text}'"], ENVIRON)
    assert not found.failed
    assert isinstance(found.root.value, dict)
    node = found.root.value["a"]
    assert node.broken == bool(found.problems)
    if "${" not in text:
        assert plain(node) == text.replace("$$", "$")
