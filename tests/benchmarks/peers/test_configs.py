"""Each side's configuration is one that it takes, and asks the same of all."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import yaml

from benchmarks.peers import configs
from benchmarks.peers.configs import Places
from benchmarks.peers.matrix import Cell, Compression, Scenario, cells
from tests.support.gateway import run_gateway

PLACES = Places("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", "/tmp")


def pipeline(config: dict[str, Any]) -> list[str]:
    traces = config["service"]["pipelines"]["traces"]
    return [*traces["processors"], *traces["exporters"]]


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("receive", ["nop"]),
        ("http", ["nop"]),
        ("sample", ["probabilistic_sampler", "batch", "nop"]),
        ("forward", ["batch", "otlp_grpc"]),
        ("store", ["otlp_grpc"]),
    ],
)
def test_pipelines(scenario: Scenario, expected: list[str]) -> None:
    cell = Cell(scenario, "none", "512")
    assert pipeline(configs.collector(cell, PLACES)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells((512,)), ids=lambda cell: cell.name)
async def test_the_gateway_takes_them(cell: Cell, tmp_path: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(configs.collector(cell, PLACES)))
    status, _, err = await run_gateway("validate", "--config", str(path))
    assert (status, err) == (0, "")


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_what_is_sent_is_compressed_as_the_cell_says(compression: Compression) -> None:
    cell = Cell("forward", compression, "512")
    exporter = configs.collector(cell, PLACES)["exporters"]["otlp_grpc"]
    assert exporter["compression"] == compression
    rotel = configs.rotel(cell, PLACES)
    assert rotel is not None
    assert rotel[rotel.index("--otlp-exporter-compression") + 1] == compression
    df_engine = configs.df_engine(cell, PLACES)
    assert df_engine is not None
    nodes = df_engine["groups"]["default"]["pipelines"]["main"]["nodes"]
    assert nodes["exporter"]["config"].get("compression", "none") == compression


def test_the_dataflow_engine_has_all_its_nodes_in_a_row() -> None:
    for scenario, way in (
        ("receive", ["receiver", "exporter"]),
        ("forward", ["receiver", "batch", "exporter"]),
    ):
        config = configs.df_engine(Cell(scenario, "none", "1"), PLACES)  # type: ignore[arg-type]
        assert config is not None
        main = config["groups"]["default"]["pipelines"]["main"]
        assert list(main["nodes"]) == way
        steps = [(one["from"], one["to"]) for one in main["connections"]]
        assert steps == list(pairwise(way))


def test_requests_come_by_the_protocol_of_the_cell() -> None:
    cell = Cell("http", "none", "1")
    protocols = configs.collector(cell, PLACES)["receivers"]["otlp"]["protocols"]
    assert protocols == {"http": {"endpoint": PLACES.listen}}
    rotel = configs.rotel(cell, PLACES)
    assert rotel is not None
    assert rotel[rotel.index("--otlp-http-endpoint") + 1] == PLACES.listen
    assert rotel[rotel.index("--otlp-grpc-endpoint") + 1] == PLACES.spare
    assert configs.df_engine(cell, PLACES) is None


def test_who_has_no_sampler_says_so() -> None:
    cell = Cell("sample", "none", "512")
    assert configs.rotel(cell, PLACES) is None
    assert configs.df_engine(cell, PLACES) is None
