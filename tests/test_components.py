"""The table of components."""

import pytest

from k8strace.components import COMPONENTS, _table
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
