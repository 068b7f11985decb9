"""The table of components."""

from pathlib import Path

import pytest

from k8strace.components import COMPONENTS, _table
from k8strace.config import load
from k8strace.errors import ConfigError
from k8strace.exporters.nop import Nop


def test_old_and_new_spellings_are_the_same_component() -> None:
    exporters = COMPONENTS["exporters"]
    assert exporters["otlp"] is exporters["otlp_grpc"]
    assert exporters["logging"] is exporters["debug"]


def test_kinds() -> None:
    assert list(COMPONENTS) == ["receivers", "processors", "exporters", "extensions"]
    for kind, types in COMPONENTS.items():
        assert types
        assert all(component.kind == kind for component in types.values())


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two exporters are called nop"):
        _table((Nop, ()), (Nop, ()))
    with pytest.raises(ValueError, match="two exporters are called nop"):
        _table((Nop, ("nop",)))


CASES = Path(__file__).with_name("config") / "components"


@pytest.mark.parametrize("path", sorted(CASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_mistakes_in_a_components_options(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comments at the head of each file say what must be reported, in this order."""
    monkeypatch.chdir(CASES)
    head = [
        line for line in path.read_text().splitlines() if line.startswith("# problem: ")
    ]
    assert head
    with pytest.raises(ConfigError) as caught:
        load([path.name])
    assert caught.value.problems == [
        line[11:].replace("{file}", path.name) for line in head
    ]


def test_every_component_has_a_case() -> None:
    known = {one.type_name for types in COMPONENTS.values() for one in types.values()}
    assert {path.stem for path in CASES.glob("*.yaml")} == known
