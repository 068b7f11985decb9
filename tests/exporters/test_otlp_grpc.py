"""The OTLP/gRPC exporter against a real backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from k8strace.component import Promise
from k8strace.errors import RefusedError, RejectedError
from k8strace.exporters.otlp_grpc import HEADROOM, OtlpGrpc
from k8strace.grpc import native_client
from k8strace.grpc.compression import compress
from k8strace.grpc.status import ABOUT_CALLER, RETRYABLE, Code, StatusError
from k8strace.payload import Payload
from k8strace.units import MIB
from tests.support.backend import Backend
from tests.support.pipeline import until
from tests.support.requests import parse, span_ids
from tests.support.sending import Rig, running_as

INSECURE = {"insecure": True}
BATCH = {"batch": {"flush_timeout": "1h", "min_size": 50}}
DIRECT = {"sending_queue": {"enabled": False}, "retry_on_failure": {"enabled": False}}
PERMANENT = [
    code
    for code in Code
    if code not in RETRYABLE and code not in (Code.OK, Code.RESOURCE_EXHAUSTED)
]


@asynccontextmanager
async def exporting(backend: Backend, **values: Any) -> AsyncIterator[Rig[OtlpGrpc]]:
    values = {"endpoint": backend.endpoint, "tls": INSECURE, **values}
    async with running_as(OtlpGrpc, **values) as rig:
        yield rig


def ids(payload: Payload) -> list[bytes]:
    return span_ids(parse(payload.chunks))


Failures = Callable[[ExportTraceServiceRequest], Awaitable[None]]


def failing(*errors: StatusError) -> Failures:
    """An answer: the errors in turn, then all is well."""
    left = list(errors)

    async def answer(_: ExportTraceServiceRequest) -> None:
        if left:
            raise left.pop(0)

    return answer


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_spans_arrive_as_they_are(compression: str) -> None:
    async with Backend() as backend:
        async with exporting(backend, compression=compression) as rig:
            assert rig.exporter.promise == Promise.MEMORY
            one = rig.payload(5, resources=2)
            message = parse(one.chunks)
            await rig.edge(one)
            del one
            await backend.wait_for_spans(5)
            await rig.settled()
        assert backend.requests == [message]
        assert rig.ledger.sent == 5


async def test_headers_and_user_agent_arrive() -> None:
    async with Backend() as backend:
        headers = {"Authorization": "Bearer x", "X-Scope-OrgID": "7"}
        async with exporting(backend, headers=headers) as rig:
            await rig.send(1)
            await backend.wait_for_spans(1)
        metadata = backend.metadata[0]
        assert metadata["authorization"] == "Bearer x"
        assert metadata["x-scope-orgid"] == "7"
        assert metadata["user-agent"].startswith("k8strace/")


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_space_around_values_is_no_part_of_them(
    engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A token from a file ends with a newline; HTTP/2 takes none, and no space either."""
    async with Backend() as backend:
        values = {
            "headers": {
                "authorization": "Bearer abc ",
                "x-token": "\tabc def\r\n",
                "x-empty": " ",
                "Content-Type": "application/json",
            },
            "user_agent": "mine \n",
            "engine": engine,
        }
        async with exporting(backend, **values) as rig:
            await rig.send(1)
            await backend.wait_for_spans(1)
        metadata = backend.metadata[0]
        assert metadata["authorization"] == "Bearer abc"
        assert metadata["x-token"] == "abc def"
        assert metadata["x-empty"] == ""
        assert metadata["user-agent"].startswith("mine")
        assert metadata.get("content-type", "application/grpc") == "application/grpc"
    assert "gRPC sets `Content-Type` itself" in caplog.text


async def test_small_requests_arrive_joined() -> None:
    async with Backend() as backend:
        async with exporting(backend, sending_queue=BATCH) as rig:
            for _ in range(25):
                await rig.send(2)
            await backend.wait_for_spans(50)
        assert backend.calls == 1
        assert max(backend.ids.values()) == 1


# What a backend refuses


@pytest.mark.parametrize("code", sorted(RETRYABLE))
async def test_retryable_codes_are_retried(code: Code) -> None:
    async with Backend() as backend:
        backend.answer = failing(StatusError(code, "busy"), StatusError(code, "busy"))
        async with exporting(backend) as rig:
            await rig.send(3)
            await backend.wait_for_spans(3)
            await rig.settled()
            assert rig.ledger.sent == 3
        assert backend.calls == 3
        assert max(backend.ids.values()) == 1


