"""How each side is told to do a cell's work."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec

from benchmarks.peers.matrix import SAMPLED, Cell
from benchmarks.peers.payloads import HASH_SEED

BATCH = {"timeout": "200ms", "send_batch_size": 8192}
BATCH_BYTES = 8192 * 412  # as many spans, for an engine that doesn't count them
# Or the Collector drops what it has answered for.
QUEUE: dict[str, Any] = {"block_on_overflow": True}


class Places(msgspec.Struct, frozen=True):
    """Addresses, host:port: where a side listens, its metrics, and where it sends to; and a
    folder of its own."""

    listen: str
    metrics: str
    sink: str
    spare: str
    """A free port for what cannot be turned off."""
    folder: str


def collector(cell: Cell, places: Places) -> dict[str, Any]:
    """The Collector's configuration, which k8strace takes as it is."""
    processors: dict[str, Any] = {}
    exporters: dict[str, Any] = {"nop": {}}
    extensions: dict[str, Any] = {}
    queue = QUEUE
    if cell.scenario == "sample":
        processors["probabilistic_sampler"] = {
            "sampling_percentage": SAMPLED,
            "mode": "hash_seed",
            "hash_seed": HASH_SEED,
        }
    if cell.scenario == "store":
        extensions["file_storage"] = {"directory": places.folder}
        queue = {**QUEUE, "storage": "file_storage"}
    elif cell.scenario not in ("receive", "http"):
        processors["batch"] = BATCH
    if cell.is_sent:
        exporters = {
            "otlp_grpc": {
                "endpoint": places.sink,
                "tls": {"insecure": True},
                "compression": cell.compression,
                "sending_queue": queue,
            }
        }
    host, _, port = places.metrics.rpartition(":")
    prometheus = {"host": host, "port": int(port)}
    return {
        "receivers": {"otlp": {"protocols": {cell.protocol: {"endpoint": places.listen}}}},
        "processors": processors,
        "exporters": exporters,
        "extensions": extensions,
        "service": {
            "extensions": list(extensions),
            "telemetry": {
                "logs": {"level": "warn"},
                "metrics": {
                    "readers": [{"pull": {"exporter": {"prometheus": prometheus}}}]
                },
            },
            "pipelines": {
                "traces": {
                    "receivers": ["otlp"],
                    "processors": list(processors),
                    "exporters": list(exporters),
                }
            },
        },
    }


def rotel(cell: Cell, places: Places) -> list[str] | None:
    """Rotel's arguments; None for what it can't do."""
    other = "grpc" if cell.protocol == "http" else "http"
    arguments = [
        *("start", f"--otlp-{cell.protocol}-endpoint", places.listen),
        *(f"--otlp-{other}-endpoint", places.spare),
    ]
    if cell.scenario in ("receive", "http"):
        return [*arguments, "--exporter", "blackhole", "--disable-batching"]
    if cell.scenario == "forward":
        return [
            *arguments,
            *("--batch-max-size", str(BATCH["send_batch_size"])),
            *("--batch-timeout", str(BATCH["timeout"])),
            *("--exporter", "otlp", "--otlp-exporter-protocol", "grpc"),
            *("--otlp-exporter-endpoint", f"http://{places.sink}"),
            *("--otlp-exporter-compression", cell.compression),
        ]
    return None


def df_engine(cell: Cell, places: Places) -> dict[str, Any] | None:
    """The configuration of otel-arrow's Dataflow Engine; None for what it can't do."""
    if cell.scenario in ("http", "sample", "store"):
        return None
    receiver = {"protocols": {"grpc": {"listening_addr": places.listen}}}
    nodes: dict[str, Any] = {"receiver": {"type": "receiver:otlp", "config": receiver}}
    if cell.scenario == "forward":
        otlp = {"sizer": "bytes", "min_size": BATCH_BYTES}
        batch = {"max_batch_duration": BATCH["timeout"], "otlp": otlp}
        exporter = {"grpc_endpoint": f"http://{places.sink}"}
        if cell.compression == "gzip":
            exporter["compression"] = "gzip"
        nodes["batch"] = {"type": "processor:batch", "config": batch}
        nodes["exporter"] = {"type": "exporter:otlp_grpc", "config": exporter}
    else:
        nodes["exporter"] = {"type": "exporter:noop", "config": None}
    names = list(nodes)
    connections = [{"from": one, "to": other} for one, other in pairwise(names)]
    main = {"nodes": nodes, "connections": connections}
    return {
        "version": "otel_dataflow/v1",
        "engine": {},
        "groups": {"default": {"pipelines": {"main": main}}},
    }
