"""Each test of an engine runs with each engine."""

from __future__ import annotations

from types import ModuleType

import pytest

from k8strace.grpc import grpcio


@pytest.fixture(params=[grpcio], ids=lambda module: module.__name__.rpartition(".")[2])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module
