"""A run of a real gateway, and how large runs are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.peers.configs import Places
from benchmarks.peers.matrix import Cell, cells
from benchmarks.peers.measure import Helpers, measure, requests_of
from benchmarks.peers.processes import SideError, family, helper
from benchmarks.peers.sides import Kind, available

CELL = Cell("forward", "gzip", "512")


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    spec = msgspec.json.encode(CELL).decode()
    with (
        helper("benchmarks.peers.sink") as sink,
        helper("benchmarks.peers.load", spec) as generator,
    ):
        address = sink.line()
        assert generator.line() == "ready"
        yield Helpers(generator, sink, address)


def failing(*command: str) -> Kind:
    def make(cell: Cell, places: Places, folder: Path) -> list[str]:
        return [one.format(listen=places.listen) for one in command]

    return Kind("failing", "Failing", "1", make, has_metrics=False)


def test_runs_are_sized_by_time_or_by_what_the_collector_spends() -> None:
    sizes = {cell.name: requests_of(cell) for cell in cells()}
    assert sizes["receive/none/1"] == 71_000
    assert sizes["receive/none/512"] == 2_500
    assert sizes["forward/gzip/4096"] == 60
    assert sizes["memory-forward/none/512"] == 0


@pytest.mark.slow
def test_a_gateway_is_measured(helpers: Helpers) -> None:
    ours = available({})[0]
    assert isinstance(ours, Kind)
    before = set(family(os.getpid()))
    run = measure(CELL, ours, helpers)
    assert run is not None
    assert (run.requests, run.spans) == (requests_of(CELL), requests_of(CELL) * 512)
    assert run.arrived == run.expected == run.spans
    assert 0 < run.wire_size < run.size
    assert 0 < run.sent_requests < run.requests
    assert min(run.cpu, run.seconds, run.generator_cpu) > 0
    assert run.peak > 10 * 2**20
    assert set(family(os.getpid())) <= before


def test_a_side_that_ends_is_an_error_with_its_log(helpers: Helpers) -> None:
    kind = failing(sys.executable, "-c", "raise SystemExit('no such option')")
    with pytest.raises(SideError, match="ended with 1: no such option"):
        measure(CELL, kind, helpers)


NO_GRPC = """
import socket, sys
host, port = sys.argv[1].split(":")
server = socket.create_server((host, int(port)))
while True:
    server.accept()[0].close()
"""


def test_a_side_that_speaks_no_grpc_is_an_error(helpers: Helpers) -> None:
    kind = failing(sys.executable, "-c", NO_GRPC, "{listen}")
    for _ in range(2):  # and the generator is good for the next
        with pytest.raises(SideError, match="the connection was lost"):
            measure(CELL, kind, helpers)