@pytest.mark.parametrize("code", PERMANENT)
async def test_permanent_codes_are_not(code: Code) -> None:
    async with Backend() as backend:
        backend.answer = failing(StatusError(code, "never"))
        async with exporting(backend) as rig:
            await rig.send(3)
            await rig.settled()
            assert rig.ledger.dropped == {"permanent_error": 3}
        assert backend.calls == 1


@pytest.mark.parametrize("code", PERMANENT)
async def test_only_what_is_about_data_is_taken_apart(code: Code) -> None:
    async def never(_: ExportTraceServiceRequest) -> None:
        raise StatusError(code, "never")

    async with Backend() as backend:
        backend.answer = never
        queue = {"batch": {"flush_timeout": "1h", "min_size": 3}}
        async with exporting(backend, sending_queue=queue) as rig:
            for _ in range(3):
                await rig.send(1)
            await rig.settled()
            assert rig.ledger.dropped == {"permanent_error": 3}
        assert backend.calls == (1 if code in ABOUT_CALLER else 4)


async def test_one_poisoned_request_among_fifty_costs_only_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    poison: set[bytes] = set()

    async def refuse(message: ExportTraceServiceRequest) -> None:
        if poison & set(span_ids(message)):
            raise StatusError(Code.INVALID_ARGUMENT, "attribute too long")

    async with Backend() as backend:
        backend.answer = refuse
        async with exporting(backend, sending_queue=BATCH) as rig:
            wanted: set[bytes] = set()
            for number in range(50):
                one = rig.payload(1)
                wanted |= set(ids(one))
                if number == 30:
                    poison |= set(ids(one))
                    assert one.origin is not None
                    peer = one.origin.peer
                await rig.edge(one)
                del one
            await rig.settled()
            assert rig.ledger.sent == 49
            assert rig.ledger.dropped == {"permanent_error": 1}
        assert set(backend.ids) == wanted - poison
        assert max(backend.ids.values()) == 1
    (line,) = [r.__dict__ for r in caplog.records if "too long" in r.getMessage()]
    assert line["message"].startswith("dropped spans: refused for good by ")
    assert (line["spans"], line["peer"]) == (1, peer)


