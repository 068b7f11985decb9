"""What every engine's server does for grpc-go, by itself and under OpenTelemetry's SDK."""

from __future__ import annotations

import asyncio
import json
import os
from types import ModuleType
from typing import Any

import pytest
from google.rpc.status_pb2 import Status

from k8strace.budget import Budget
from k8strace.grpc import Call, ServerKeepalive, native
from k8strace.grpc.status import Code, StatusError, retry_delay
from k8strace.units import Duration
from tests.support.backend import PATH
from tests.support.engine import MIB, ONE_LOOP, Rig
from tests.support.programs import built, go_client, output_of
from tests.support.spans import Spans

pytestmark = ONE_LOOP
SIZES = [0, 1, 1000, 65_535, 65_536, 4 * MIB]


def skip_unless_taken(engine: ModuleType, compression: str) -> None:
    if compression == "snappy" and engine is not native:
        pytest.skip("the engine grpcio does not take snappy")


@pytest.mark.parametrize("compression", ["", "gzip", "snappy"])
async def test_a_message_of_any_size(engine: ModuleType, compression: str) -> None:
    skip_unless_taken(engine, compression)
    async with Rig(engine) as rig, go_client(rig.address) as go:
        for size in SIZES:
            result = await go.call(PATH, size=size, compression=compression)
            assert (result.codes, result.echoed) == ({"OK": 1}, 1), (size, result)
            assert len(rig.calls[-1].message) == size


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["", "gzip", "snappy"])
async def test_the_largest_message_and_the_next(
    engine: ModuleType, compression: str
) -> None:
    skip_unless_taken(engine, compression)
    budget = Budget(256 * MIB)
    async with Rig(engine, budget=budget) as rig, go_client(rig.address) as go:
        result = await go.call(PATH, size=64 * MIB, compression=compression)
        assert (result.codes, result.echoed) == ({"OK": 1}, 1), result
        await rig.at_rest()
        result = await go.call(PATH, size=64 * MIB + 1, compression=compression)
        assert result.code == "ResourceExhausted"
        assert rig.reasons == ["msg_too_large"]
        assert (await go.call(PATH, size=10)).echoed == 1


@pytest.mark.parametrize("code", [code for code in Code if code])
async def test_every_status(engine: ModuleType, code: Code) -> None:
    async def answer(call: Call) -> bytes:
        raise StatusError(code, "100 % because\nünïcode: 花", 2.5)

    async with Rig(engine) as rig, go_client(rig.address) as go:
        rig.answer = answer
        result = await go.call(PATH, size=10)
        assert result.message == "100 % because\nünïcode: 花"
        assert result.details is not None
        status = Status.FromString(result.details)
        assert (status.code, status.message) == (code, result.message)
        assert retry_delay(result.details) == 2.5


async def test_metadata_and_deadline(engine: ModuleType) -> None:
    async with Rig(engine, include_metadata=True) as rig, go_client(rig.address) as go:
        before = asyncio.get_running_loop().time()
        await go.call(PATH, size=1, timeout=5000, metadata={"X-Tenant": "blue"})
        after = asyncio.get_running_loop().time()
        (call,) = rig.calls
        assert dict(call.origin.metadata)["x-tenant"] == "blue"
        assert call.deadline is not None
        assert before + 4 < call.deadline <= after + 5.1


async def hang(call: Call) -> bytes:
    await asyncio.Event().wait()
    return b""


@pytest.mark.parametrize(
    ("how", "code"), [("timeout", "DeadlineExceeded"), ("cancel", "Canceled")]
)
async def test_a_call_that_is_given_up_is_cancelled(
    engine: ModuleType, how: str, code: str
) -> None:
    cancelled = asyncio.Event()

    async def answer(call: Call) -> bytes:
        try:
            return await hang(call)
        finally:
            cancelled.set()

    async with Rig(engine) as rig, go_client(rig.address) as go:
        await go.call(PATH, size=1)  # the connection is there before the time begins
        rig.answer = answer
        assert (await go.call(PATH, size=100, **{how: 500})).code == code
        await asyncio.wait_for(cancelled.wait(), 20)
        await rig.at_rest()


async def test_an_unknown_method(engine: ModuleType) -> None:
    async with Rig(engine) as rig, go_client(rig.address) as go:
        assert (await go.call("/no.Such/Method")).code == "Unimplemented"
        assert rig.reasons == ["unknown_method"]


async def test_many_streams(engine: ModuleType) -> None:
    async with Rig(engine) as rig, go_client(rig.address) as go:
        result = await go.call(PATH, size=1000, count=3000, in_flight=1000)
        assert (result.codes, result.echoed) == ({"OK": 3000}, 3000)
        assert len({call.origin.peer for call in rig.calls}) == 1


@pytest.mark.slow
async def test_nothing_is_lost_where_connections_end_at_their_age(
    engine: ModuleType,
) -> None:
    keepalive = ServerKeepalive(
        max_connection_age=Duration(0.1), max_connection_age_grace=Duration(20)
    )
    async with Rig(engine, keepalive=keepalive) as rig, go_client(rig.address) as go:
        async with asyncio.timeout(60):
            while len({call.origin.peer for call in rig.calls}) < 4:
                result = await go.call(
                    PATH, size=100, count=10_000, in_flight=10, wait=True
                )
                assert result.codes == {"OK": 10_000}, result


@pytest.mark.slow
async def test_keepalive_pings(engine: ModuleType) -> None:
    """The server pings while a call hangs; its connection lives on."""
    keepalive = ServerKeepalive(time=Duration(1), timeout=Duration(5))
    async with Rig(engine, keepalive=keepalive) as rig, go_client(rig.address) as go:
        rig.answer = hang
        assert (await go.call(PATH, size=1, timeout=2500)).code == "DeadlineExceeded"
        rig.answer = None
        assert (await go.call(PATH, size=1)).code == "OK"
        assert len({call.origin.peer for call in rig.calls}) == 1


async def export(rig: Rig, *options: str, **env: str) -> str:
    """What the SDK's exporter says went wrong."""
    command = (built("grpcpeer"), "export", "-target", rig.address, *options)
    status, out = await output_of(*command, env={**os.environ, **env})
    assert status == 0
    error: str = json.loads(out)["error"]
    return error


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_the_exporter_of_kubernetes(engine: ModuleType, compression: str) -> None:
    async with Rig(engine, include_metadata=True) as rig:
        rig.answer = spans = Spans()
        env = {
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=blue",
        }
        assert await export(rig, "-spans", "2000", **env) == ""
        assert len(spans.ids) == 2000
        metadata: dict[str, Any] = dict(rig.calls[0].origin.metadata)
        assert metadata["x-tenant"] == "blue"


async def test_the_exporter_tries_again_what_is_refused(engine: ModuleType) -> None:
    async with Rig(engine) as rig:
        rig.answer = spans = Spans(refusals=1)
        assert await export(rig, "-spans", "100", "-retry", "100ms") == ""
        assert len(spans.ids) == 100
        assert len(rig.calls) == 2
