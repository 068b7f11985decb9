"""One run: a side in fresh processes, warmed up, then measured while it takes the load."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.peers.configs import Places
from benchmarks.peers.load import Failed, Order, Sent
from benchmarks.peers.matrix import Cell
from benchmarks.peers.processes import Helper, Side, SideError, free_addresses, side
from benchmarks.peers.sides import ACCEPTED, BATCHED, Kind
from benchmarks.peers.sink import Arrived

CONNECTIONS = 4
IN_FLIGHT = 8  # requests a connection
RUN_SECONDS = 3.0  # of CPU that the slowest side spends on a run, roughly
KUBE_SPANS = 280  # a request, in the mean
WARM_UP = 5  # a fifth of the load before it is measured
SETTLE = 0.4  # seconds: longer than a batch waits
GIVE_UP = 10.0  # seconds without a span until the rest is lost
POLL = 0.01

# What the Collector spends: seconds a request, and a span by what is done with it.
PER_REQUEST = 40e-6
PER_BYTE = 6e-9  # of spans whose size is varied
PER_SPAN = {
    ("receive", "none"): 2.3e-6,
    ("receive", "gzip"): 3.0e-6,
    ("http", "none"): 2.3e-6,
    ("sample", "none"): 3.6e-6,
    ("sample", "gzip"): 4.3e-6,
    ("forward", "none"): 3.4e-6,
    ("forward", "gzip"): 12e-6,
    ("store", "none"): 8e-6,
}


class Run(msgspec.Struct, frozen=True):
    """What a run cost and did, the warm-up left out of all but `peak`.

    Times are seconds: `cpu` is user and system of all processes of the side, `seconds`
    what the load took, until the backend had the last span. `arrived` are the spans that
    came out at the end, None where nobody can say; `expected` is how many should. `p50` and
    `p99` are of the time until an answer. Sizes are bytes; `wire_size` is all that the side
    sent to the backend over TCP.
    """

    requests: int
    spans: int
    size: int
    refused: int
    cpu: float
    seconds: float
    generator_cpu: float
    arrived: int | None
    expected: int
    sent_requests: int
    wire_size: int
    peak: int
    p50: float = 0.0
    p99: float = 0.0


def requests_of(cell: Cell) -> int:
    """How many requests a run has; 0 where it is the time that is given."""
    if cell.seconds:
        return 0
    spans = cell.spans or KUBE_SPANS
    of_span = PER_SPAN[cell.scenario, cell.compression] + PER_BYTE * cell.span_size
    cost = PER_REQUEST + spans * of_span
    count = int(RUN_SECONDS / cost)
    return max(int(float(f"{count:.1e}")), 1)


class Helpers(msgspec.Struct, frozen=True):
    """The generator of the cell's load, and the backend that listens on `address`."""

    generator: Helper
    sink: Helper
    address: str


def measure(cell: Cell, kind: Kind, helpers: Helpers) -> Run | None:
    """None for what the side can't do. Raises SideError when it fails."""
    listen, metrics, spare = free_addresses(3)
    with TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        places = Places(listen, metrics, helpers.address, spare, name)
        command = kind.command(cell, places, folder)
        if command is None:
            return None
        with side(command, folder / "log") as one:
            one.wait_until_it_listens(listen)
            return _measure(cell, kind, places, one, helpers)


def _measure(cell: Cell, kind: Kind, places: Places, one: Side, helpers: Helpers) -> Run:
    sink = helpers.sink

    def load(requests: int, seconds: float) -> Sent:
        order = Order(places.listen, requests, seconds, CONNECTIONS, IN_FLIGHT)
        answer: Sent | Failed = helpers.generator.ask(order, Sent | Failed)
        one.check()
        if isinstance(answer, Failed):
            raise SideError(f"{answer.why}: {one.tail()}")
        return answer

    requests = requests_of(cell)
    start: Arrived = sink.ask(None, Arrived)
    warm = load(max(requests // WARM_UP, 1) if requests else 0, 1.0)
    before = _settle(cell, sink, start.spans + warm.spans)
    cpu_before = one.cpu()
    began = time.monotonic()
    sent = load(requests, cell.seconds)
    after = _settle(cell, sink, before.spans + sent.spans)
    seconds = time.monotonic() - began if cell.is_sent else sent.seconds
    cpu = one.cpu() - cpu_before
    arrived: int | None = after.spans - before.spans
    expected = sent.spans
    if not cell.is_sent:
        arrived = None
        if kind.has_metrics:
            is_sampled = cell.scenario == "sample"
            total = scrape(places.metrics, BATCHED if is_sampled else ACCEPTED)
            arrived = total - (warm.sampled if is_sampled else warm.spans)
            expected = sent.sampled if is_sampled else sent.spans
    return Run(
        requests=sent.requests,
        spans=sent.spans,
        size=sent.size,
        refused=sent.refused,
        cpu=cpu,
        seconds=seconds,
        generator_cpu=sent.cpu_seconds,
        arrived=arrived,
        expected=expected,
        sent_requests=after.requests - before.requests,
        wire_size=after.wire_size - before.wire_size,
        peak=one.peak(),
        p50=sent.p50,
        p99=sent.p99,
    )


def _settle(cell: Cell, sink: Helper, spans: int) -> Arrived:
    """Wait until all that was sent went its way; of what is forwarded, until it came."""
    if not cell.is_sent:
        time.sleep(SETTLE)
    arrived: Arrived = sink.ask(None, Arrived)
    if not cell.is_sent:
        return arrived
    end = time.monotonic() + GIVE_UP
    while arrived.spans < spans and time.monotonic() < end:
        time.sleep(POLL)
        count = arrived.spans
        arrived = sink.ask(None, Arrived)
        if arrived.spans > count:
            end = time.monotonic() + GIVE_UP
    return arrived


def scrape(address: str, name: str) -> int:
    """The sum of a series over all labels."""
    with urlopen(f"http://{address}/metrics", timeout=10) as response:
        text = response.read().decode()
    return int(
        sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.removesuffix("_total") == name
        )
    )
