"""What is known of versions, in one piece."""

from __future__ import annotations

from k8strace.kube.tracing_config import VERSIONS
from k8strace.kube.versions import APISERVER_TRACING, FIRST_VERSIONS, KUBELET_TRACING, shown


def test_gates_grow_up_in_order() -> None:
    for gate in (APISERVER_TRACING, KUBELET_TRACING):
        assert gate.first < gate.on < gate.locked < gate.gone


def test_every_version_of_the_configuration_has_a_first() -> None:
    assert tuple(FIRST_VERSIONS) == VERSIONS
    assert [shown(one) for one in FIRST_VERSIONS.values()] == ["1.22", "1.27", "1.34"]
