"""The requests that are sent: made from a seed, or recorded from a kube-apiserver."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from random import Random

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.peers.matrix import KUBE, SAMPLED, Cell
from k8strace import _fastpath
from k8strace._codec import GZIP, Deflation

SEED = 20_261
HASH_SEED = 22  # the samplers'
RING_SPANS = 16_384  # so many are made before they repeat; a ring has 4 requests at least
RING_BYTES = 16 * 2**20  # about the most that a ring of larger spans has
EVENT_FROM = 300  # bytes; a smaller span has one attribute and no event
TEXT = 200  # bytes of an attribute that makes a span larger, as statements and errors do
RECORDED = Path("tests/data/kube")

START = 1_700_000_000_000_000_000  # ns
VERBS = ("GET", "LIST", "WATCH", "PUT", "PATCH", "POST")
RESOURCES = ("pods", "leases", "nodes", "endpointslices", "configmaps", "events")


class Request(msgspec.Struct, frozen=True):
    """`message` is as it goes over the wire, `size` its bytes before compression.

    `sampled` of its `spans` are what the sampler keeps.
    """

    message: bytes
    size: int
    spans: int
    sampled: int


def ring(cell: Cell) -> list[Request]:
    """Distinct requests, always the same ones, to be sent in turn."""
    if cell.payload == KUBE:
        bodies = [path.read_bytes() for path in sorted(RECORDED.glob("*.pb"))]
    else:
        spans, size = cell.spans, cell.span_size
        count = min(RING_SPANS, RING_BYTES // size) if size else RING_SPANS
        bodies = seeded(spans, max(count // spans, 4), size)
    return [_request(body, is_packed=cell.compression == "gzip") for body in bodies]


def seeded(spans: int, requests: int, size: int = 0) -> list[bytes]:
    """Requests of spans of about `size` bytes each.

    By default they have about 410 bytes, 8 attributes and an event.
    """
    random = Random(SEED)
    made = []
    for _ in range(requests):
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        for key, value in (("service.name", "apiserver"), ("host.name", "control-plane-1")):
            attribute = of_resource.resource.attributes.add(key=key)
            attribute.value.string_value = value
        of_scope = of_resource.scope_spans.add()
        of_scope.scope.name = "benchmark"
        of_scope.spans.extend(_span(random, size) for _ in range(spans))
        made.append(request.SerializeToString())
    return made


def _span(random: Random, size: int) -> Span:
    start = START + random.randrange(10**12)
    end = start + random.randrange(10**4, 10**8)
    verb = random.choice(VERBS)
    resource = random.choice(RESOURCES)
    path = f"/api/v1/namespaces/team-{random.randrange(400)}/{resource}/{_word(random)}"
    span = Span(
        trace_id=random.randbytes(16),
        span_id=random.randbytes(8),
        parent_span_id=random.randbytes(8),
        name=f"{verb} {resource}",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=start,
        end_time_unix_nano=end,
    )
    if 0 < size < EVENT_FROM:
        span.attributes.add(key="audit-id").value.string_value = _word(random)
        return span
    texts = {
        "http.request.method": verb,
        "url.path": path,
        "user_agent.original": "kubelet/v1.36.3",
        "client.address": f"10.{random.randrange(256)}.{random.randrange(256)}.7",
        "audit-id": _word(random),
        "network.protocol.version": "2",
    }
    for key, text in texts.items():
        span.attributes.add(key=key).value.string_value = text
    span.attributes.add(key="http.response.status_code").value.int_value = 200
    span.attributes.add(key="http.response.body.size").value.int_value = random.randrange(
        10**5
    )
    span.events.add(name="About to write a response", time_unix_nano=end - 1000)
    _enlarge(span, random, size)
    return span


def _enlarge(span: Span, random: Random, size: int) -> None:
    """Add attributes of `TEXT` bytes, or what is missing to about `size`."""
    while (missing := size - span.ByteSize()) > 0:
        attribute = span.attributes.add(key=f"detail.{len(span.attributes)}")
        around = 2 + attribute.ByteSize() + 6  # tags and lengths of the pair and its value
        text = random.randbytes(TEXT // 2).hex()
        attribute.value.string_value = text[: max(missing - around, 1)]


def _word(random: Random) -> str:
    return random.randbytes(6).hex()


def _request(body: bytes, *, is_packed: bool) -> Request:
    spans = _fastpath.count((body,)).spans
    sampled = _fastpath.sample((body,), _fastpath.HASH_SEED, SAMPLED, HASH_SEED, 4, True)
    message = _packed(body) if is_packed else body
    return Request(message, len(body), spans, sampled.kept)


def _packed(body: bytes) -> bytes:
    work = Deflation(GZIP, (body,))
    while not work.is_done:
        work.run()
    return work.take()


def total(requests: list[Request], count: int, of: str) -> int:
    """The sum of a field over the first `count` requests that go round the ring."""
    whole, rest = divmod(count, len(requests))
    values = [int(getattr(request, of)) for request in requests]
    return whole * sum(values) + sum(islice(cycle(values), rest))
