"""The table of options shows every option, its type, its default and its effect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from k8strace.component import NO_EFFECT, ComponentID, Config
from k8strace.components import COMPONENTS
from k8strace.config_options import Option, options
from k8strace.units import Duration


class Part(Config, frozen=True, kw_only=True):
    enabled: bool = True
    size: Annotated[int, msgspec.Meta(ge=1)] = 10


class Rule(Config, frozen=True, kw_only=True):
    name: str
    rate: float = 1.0


class Whole(Config, frozen=True, kw_only=True):
    number: int = 1
    text: str = "text"
    wait: Duration = Duration(5)
    mode: Literal["a", "b"] = "a"
    either: int | str = 0
    maybe: str | None = None
    anything: Any = None
    names: tuple[str, ...] = ("a",)
    ids: tuple[ComponentID, ...] = ()
    weights: dict[str, float] = msgspec.field(default_factory=dict)
    loose: dict = msgspec.field(default_factory=dict)  # type: ignore[type-arg]
    rules: tuple[Rule, ...] = ()
    rates: dict[str, Rule] = msgspec.field(default_factory=dict)
    off: Part = Part(enabled=False, size=3)
    optional: Part | None = None
    unset: Part | UnsetType | None = UNSET
    tuned: Annotated[int, NO_EFFECT] = 0
    tuned_part: Annotated[Part | None, NO_EFFECT] = None
    renamed: str = msgspec.field(default="", name="class")


def test_the_table() -> None:
    assert options(Whole) == [
        Option("number", "int", "1", True),
        Option("text", "string", "text", True),
        Option("wait", "duration", "5s", True),
        Option("mode", "one of a, b", "a", True),
        Option("either", "int or string", "0", True),
        Option("maybe", "string", "not set", True),
        Option("anything", "any", "not set", True),
        Option("names", "list of string", '["a"]', True),
        Option("ids", "list of id", "[]", True),
        Option("weights", "map of float", "{}", True),
        Option("loose", "map", "{}", True),
        Option("rules", "list of map", "[]", True),
        Option("rules[]::name", "string", "required", True),
        Option("rules[]::rate", "float", "1.0", True),
        Option("rates", "map of map", "{}", True),
        Option("rates::NAME::name", "string", "required", True),
        Option("rates::NAME::rate", "float", "1.0", True),
        Option("off", "map", "", True),
        Option("off::enabled", "bool", "false", True),
        Option("off::size", "int", "3", True),
        Option("optional", "map", "not set", True),
        Option("optional::enabled", "bool", "true", True),
        Option("optional::size", "int", "10", True),
        Option("unset", "map", "not set", True),
        Option("unset::enabled", "bool", "true", True),
        Option("unset::size", "int", "10", True),
        Option("tuned", "int", "0", False),
        Option("tuned_part", "map", "not set", False),
        Option("tuned_part::enabled", "bool", "true", False),
        Option("tuned_part::size", "int", "10", False),
        Option("class", "string", '""', True),
    ]


def test_every_component_has_a_table() -> None:
    for types in COMPONENTS.values():
        for component in types.values():
            table = options(component.config_type)
            assert len({option.path for option in table}) == len(table)
            assert all(option.type for option in table)
