"""Runs as the benchmarks beside rivals measure them."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.peers.measure import Run

RUN = Run(
    requests=100,
    spans=1000,
    size=400_000,
    refused=0,
    cpu=1.0,
    seconds=2.0,
    generator_cpu=0.1,
    arrived=1000,
    expected=1000,
    sent_requests=1,
    wire_size=410_000,
    peak=50 * 2**20,
    p50=0.001,
    p99=0.002,
)


def run(**changed: Any) -> Run:
    """A run of 100 requests of 10 spans that took a second of CPU, but for `changed`."""
    return msgspec.structs.replace(RUN, **changed)
