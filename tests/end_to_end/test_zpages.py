"""Pages, metrics and log agree about what was lost, in one process and in several."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from typing import Any

import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from k8strace.grpc.status import Code, StatusError
from tests.end_to_end.conftest import Start
from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.gateway import GatewayProcess, Samples
from tests.support.requests import request
from tests.support.workers import processes

ZPAGES = (
    *("--set", "extensions.zpages.endpoint=127.0.0.1:0"),
    *("--set", "service.extensions=[health_check, zpages]"),
    *("--set", "service.telemetry.logs.encoding=json"),
)
WORKERS = ("--workers", "2")
Reasons = Counter[tuple[str, str]]  # by component and reason


async def page(gateway: GatewayProcess, name: str) -> Any:
    address = await gateway.address("zpages")
    status, text = await gateway.get(f"http://{address}/debug/{name}?format=json")
    assert status == 200
    return json.loads(text)


async def dropz(gateway: GatewayProcess, what: str) -> tuple[Reasons, Reasons]:
    """What the page says: how many in all, and how many in the last minute."""
    in_all: Reasons = Counter()
    lately: Reasons = Counter()
    for row in (await page(gateway, "dropz"))["losses"]:
        if row["what"] == what:
            where = f"{row['kind']}/{row['component']}", row["reason"]
            in_all[where] += row["total"]
            lately[where] += row["last_minute"]
    return in_all, lately


def counted(samples: Samples, name: str) -> Reasons:
    """What the metrics say."""
    return Counter(
        {
            (
                f"{one.labels.get('kind', 'receivers')}/{one.labels['component']}",
                one.labels["reason"],
            ): int(one.value)
            for one in samples.samples
            if one.name == name and one.value
        }
    )


def said(gateway: GatewayProcess, unit: str, start: str) -> Reasons:
    """What the lines of the log that begin so add up to."""
    found: Reasons = Counter()
    for line in map(json.loads, gateway.log):
        if line["msg"].startswith(start):
            found[line["component"], line["reason"]] += line[unit]
    return found


async def answer(message: ExportTraceServiceRequest) -> ExportTraceServiceResponse | None:
    """Do what the service's name says."""
    service = message.resource_spans[0].resource.attributes[0].value.string_value
    response = ExportTraceServiceResponse()
    if service == "unwanted":
        raise StatusError(Code.INVALID_ARGUMENT, "no such <tenant>\nat all")
    if service == "half":
        response.partial_success.rejected_spans = 2
        response.partial_success.error_message = "two are too old"
    return response


async def lose(gateway: GatewayProcess, times: int) -> None:
    """So often: 1 span with an invalid id, 3 and 2 that the backend refuses, 1 request."""
    for _ in range(times):
        async with Client(await gateway.address("grpc")) as client:
            invalid = request(2, service="zeros & ones")
            invalid.resource_spans[0].scope_spans[0].spans[1].span_id = bytes(8)
            partial = (await client.send(invalid)).partial_success
            assert partial.rejected_spans == 1
            await client.send(request(3, service="unwanted"))
            await client.send(request(4, service="half"))
            with pytest.raises(grpc.aio.AioRpcError):
                await client.send(b"\x1f")


def expected(times: int) -> Reasons:
    return Counter(
        {
            ("receivers/otlp", "invalid_id"): times,
            ("exporters/otlp", "permanent_error"): 3 * times,
            ("exporters/otlp", "partial_success"): 2 * times,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("several", [(), WORKERS], ids=["one process", "workers"])
async def test_pages_metrics_and_log_agree(start: Start, several: tuple[str, ...]) -> None:
    times = 8
    async with Backend() as backend:
        backend.answer = answer
        async with start(backend.endpoint, *ZPAGES, *several, processors={}) as gateway:
            await lose(gateway, times)
            samples = await gateway.at_rest()
            in_all, lately = await dropz(gateway, "dropped")
            assert in_all == lately == expected(times)
            assert in_all == counted(samples, "k8strace_spans_dropped_total")
            requests, _ = await dropz(gateway, "requests")
            assert requests == {("receivers/otlp", "decode_error"): times}
            assert requests == counted(samples, "k8strace_requests_rejected_total")
            losses = (await page(gateway, "dropz"))["losses"]
            taken = {row["reason"]: row["sample"] for row in losses}
            assert all(one["peer"].startswith("127.0.0.1:") for one in taken.values())
            services = {reason: one["service"] for reason, one in taken.items()}
            assert services == {
                "invalid_id": "zeros & ones",
                "permanent_error": "unwanted",
                "partial_success": "half",
                "decode_error": "",
            }
            assert "no such <tenant>\\nat all" in taken["permanent_error"]["text"]
            _, html = await gateway.get(
                f"http://{await gateway.address('zpages')}/debug/dropz"
            )
            assert "no such &lt;tenant&gt;\\nat all" in html
            assert "<td>zeros &amp; ones</td>" in html
            (pipeline,) = (await page(gateway, "pipelinez"))["pipelines"]
            receiver, exporter = pipeline["components"]
            assert receiver["spans"]["in"] == 9 * times
            assert exporter["spans"]["dropped"] == 5 * times
            assert exporter["queue"]["capacity"] == 1000 * (2 if several else 1)
            service = await page(gateway, "servicez")
            assert service["pipelines"][0]["promise"] == "in memory"
            assert service["workers"].get("ready", 0) == (2 if several else 0)
            assert backend.endpoint in service["configuration"]
            assert await gateway.stop() == 0
    assert said(gateway, "spans", "dropped spans: ") == expected(times)
    assert said(gateway, "requests", "rejected requests: ") == requests
    lines = sum("dropped spans: " in line for line in gateway.log)
    # At once, and what was left at the end: of each reason, and each process.
    assert lines <= 2 * 3 * (2 if several else 1)


@pytest.mark.slow
async def test_what_a_worker_took_with_it_is_shown(start: Start) -> None:
    async def hang(_: ExportTraceServiceRequest) -> None:
        await asyncio.Event().wait()

    async with Backend() as backend:
        backend.answer = hang
        async with start(backend.endpoint, *ZPAGES, *WORKERS, processors={}) as gateway:
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(7))
            await gateway.wait_for_metric("k8strace_spans_parked", 7)
            for pid in processes(gateway).values():
                os.kill(pid, signal.SIGKILL)
            await gateway.at_rest()
            in_all, _ = await dropz(gateway, "dropped")
            assert in_all == {("exporters/otlp", "worker_died"): 7}
            assert await gateway.stop() == 0
    assert said(gateway, "spans", "dropped spans: ") == in_all


@pytest.mark.slow
async def test_a_reload_keeps_what_is_known(start: Start) -> None:
    async with Backend() as backend:
        backend.answer = answer
        async with start(backend.endpoint, *ZPAGES, processors={}) as gateway:
            await lose(gateway, 1)
            await gateway.at_rest()
            before = await dropz(gateway, "dropped")
            seen = len(gateway.log)
            gateway.signal(signal.SIGHUP)
            await gateway.wait_until_ready(after=seen)
            address = await gateway.wait_for_log(r"zpages on http://(\S+:\d+)", after=seen)
            _, text = await gateway.get(f"http://{address[1]}/debug/dropz?format=json")
            rows = json.loads(text)["losses"]
            found = {one["reason"]: one for one in rows if one["what"] == "dropped"}
            assert sum(one["total"] for one in found.values()) == before[0].total() == 6
            assert sum(one["last_minute"] for one in found.values()) == 6
            assert found["invalid_id"]["sample"]["service"] == "zeros & ones"
            assert await gateway.stop() == 0
