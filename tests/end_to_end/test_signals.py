"""SIGTERM, SIGINT, SIGHUP: what was acknowledged is delivered or counted."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.grpc.status import Code, StatusError
from tests.end_to_end.conftest import Start
from tests.support.backend import Backend
from tests.support.clients import Client
from tests.support.requests import request, span_ids


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_under_load_loses_nothing(
    start: Start, number: signal.Signals
) -> None:
    acknowledged: set[bytes] = set()

    async def load(endpoint: str) -> None:
        async with Client(endpoint) as client:
            for _ in range(2000):
                message = request(20)
                try:
                    await client.send(message)
                except grpc.aio.AioRpcError:
                    return
                acknowledged.update(span_ids(message))

    async def slowly(message: ExportTraceServiceRequest) -> None:
        await asyncio.sleep(0.005)

    async with Backend() as backend:
        backend.answer = slowly
        async with start(backend.endpoint) as gateway:
            endpoint = await gateway.address("grpc")
            clients = [asyncio.ensure_future(load(endpoint)) for _ in range(4)]
            await backend.wait_for_spans(500)
            gateway.signal(number)
            await asyncio.gather(*clients)
            assert await gateway.wait() == 0
            await gateway_said(gateway.log, "everything taken was delivered")
    assert len(acknowledged) >= 500
    assert acknowledged <= set(backend.ids)


async def gateway_said(log: list[str], text: str) -> None:
    assert any(text in line for line in log), "\n".join(log)


async def test_a_backend_that_comes_back_during_the_drain_gets_everything(
    start: Start,
) -> None:
    async with Backend() as backend:
        slow = {"initial_interval": "60s", "max_interval": "60s"}
        async with start(backend.endpoint, retry_on_failure=slow) as gateway:
            await backend.stop()
            ids: set[bytes] = set()
            async with Client(await gateway.address("grpc")) as client:
                for _ in range(30):
                    message = request(10)
                    await client.send(message)
                    ids.update(span_ids(message))
            gateway.signal(signal.SIGTERM)
            await gateway.wait_for_log("draining")
            await gateway.wait_for_log("did not take")
            await backend.start()
            assert await gateway.wait() == 0
            await gateway_said(gateway.log, "everything taken was delivered")
    assert set(backend.ids) == ids


async def test_what_cannot_be_delivered_is_printed_and_counted(start: Start) -> None:
    async def refuse(message: ExportTraceServiceRequest) -> None:
        raise StatusError(Code.UNAVAILABLE, "closed")

    async with Backend() as backend:
        backend.answer = refuse
        async with start(backend.endpoint, "--shutdown-timeout", "1") as gateway:
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(30))
            assert await gateway.stop() == 0
            await gateway_said(gateway.log, "30 spans could not be delivered")


async def test_a_second_signal_stops_at_once(start: Start) -> None:
    async def hang(message: ExportTraceServiceRequest) -> None:
        await asyncio.Event().wait()

    async with Backend() as backend:
        backend.answer = hang
        async with start(backend.endpoint, "--shutdown-timeout", "60") as gateway:
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(30))
            gateway.signal(signal.SIGTERM)
            await gateway.wait_for_log("draining")
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait(20) == 130
            await gateway_said(gateway.log, "30 spans were not delivered")


async def test_not_ready_while_draining(start: Start) -> None:
    is_released = asyncio.Event()

    async def late(message: ExportTraceServiceRequest) -> None:
        await is_released.wait()

    async with Backend() as backend:
        backend.answer = late
        async with start(backend.endpoint, "--shutdown-timeout", "60") as gateway:
            url = f"http://{await gateway.address('health')}/"
            assert (await gateway.get(url))[0] == 200
            async with Client(await gateway.address("grpc")) as client:
                await client.send(request(30))
                gateway.signal(signal.SIGTERM)
                await gateway.wait_for_log("draining")
                assert (await gateway.get(url))[0] == 503
                is_released.set()
            assert await gateway.wait() == 0


async def test_sighup_reloads_and_a_bad_configuration_changes_nothing(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.yaml"
    async with Backend() as backend, start(backend.endpoint) as gateway:
        good = path.read_text()
        async with Client(await gateway.address("grpc")) as client:
            await client.send(request(10))
            path.write_text(
                good.replace("processors:\n      - batch", "processors:\n      - btch")
            )
            gateway.signal(signal.SIGHUP)
            await gateway.wait_for_log("reload refused")
            assert any('references processor "btch"' in line for line in gateway.log)
            await client.send(request(10))
        await backend.wait_for_spans(20)
        path.write_text(good.replace("timeout: 20ms", "timeout: 10ms"))
        before = len(gateway.log)
        gateway.signal(signal.SIGHUP)
        await gateway.wait_until_ready(after=before)
        address = (await gateway.wait_for_log(r"grpc on (\S+)", after=before))[1]
        async with Client(address) as client:
            await client.send(request(10))
        await backend.wait_for_spans(30)
        metrics = (await gateway.wait_for_log(r"metrics on http://(\S+?)/", after=before))[
            1
        ]
        _, text = await gateway.get(f"http://{metrics}/metrics")
        # Counters outlive the reload.
        assert "otelcol_receiver_accepted_spans_total{" in text
        accepted = next(
            line
            for line in text.splitlines()
            if line.startswith("otelcol_receiver_accepted_spans_total{")
            and 'transport="grpc"' in line
        )
        assert accepted.endswith(" 30.0")
        assert await gateway.stop() == 0
