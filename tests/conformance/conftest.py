"""Each test of an engine runs with each engine, and on each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import ModuleType

import pytest
import uvloop

from k8strace.grpc import grpcio, native

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(
    params=[grpcio, native], ids=lambda module: module.__name__.rpartition(".")[2]
)
def engine(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
