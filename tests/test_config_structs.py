"""Plain values become structs and back; every mistake is found."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from k8strace.component import NO_EFFECT, ComponentID, Config, no_effect
from k8strace.config_structs import Decoder, decode, encode, to_node
from k8strace.config_yaml import Mark, Node
from k8strace.errors import ConfigError
from k8strace.secret import Secret
from k8strace.units import Duration


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


class Part(Config, frozen=True, kw_only=True):
    enabled: bool = True
    size: Annotated[int, Meta(ge=1)] = 10
    name: str = "part"


class Rule(Config, frozen=True, kw_only=True):
    not_available: ClassVar[Mapping[str, str]] = {"old": "write name"}

    name: str
    rate: float = 1.0
    idle: Annotated[int, no_effect("nothing is idle")] = 0


class Whole(Config, frozen=True, kw_only=True):
    """One field of every kind."""

    number: int = 1
    real: float = 0.5
    text: str = "text"
    flag: bool = False
    wait: Duration = Duration(5)
    mode: Literal["a", "b"] = "a"
    speed: Mode = Mode.FAST
    either: int | str = 0
    maybe: str | None = None
    limit: Annotated[int, Meta(ge=0)] | None = None
    pause: Duration | None = None
    anything: Any = None
    names: tuple[str, ...] = ("a",)
    waits: list[Duration] = msgspec.field(default_factory=list)
    ports: Sequence[int] = ()
    tags: frozenset[str] = frozenset()
    weights: dict[str, float] = msgspec.field(default_factory=dict)
    texts: Mapping[str, str] = msgspec.field(default_factory=dict)
    loose: dict = msgspec.field(default_factory=dict)  # type: ignore[type-arg]
    ids: list[ComponentID] = msgspec.field(default_factory=list)
    rules: tuple[Rule, ...] = ()
    rates: dict[str, Rule] = msgspec.field(default_factory=dict)
    part: Part = Part()
    off: Part = Part(enabled=False, size=3, name="off")
    optional: Part | None = None
    unset: Part | UnsetType | None = UNSET
    tuned: Annotated[int, NO_EFFECT] = 0
    tuned_part: Annotated[Part | None, NO_EFFECT] = None
    secret: Secret = Secret()
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    renamed: str = msgspec.field(default="", name="class")


def problems(values: Mapping[str, Any], of: type[Config] = Whole) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        decode(of, values)
    return caught.value.problems


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"number": 5, "real": 5, "text": "x"}, {"number": 5, "real": 5.0, "text": "x"}),
        ({"number": 1e3}, {"number": 1000}),
        ({"text": 5, "class": True}, {"text": "5", "renamed": "True"}),
        ({"wait": "1m30s", "pause": 0}, {"wait": Duration(90), "pause": Duration(0)}),
        ({"wait": Duration(0.25)}, {"wait": Duration(0.25)}),
        ({"mode": "b", "speed": "slow"}, {"mode": "b", "speed": Mode.SLOW}),
        ({"either": "x", "maybe": "y"}, {"either": "x", "maybe": "y"}),
        ({"either": 5, "limit": 0}, {"either": 5, "limit": 0}),
        ({"anything": {"a": [1, None]}}, {"anything": {"a": [1, None]}}),
        ({"names": "a,b", "waits": ["1s"]}, {"names": ("a", "b"), "waits": [Duration(1)]}),
        ({"names": "", "ports": [1, 2]}, {"names": (), "ports": (1, 2)}),
        ({"tags": ["a", "a"], "ids": ["a/b"]}, {"tags": {"a"}, "ids": [("a", "b")]}),
        (
            {"weights": {"a": 1}, "loose": {"a": 1}},
            {"weights": {"a": 1.0}, "loose": {"a": 1}},
        ),
        ({"texts": {"a": 1}}, {"texts": {"a": "1"}}),
        ({"rules": [{"name": "a"}]}, {"rules": (Rule(name="a"),)}),
        ({"rates": {"x": {"name": "a"}}}, {"rates": {"x": Rule(name="a")}}),
        ({"part": {"size": 5}}, {"part": Part(size=5)}),
    ],
)
def test_decoding(values: dict[str, Any], expected: dict[str, Any]) -> None:
    result = decode(Whole, values)
    for name, value in expected.items():
        assert getattr(result, name) == value
        assert type(getattr(result, name)) is type(value) or isinstance(value, (set, list))
    others = {name: getattr(Whole(), name) for name in Whole.__struct_fields__}
    assert result == Whole(
        **{**others, **{name: getattr(result, name) for name in expected}}
    )


def test_null_is_the_zero_value_the_default_or_a_part_with_its_defaults() -> None:
    result = decode(Whole, dict.fromkeys(Whole.__struct_encode_fields__))
    assert result == Whole(
        number=0,
        real=0.0,
        text="",
        flag=False,
        wait=Duration(0),
        off=Part(size=3, name="off"),
        optional=Part(),
        unset=Part(),
        tuned_part=Part(),
        secret=Secret(),
    )


class Choosy(Config, frozen=True, kw_only=True):
    """Options that may be unset or empty, and a check that names one of them."""

    level: str | UnsetType = UNSET
    paths: tuple[str, ...] | UnsetType = UNSET
    both: str | UnsetType | None = UNSET
    mode: Literal["fast", "slow", ""] = ""
    endpoint: str = "a"

    def __post_init__(self) -> None:
        if not self.endpoint:
            raise ValueError("endpoint must not be empty")


def test_null_leaves_unset_what_may_be_unset() -> None:
    assert decode(Choosy, {"level": None, "paths": None}) == Choosy()
    assert decode(Choosy, {"level": "", "paths": []}) == Choosy(level="", paths=())
    assert decode(Choosy, {"both": None}) == Choosy(both=None)


def test_an_empty_choice_is_not_listed() -> None:
    assert problems({"mode": "fats"}, Choosy) == [
        'mode: expected one of fast, slow, not "fats"; did you mean fast?'
    ]
    assert decode(Choosy, {"mode": ""}).mode == ""


def test_a_check_that_fails_on_an_unset_variable_names_it() -> None:
    decoder = Decoder()
    given = Node({"endpoint": Node("", Mark("a.yaml", 3), "", unset="HOST")}, Mark())
    decoder.struct(Choosy, given, "exporters::otlp")
    assert [str(problem) for problem in decoder.problems] == [
        "a.yaml:3: exporters::otlp: endpoint must not be empty "
        "(environment variable HOST is not set)"
    ]


def test_a_part_that_is_off_keeps_its_defaults_and_is_turned_on() -> None:
    assert decode(Whole, {"off": {"size": 4}}).off == Part(size=4, name="off")
    assert decode(Whole, {"off": {"enabled": False, "size": 4}}).off == Part(
        enabled=False, size=4, name="off"
    )


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"numbr": 1}, "numbr: unknown option; did you mean number?"),
        ({"zzz": 1}, "zzz: unknown option"),
        ({"number": "5"}, 'number: expected int, not "5"; write it without quotes'),
        ({"number": "x"}, 'number: expected int, not "x"'),
        ({"number": True}, "number: expected int, not True"),
        ({"number": 1.5}, "number: expected int, not 1.5"),
        ({"number": 2**63}, "number: number too large: 9223372036854775808"),
        ({"real": "1.5"}, 'real: expected float, not "1.5"; write it without quotes'),
        ({"real": float("inf")}, "real: expected a finite number, not inf"),
        ({"flag": "on"}, 'flag: expected bool, not "on"; write true or false'),
        ({"flag": 1}, "flag: expected bool, not 1"),
        ({"text": []}, "text: expected string, not a list"),
        ({"wait": 5}, "wait: a duration needs a unit: write 5s or 5ms"),
        ({"wait": "5"}, "wait: invalid duration '5': write a number and a unit"),
        ({"wait": {}}, "wait: expected a duration, not a map"),
        ({"mode": "c"}, 'mode: expected one of a, b, not "c"'),
        ({"speed": "fats"}, 'speed: expected one of fast, slow, not "fats"; did you mean'),
        ({"limit": -1}, "limit: expected int >= 0, not -1"),
        ({"names": {}}, "names: expected a list, not a map"),
        ({"names": ["a", {}]}, "names[1]: expected string, not a map"),
        ({"ids": ["/"]}, "ids[0]: id must be type or type/name, not '/'"),
        ({"weights": []}, "weights: expected a map, not a list"),
        ({"weights": {"a": "x"}}, 'weights::a: expected float, not "x"'),
        ({"rules": [{"rate": 1}]}, "rules[0]::name: is missing"),
        ({"rates": {"x": 5}}, "rates::x: expected a map of options, not 5"),
        ({"part": {"size": 0}}, "part::size: expected int >= 1, not 0"),
        ({"part": [1]}, "part: expected a map of options, not a list"),
        ({"text": {"x": "a" * 99}}, "text: expected string, not a map"),
        ({"mode": "a" * 99}, f'mode: expected one of a, b, not "{"a" * 60}…"'),
    ],
)
def test_mistakes(values: dict[str, Any], problem: str) -> None:
    (found,) = problems(values)
    assert found.startswith(problem)


def test_all_mistakes_are_found() -> None:
    values = {
        "number": "x",
        "wiat": "5s",
        "part": {"size": 0, "nmae": "x"},
        "rules": [{"name": "a", "rate": "x"}, {"nane": "b"}],
        "weights": {"a": "x", "b": "y"},
    }
    assert [one.partition(": ")[0] for one in problems(values)] == [
        "number",
        "wiat",
        "part::size",
        "part::nmae",
        "rules[0]::rate",
        "rules[1]::nane",
        "rules[1]::name",
        "weights::a",
        "weights::b",
    ]


class Checked(Config, frozen=True, kw_only=True):
    low: int = 1
    high: int = 10
    name: str = "name"
    other: int = 0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be over high ({self.high})")
        if not self.name:
            raise ValueError("name must not be empty")
        if self.other == 1:
            raise ConfigError(["first", "second"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"low": 11}, ["low (11) must not be over high (10)"]),
        ({"name": ""}, ["name must not be empty"]),
        ({"low": 11, "name": ""}, ["low (11) must not be over high (10)", "name must not"]),
        ({"other": 1}, ["first", "second"]),
        # What a check says of an option that is already known to be wrong is no news.
        ({"low": 11, "high": "x"}, ["high: expected int"]),
        ({"low": "x", "name": ""}, ["low: expected int", "name must not be empty"]),
        ({"low": "x", "other": 1}, ["low: expected int"]),
        ({"lwo": 5, "name": ""}, ["lwo: unknown option", "name must not be empty"]),
    ],
)
def test_a_structs_own_checks(values: dict[str, Any], expected: list[str]) -> None:
    found = problems(values, Checked)
    assert len(found) == len(expected)
    assert all(one.startswith(text) for one, text in zip(found, expected, strict=True))


class Token(Config, frozen=True, kw_only=True):
    token: Secret = Secret()
    keys: tuple[Secret, ...] = ()
    users: dict[str, Secret] = msgspec.field(default_factory=dict)
    headers: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.token:
            raise ValueError(f"token {self.token.reveal()} with {self.headers}")


@pytest.mark.parametrize(
    "values",
    [
        {"token": "hunter2", "headers": {"a": "hunter2 and more"}},
        {"token": ["hunter2"]},
        {"keys": [["hunter2"]]},
        {"keys": {"hunter2": 1}},
        {"users": "hunter2"},
        {"users": {"a": ["hunter2"]}},
        {"headers": {"a": ["hunter2"]}},
        {"headers": "hunter2"},
        {"headers": ["hunter2"]},
        {"tokn": "hunter2"},
    ],
)
def test_secrets_are_in_no_error(values: dict[str, Any]) -> None:
    found = problems(values, Token)
    assert found
    assert "hunter2" not in "".join(found)


def test_a_short_secret_is_not_looked_for_in_other_words() -> None:
    """A tenant `1` or `o` would otherwise make a riddle of every error."""
    assert problems({"token": "o", "headers": {"a": "1"}}, Token) == [
        "token [REDACTED] with {'a': '[REDACTED]'}"
    ]


@pytest.mark.parametrize("given", ["5", 5, True, 5.5, "", None])
def test_a_secret_takes_what_a_string_takes(given: Any) -> None:
    text = "" if given is None else str(given)
    config = decode(Token, {"keys": [text], "users": {"a": given} if text else {}})
    assert config.keys == (Secret(text),)
    assert config.users == ({"a": Secret(text)} if text else {})
    assert encode(config, redact=True)["keys"] == ["[REDACTED]" if text else ""]
    assert decode(Token, encode(config, redact=False)) == config


def test_options_without_effect_are_noted() -> None:
    decoder = Decoder()
    decoder.struct(
        Whole, to_node({"tuned": 5, "tuned_part": {"size": 5}, "number": 5}), "a"
    )
    assert decoder.notes == [
        "a::tuned: has no effect here",
        "a::tuned_part: has no effect here",
    ]


def test_options_that_are_known_to_be_missing_say_why() -> None:
    """Nor is anything missing in their place."""
    decoder = Decoder()
    rules = [{"old": 1, "name": "x"}, {"old": 1}, {"odl": 1}]
    decoder.struct(Whole, to_node({"rules": rules}), "a")
    assert list(map(str, decoder.problems)) == [
        "a::rules[0]::old: not available in k8strace; write name",
        "a::rules[1]::old: not available in k8strace; write name",
        "a::rules[2]::odl: unknown option",
        "a::rules[2]::name: is missing",
    ]


def test_options_without_effect_may_say_why() -> None:
    decoder = Decoder()
    decoder.struct(Rule, to_node({"name": "x", "idle": 5}), "a")
    assert decoder.notes == ["a::idle: has no effect here: nothing is idle"]


def test_encoding() -> None:
    config = Whole(
        wait=Duration(0.2),
        tags=frozenset("ba"),
        ids=[ComponentID("a", "b")],
        text="${x} $$ $y",
        rules=(Rule(name="r"),),
        speed=Mode.SLOW,
        secret=Secret("hunter2"),
        headers={"a": "hunter2", "b": ""},
    )
    plain = encode(config, redact=True)
    assert plain["wait"] == "200ms"
    assert plain["tags"] == ["a", "b"]
    assert plain["ids"] == ["a/b"]
    assert plain["text"] == "$${x} $$$$ $$y"
    assert plain["rules"] == [{"name": "r", "rate": 1.0}]
    assert plain["speed"] == "slow"
    assert plain["secret"] == "[REDACTED]"
    assert plain["headers"] == {"a": "[REDACTED]", "b": ""}
    assert plain["off"] == {"enabled": False, "size": 3, "name": "off"}
    assert not {"optional", "unset", "maybe", "tuned", "tuned_part"} & plain.keys()
    assert encode(config, redact=False)["secret"] == "hunter2"


WHOLES = st.builds(
    Whole,
    number=st.integers(-(2**63), 2**63 - 1),
    real=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text().filter(lambda text: "$" not in text),
    wait=st.integers(-(2**50), 2**50).map(lambda n: Duration(n / 1e9)),
    maybe=st.none() | st.just("x"),
    names=st.lists(st.sampled_from(["a", "b,c", ""])).map(tuple),
    off=st.builds(Part, enabled=st.booleans(), size=st.integers(1, 9)),
    optional=st.none() | st.builds(Part, size=st.integers(1, 9)),
    unset=st.just(UNSET) | st.builds(Part, size=st.integers(1, 9)),
    rules=st.lists(st.builds(Rule, name=st.just("r"))).map(tuple),
    tuned=st.integers(0, 5),
)


@given(WHOLES)
def test_what_is_encoded_is_decoded_as_the_same(config: Whole) -> None:
    assert decode(Whole, encode(config, redact=False)) == config
