"""The demo as its users run it, against a real OTLP server."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from k8strace.grpc.status import Code, StatusError
from tests.support.backend import Backend
from tests.support.proxy import Proxy


async def demo(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    return await run("-m", "k8strace.demo", *arguments)


async def run(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_it_says_what_arrived() -> None:
    async with Backend() as backend:
        arguments = ("--requests", "300", "--endpoint", backend.endpoint)
        status, out, err = await demo(*arguments)
    assert (status, err) == (0, "")
    services = {
        attribute.value.string_value
        for message in backend.requests
        for group in message.resource_spans
        for attribute in group.resource.attributes
        if attribute.key == "service.name"
    }
    traces = {
        span.trace_id
        for message in backend.requests
        for group in message.resource_spans
        for scope_spans in group.scope_spans
        for span in scope_spans.spans
    }
    assert services == {"apiserver", "etcd"}
    assert backend.spans > 1000
    assert max(backend.ids.values()) == 1
    found = re.search(
        r"spans +(\d+) \(apiserver (\d+), etcd (\d+)\)\n"
        r" +traces +(\d+)\n +refused +(\d+) spans\n",
        out,
    )
    assert found, out
    total, apiserver, etcd, trace_count, refused = map(int, found.groups())
    assert total == apiserver + etcd == backend.spans
    assert trace_count == len(traces)
    assert refused == 0


async def test_a_seed_gives_the_same_spans_and_gzip_makes_them_smaller() -> None:
    ids, sizes = [], []
    for extra in ((), ("--gzip",)):
        async with Backend() as backend, Proxy(backend.port) as proxy:
            status, _, err = await demo(
                *("--seed", "5", "--requests", "50", "--endpoint", proxy.endpoint, *extra)
            )
            assert (status, err) == (0, "")
            ids.append(backend.ids)
            sizes.append(proxy.sent)
    assert ids[0] == ids[1]
    assert sizes[1] < sizes[0] / 2


async def test_a_rate_makes_it_slower() -> None:
    async with Backend() as backend:
        start = time.monotonic()
        arguments = ("--requests", "5", "--rate", "10", "--endpoint", backend.endpoint)
        status, _, _ = await demo(*arguments)
    assert status == 0
    assert time.monotonic() - start >= 0.4


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        status, out, err = await demo("--endpoint", endpoint)
    assert (status, out) == (1, "")
    assert err == f"error: nothing listens on {endpoint}: Connection refused\n"


@pytest.mark.parametrize("endpoint", ["localhost", "localhost:otlp", "nowhere.invalid:1"])
async def test_an_endpoint_that_is_none(endpoint: str) -> None:
    status, out, err = await demo("--endpoint", endpoint)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: nothing listens on {endpoint}: ")


async def test_what_is_refused_is_said() -> None:
    async def refuse(
        message: ExportTraceServiceRequest,
    ) -> ExportTraceServiceResponse | None:
        raise StatusError(Code.INVALID_ARGUMENT, "not today")

    async with Backend() as backend:
        backend.answer = refuse
        status, out, err = await demo("--endpoint", backend.endpoint)
    assert status == 1
    assert re.search(r"spans +0 \(apiserver 0, etcd 0\)", out)
    assert int(re.findall(r"refused +(\d+) spans", out)[0]) > 50
    # The SDK says why.
    assert "INVALID_ARGUMENT" in err


async def test_without_the_sdk_it_says_what_to_install() -> None:
    async with Backend() as backend:
        status, out, err = await run(
            "-c",
            "import sys; sys.modules['opentelemetry.sdk'] = None\n"
            "from k8strace.demo import main; sys.exit(main(sys.argv[1:]))",
            "--endpoint",
            backend.endpoint,
        )
    assert (status, out) == (1, "")
    assert "pip install k8strace[demo]" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [("--requests", "0"), ("--requests", "x"), ("--rate", "-1"), ("there",)]
)
async def test_wrong_arguments(arguments: tuple[str, ...]) -> None:
    status, out, err = await demo(*arguments)
    assert (status, out) == (2, "")
    assert "usage: python -m k8strace.demo" in err


async def test_an_interrupt_ends_it_without_a_traceback() -> None:
    async with Backend() as backend:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "k8strace.demo"),
            *("--requests", "1000000", "--endpoint", backend.endpoint),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await backend.wait_for_spans(1)
            process.send_signal(signal.SIGINT)
            out, err = await asyncio.wait_for(process.communicate(), 30)
        finally:
            if process.returncode is None:
                process.kill()
    assert (process.returncode, out, err) == (-signal.SIGINT, b"", b"")