async def test_a_throttle_is_a_refusal_with_its_delay() -> None:
    async with Backend() as backend:
        backend.answer = failing(
            StatusError(Code.UNAVAILABLE, "slow down", 7.5),
            StatusError(Code.RESOURCE_EXHAUSTED, "quota", 0.5),
            StatusError(Code.UNAVAILABLE, "no idea"),
        )
        async with exporting(backend, **DIRECT) as rig:
            for delay in (7.5, 0.5, None):
                with pytest.raises(RefusedError) as caught:
                    await rig.send(1)
                assert caught.value.retry_after == delay
                del caught
            await rig.send(1)
            assert (rig.ledger.sent, rig.ledger.refused) == (1, 3)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what the native client has compressed so far."""
    sizes: list[int] = []

    def counting(encoding: int, chunks: tuple[bytes, ...]) -> Any:
        made = compress(encoding, chunks)
        sizes.append(len(made) if isinstance(made, bytes) else 0)
        return made

    monkeypatch.setattr(native_client, "compress", counting)
    return sizes


async def test_a_request_is_compressed_once_for_all_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, held = counted(monkeypatch), []

    async def answer(_: ExportTraceServiceRequest) -> None:
        held.append(rig.budget.used)
        if len(held) < 4:
            raise StatusError(Code.UNAVAILABLE, "busy")

    async with Backend() as backend:
        backend.answer = answer
        async with exporting(backend) as rig:
            one = rig.payload(50)
            size = one.size
            await rig.edge(one)
            del one
            await backend.wait_for_spans(50)
            await rig.settled()
            assert backend.calls == 4
            assert len(sizes) == 1
            assert held == [size + sizes[0]] * 4
            assert rig.exporter._packed == {}
            assert rig.budget.used == 0


async def test_in_a_full_budget_one_request_at_a_time_is_compressed() -> None:
    """Past the limit by one of them, as what was taken has to go on; all of them arrive."""
    over: list[int] = []

    async def answer(_: ExportTraceServiceRequest) -> None:
        over.append(rig.budget.used - rig.budget.limit)
        await asyncio.sleep(0.01)

    async with Backend() as backend:
        backend.answer = answer
        async with exporting(backend) as rig:
            await rig.send(50)
            await rig.settled()
            over.clear()
            payloads = [rig.payload(50) for _ in range(6)]
            size = payloads[0].size
            rig.budget.limit = rig.budget.used
            while payloads:
                await rig.edge(payloads.pop())
            await backend.wait_for_spans(350)
            await rig.settled()
            assert len(over) == 6
            assert max(over) < size
            assert rig.budget.used == 0


async def test_nothing_is_compressed_without_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = counted(monkeypatch)
    backend = Backend()
    async with exporting(backend, **DIRECT) as rig:
        for _ in range(3):
            with pytest.raises(RefusedError):
                await rig.send(50)
        assert (sizes, rig.exporter._packed) == ([], {})


async def test_a_throttle_with_a_delay_is_waited_for() -> None:
    async with Backend() as backend:
        backend.answer = failing(StatusError(Code.RESOURCE_EXHAUSTED, "quota", 0.01))
        async with exporting(backend) as rig:
            await rig.send(3)
            await backend.wait_for_spans(3)
        assert backend.calls == 2


async def test_a_partial_success_is_not_counted_as_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def some(_: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
        response = ExportTraceServiceResponse()
        response.partial_success.rejected_spans = 2
        response.partial_success.error_message = "two are too old"
        return response

    async with Backend() as backend:
        backend.answer = some
        async with exporting(backend) as rig:
            await rig.send(5)
            await rig.settled()
            assert rig.ledger.sent == 3
            assert rig.ledger.dropped == {"partial_success": 2}
            assert rig.value("otelcol_exporter_sent_spans_total") == 3
        assert backend.calls == 1
    assert "two are too old" in caplog.text


# Sizes


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_a_rate_limit_is_neither_halved_nor_given_up(engine: str) -> None:
    text = "RATE_LIMITED: ingestion rate limit (local: 15000 bytes) exceeded"
    failures = [StatusError(Code.RESOURCE_EXHAUSTED, text) for _ in range(3)]
    async with Backend() as backend:
        backend.answer = failing(*failures)
        async with exporting(backend, engine=engine) as rig:
            await rig.send(1000)
            await backend.wait_for_spans(1000)
            await rig.settled()
            assert (rig.ledger.sent, rig.ledger.dropped) == (1000, {})
        assert backend.calls == 4
        assert max(backend.ids.values()) == 1


async def test_a_request_over_the_backends_limit_is_halved() -> None:
    async with Backend(max_message=4000) as backend:
        async with exporting(backend, compression="none") as rig:
            one = rig.payload(100)
            wanted = ids(one)
            assert one.size > 8000
            await rig.edge(one)
            del one
            await rig.settled()
            assert (rig.ledger.sent, rig.ledger.dropped) == (100, {})
        assert sorted(backend.ids) == sorted(wanted)
        assert max(backend.ids.values()) == 1


async def test_only_a_span_that_is_too_large_is_dropped() -> None:
    async with Backend(max_message=4000) as backend:
        queue = {"batch": {"flush_timeout": "1h", "min_size": 11}}
        async with exporting(backend, compression="none", sending_queue=queue) as rig:
            await rig.send(1, service="x" * 5000)
            for _ in range(10):
                await rig.send(1)
            await rig.settled()
            assert rig.ledger.sent == 10
            assert rig.ledger.dropped == {"msg_too_large": 1}


async def test_a_rust_backends_words_for_too_large_are_understood() -> None:
    async def tonic(message: ExportTraceServiceRequest) -> None:
        if message.ByteSize() > 4000:
            raise StatusError(
                Code.OUT_OF_RANGE,
                "Error, decoded message length too large: found 9000 bytes",
            )

    async with Backend() as backend:
        backend.answer = tonic
        async with exporting(backend) as rig:
            await rig.send(100)
            await rig.settled()
            assert (rig.ledger.sent, rig.ledger.dropped) == (100, {})
        assert backend.calls < 20


async def test_requests_are_split_below_the_limit_that_backends_have() -> None:
    sizes: list[int] = []

    async def measure(message: ExportTraceServiceRequest) -> None:
        sizes.append(message.ByteSize())

    async with Backend(max_message=MIB) as backend:
        backend.answer = measure
        async with exporting(
            backend, compression="none", max_request_size_mib=1, **DIRECT
        ) as rig:
            one = rig.payload(20_000, attributes=0)
            assert one.size > MIB
            await rig.edge(one)
            del one
            assert rig.ledger.sent == 20_000
        assert len(sizes) == backend.calls > 1
        assert max(sizes) <= MIB - HEADROOM


async def test_a_backend_that_hangs_is_asked_again() -> None:
    calls = 0

    async def hang(_: ExportTraceServiceRequest) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()

    async with Backend() as backend:
        backend.answer = hang
        async with exporting(backend, timeout="100ms") as rig:
            await rig.send(3)
            await backend.wait_for_spans(3)
            await rig.settled()
            assert rig.ledger.sent == 3
            assert rig.value("k8strace_exporter_retries_total") >= 1


async def test_a_backend_that_dies_and_comes_back_gets_everything() -> None:
    async with Backend() as backend:
        async with exporting(backend, sending_queue={"queue_size": 100}) as rig:
            wanted: set[bytes] = set()
            for number in range(30):
                one = rig.payload(2)
                wanted |= set(ids(one))
                await rig.edge(one)
                del one
                if number == 10:
                    await backend.wait_for_spans(2)
                    await backend.stop()
            await until(lambda: rig.exporter._delivery._retries.value > 0)
            await backend.start()
            await rig.settled()
            assert (rig.ledger.sent, rig.ledger.dropped) == (60, {})
        assert set(backend.ids) == wanted


async def test_a_backend_that_is_not_there_yet_is_waited_for() -> None:
    backend = Backend()
    await backend.start()
    await backend.stop()
    async with exporting(backend, wait_for_ready=True, timeout="30s") as rig:
        await rig.send(3)
        await backend.start()
        await backend.wait_for_spans(3)
        await rig.settled()
        assert rig.value("k8strace_exporter_retries_total") == 0
    await backend.stop()


async def test_a_name_that_does_not_resolve_is_a_refusal() -> None:
    values = {"endpoint": "http://nobody.invalid:4317", "timeout": "10s", **DIRECT}
    async with running_as(OtlpGrpc, **values) as rig:
        with pytest.raises(RefusedError, match=r"nobody\.invalid"):
            await rig.send(1)
        assert rig.ledger.refused == 1


async def test_stopping_sends_what_is_parked() -> None:
    async with Backend() as backend:
        async with exporting(backend, sending_queue=BATCH) as rig:
            for _ in range(30):
                await rig.send(1)
            assert backend.calls == 0
            await rig.stop()
            assert (rig.ledger.sent, rig.ledger.dropped) == (30, {})
        assert backend.spans == 30


async def test_stopping_with_a_dead_backend_counts_and_says_what_was_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = Backend()
    await backend.start()
    await backend.stop()
    async with exporting(backend, sending_queue=BATCH) as rig:
        for _ in range(30):
            await rig.send(1)
        await rig.stop()
        assert rig.ledger.dropped == {"shutdown": 30}
    (line,) = [r.__dict__ for r in caplog.records if "dropped spans" in r.getMessage()]
    assert f"not taken in time by {backend.endpoint}: " in line["message"]
    assert (line["reason"], line["spans"]) == ("shutdown", 30)


async def test_stopping_with_a_backend_that_hangs_ends_at_the_deadline() -> None:
    async def hang(_: ExportTraceServiceRequest) -> None:
        await asyncio.Event().wait()

    async with Backend() as backend:
        backend.answer = hang
        async with exporting(backend) as rig:
            await rig.send(3)
            await until(lambda: backend.calls == 1)
            await rig.stop(0.05)
            assert rig.ledger.dropped == {"shutdown": 3}


async def test_before_the_start_nothing_is_sent() -> None:
    rig = Rig(OtlpGrpc, {"endpoint": "localhost:1", **DIRECT})
    with pytest.raises(RefusedError, match="not started"):
        await rig.send(1)
    await rig.stop()


# Who waits


async def test_who_waits_has_the_backends_word() -> None:
    async with Backend() as backend:
        queue = {"wait_for_result": True}
        async with exporting(backend, sending_queue=queue) as rig:
            assert rig.exporter.promise == Promise.DELIVERED
            await rig.send(3)
            assert backend.spans == 3
            backend.answer = failing(StatusError(Code.INVALID_ARGUMENT, "bad"))
            with pytest.raises(RejectedError, match=r"INVALID_ARGUMENT.*bad"):
                await rig.send(2)
            backend.answer = failing(StatusError(Code.UNAVAILABLE, "busy"))
            await rig.send(1)
            assert (rig.ledger.sent, rig.ledger.rejected) == (4, 2)


async def test_a_full_queue_refuses_until_the_backend_takes() -> None:
    gate = asyncio.Event()

    async def hold(_: ExportTraceServiceRequest) -> None:
        await gate.wait()

    async with Backend() as backend:
        backend.answer = hold
        queue = {"queue_size": 5, "sizer": "items", "num_consumers": 1}
        async with exporting(backend, sending_queue=queue) as rig:
            await rig.send(3)
            await rig.send(2)
            with pytest.raises(RefusedError, match="is full"):
                await rig.send(1)
            gate.set()
            deadline = asyncio.get_running_loop().time() + 30
            await rig.send(5, wait_until=deadline)
            await rig.settled()
            assert (rig.ledger.sent, rig.ledger.refused) == (10, 1)
