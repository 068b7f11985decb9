"""What every engine's client does with a real server."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

from k8strace.grpc import ClientKeepalive, ClientSettings
from k8strace.grpc.status import Code, StatusError
from k8strace.tls.options import ClientTLS
from k8strace.units import Duration
from tests.support.backend import PATH
from tests.support.engine import ONE_LOOP, Rig
from tests.support.native import call as native_call
from tests.support.native import client as native_client
from tests.support.pipeline import until
from tests.support.ports import free_port

TLS = Path(__file__).parent.parent / "data" / "tls"


class Peer(grpc.GenericRpcHandler):
    """A grpc.aio server that shows messages as they stand on the wire."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.metadata: list[dict[str, Any]] = []
        self.peers: set[str] = set()
        self.answer: Any = None
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()
        self.target = ""

    @asynccontextmanager
    async def serve(
        self, endpoint: str = "127.0.0.1:0", secure: bool = False, **options: int
    ) -> Any:
        options = {"per_message_decompression": 0, "so_reuseport": 0} | options
        server = grpc.aio.server(
            options=[(f"grpc.{name}", value) for name, value in options.items()]
        )
        server.add_generic_rpc_handlers((self,))
        if secure:
            pair = ((TLS / "server.key").read_bytes(), (TLS / "server.pem").read_bytes())
            port = server.add_secure_port(endpoint, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(endpoint)
        await server.start()
        unix = endpoint.startswith("unix")
        self.target = endpoint if unix else f"{endpoint.rpartition(':')[0]}:{port}"
        try:
            yield self
        finally:
            await server.stop(0)

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._handle)

    async def _handle(self, body: bytes, context: Any) -> bytes:
        self.bodies.append(body)
        self.metadata.append(dict(context.invocation_metadata()))
        self.peers.add(context.peer())
        self.entered.set()
        if self.answer is None:
            return b"answer"
        try:
            answer: bytes = await self.answer(context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return answer


@asynccontextmanager
async def client(engine: ModuleType, target: str, **settings: Any) -> Any:
    one = engine.Client(ClientSettings(target=target, **settings))
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


def aborting(error: StatusError) -> Any:
    async def answer(context: Any) -> bytes:
        code = next(c for c in grpc.StatusCode if c.value[0] == error.code)
        details = error.proto().SerializeToString()
        await context.abort(code, error.message, (("grpc-status-details-bin", details),))
        return b""

    return answer


async def test_buffers_are_one_message(engine: ModuleType) -> None:
    async with Peer().serve() as peer:
        async with client(engine, peer.target, compression="none") as one:
            parts = (b"\x0a" * 500, b"", b"\x12" * 700)
            assert await one.call(PATH, parts, timeout=20) == b"answer"
            assert await one.call(PATH, (), timeout=20) == b"answer"
        assert peer.bodies == [b"".join(parts), b""]


async def test_gzip(engine: ModuleType) -> None:
    async with Peer().serve() as peer, client(engine, peer.target) as one:
        await one.call(PATH, (b"\x0a" * 500, b"\x12" * 500), timeout=20)
        assert peer.bodies[0].startswith(b"\x1f\x8b")
        assert gzip.decompress(peer.bodies[0]) == b"\x0a" * 500 + b"\x12" * 500


async def test_large_messages(engine: ModuleType) -> None:
    async with Peer().serve() as peer:

        async def large(context: Any) -> bytes:
            return bytes(3 << 20)

        peer.answer = large
        async with client(engine, peer.target, compression="none") as one:
            answer = await one.call(PATH, (bytes(3 << 20),), timeout=60)
            assert answer == bytes(3 << 20)
            with pytest.raises(StatusError) as caught:
                await one.call(PATH, (bytes(5 << 20),), timeout=60)
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            assert not caught.value.retryable


async def test_metadata_user_agent_and_authority(engine: ModuleType) -> None:
    async with Peer().serve() as peer:
        settings = {"user_agent": "k8strace/1", "authority": "else.where"}
        async with client(engine, peer.target, **settings) as one:
            metadata = (("x-tenant", "blue"), ("x-other", "red"))
            await one.call(PATH, (b"\x0a\x00",), timeout=20, metadata=metadata)
        got = peer.metadata[0]
        assert (got["x-tenant"], got["x-other"]) == ("blue", "red")
        assert got["user-agent"].startswith("k8strace/1")


async def test_calls_share_a_connection(engine: ModuleType) -> None:
    async with Peer().serve() as peer, client(engine, peer.target) as one:
        calls = [one.call(PATH, (b"\x0a\x00",), timeout=20) for _ in range(20)]
        assert await asyncio.gather(*calls) == [b"answer"] * 20
        assert len(peer.peers) == 1


@pytest.mark.parametrize("code", [code for code in Code if code])
async def test_statuses(engine: ModuleType, code: Code) -> None:
    async with Peer().serve() as peer, client(engine, peer.target) as one:
        for delay in (None, 2.5):
            peer.answer = aborting(StatusError(code, "because", delay))
            with pytest.raises(StatusError, match="because") as caught:
                await one.call(PATH, (b"\x0a\x00",), timeout=20)
            assert (caught.value.code, caught.value.retry_delay) == (code, delay)
            assert peer.target in caught.value.message


async def test_details_that_are_rubbish_count_as_none(engine: ModuleType) -> None:
    async def answer(context: Any) -> bytes:
        rubbish = (("grpc-status-details-bin", b"\xff\xff\xff"),)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "no", rubbish)
        return b""

    async with Peer().serve() as peer, client(engine, peer.target) as one:
        peer.answer = answer
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (b"\x0a\x00",), timeout=20)
        assert caught.value.retry_delay is None


async def hang(context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


async def test_the_timeout(engine: ModuleType) -> None:
    async with Peer().serve() as peer, client(engine, peer.target) as one:
        peer.answer = hang
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (b"\x0a\x00",), timeout=0.1)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert caught.value.retryable


async def test_cancelling_a_call_cancels_it_there(engine: ModuleType) -> None:
    async with Peer().serve() as peer, client(engine, peer.target) as one:
        peer.answer = hang
        task = asyncio.ensure_future(one.call(PATH, (b"\x0a\x00",), timeout=None))
        await asyncio.wait_for(peer.entered.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(peer.cancelled.wait(), 20)


async def test_stop_fails_running_calls_and_later_ones(engine: ModuleType) -> None:
    async with Peer().serve() as peer, client(engine, peer.target) as one:
        peer.answer = hang
        task = asyncio.ensure_future(one.call(PATH, (b"\x0a\x00",), timeout=None))
        await asyncio.wait_for(peer.entered.wait(), 20)
        await one.stop()
        for call in (task, one.call(PATH, (b"\x0a\x00",), timeout=5)):
            with pytest.raises(StatusError) as caught:
                await call
            assert caught.value.code is Code.UNAVAILABLE
        await one.stop()


@pytest.mark.parametrize(
    "target", ["no.such.name.invalid:4317", "dns:///no.such.invalid:1"]
)
async def test_a_name_that_does_not_resolve_is_named(
    engine: ModuleType, target: str
) -> None:
    async with client(engine, target) as one:
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (b"\x0a\x00",), timeout=20)
        assert caught.value.code is Code.UNAVAILABLE
        assert target in caught.value.message


async def test_connections_that_age_lose_no_request(engine: ModuleType) -> None:
    serving = Peer().serve(max_connection_age_ms=100)
    async with serving as peer, client(engine, peer.target) as one:

        async def send() -> None:
            async with asyncio.timeout(60):
                while len(peer.peers) < 3:
                    assert await one.call(PATH, (b"\x0a\x00",), timeout=20) == b"answer"

        await asyncio.gather(*(send() for _ in range(30)))


async def test_a_target_that_comes_late(engine: ModuleType) -> None:
    target = f"127.0.0.1:{free_port()}"
    async with client(engine, target) as one, client(engine, target) as fresh:
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (b"\x0a\x00",), timeout=20)
        assert caught.value.code is Code.UNAVAILABLE
        async with client(engine, target, wait_for_ready=True) as patient:
            waiting = asyncio.ensure_future(patient.call(PATH, (b"\x0a\x00",), timeout=60))
            await asyncio.sleep(0)
            async with Peer().serve(target) as peer:
                assert await waiting == b"answer"
                assert await fresh.call(PATH, (b"\x0a\x00",), timeout=20) == b"answer"
                async with asyncio.timeout(60):
                    while True:
                        try:
                            await one.call(PATH, (b"\x0a\x00",), timeout=20)
                        except StatusError as error:
                            assert error.retryable  # noqa: PT017
                        else:
                            break
                assert len(peer.bodies) == 3


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_unix_socket(engine: ModuleType, tmp_path: Path, form: str) -> None:
    endpoint = form.format(tmp_path / "backend.sock")
    async with Peer().serve(endpoint) as peer, client(engine, endpoint) as one:
        assert await one.call(PATH, (b"\x0a\x00",), timeout=20) == b"answer"
        assert len(peer.bodies) == 1


async def test_abstract_unix_socket(engine: ModuleType) -> None:
    endpoint = f"unix-abstract:k8strace-test-{os.getpid()}"
    async with Peer().serve(endpoint) as peer, client(engine, endpoint) as one:
        assert await one.call(PATH, (b"\x0a\x00",), timeout=20) == b"answer"
        assert len(peer.bodies) == 1
    async with client(engine, endpoint) as one:
        with pytest.raises(StatusError) as caught:
            await one.call(PATH, (b"\x0a\x00",), timeout=20)
        assert caught.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("balancer", ["round_robin", "pick_first"])
async def test_dns_and_balancers(engine: ModuleType, balancer: str) -> None:
    async with Peer().serve("localhost:0") as peer:
        target = f"dns:///{peer.target}"
        async with client(engine, target, balancer_name=balancer) as one:
            assert await one.call(PATH, (b"\x0a\x00",), timeout=20) == b"answer"


async def test_tls(engine: ModuleType) -> None:
    ca = str(TLS / "server.pem")
    async with Peer().serve(secure=True) as peer:
        async with client(engine, peer.target, tls=ClientTLS(ca_file=ca)) as one:
            assert await one.call(PATH, (b"\x0a\x00",), timeout=20) == b"answer"
        override = ClientTLS(ca_file=ca, server_name_override="localhost")
        async with client(engine, peer.target, tls=override) as one:
            assert await one.call(PATH, (b"\x0a\x00",), timeout=20) == b"answer"
        for tls in (None, ClientTLS(), ClientTLS(ca_file=ca, server_name_override="wrong")):
            async with client(engine, peer.target, tls=tls) as one:
                with pytest.raises(StatusError) as caught:
                    await one.call(PATH, (b"\x0a\x00",), timeout=20)
                assert caught.value.code is Code.UNAVAILABLE


async def test_a_call_lets_go_of_its_message(engine: ModuleType) -> None:
    """Without a garbage collection, whether it went well or not."""
    async with Peer().serve() as peer, client(engine, peer.target) as one:
        await one.call(PATH, (b"\x0a\x00",), timeout=20)
        message = b"".join([b"\x0a"] * 1000)
        before = sys.getrefcount(message)
        gc.collect()
        gc.disable()
        try:
            await one.call(PATH, (message,), timeout=20)
            peer.answer = aborting(StatusError(Code.UNAVAILABLE, "no", 1.0))
            with pytest.raises(StatusError):
                await one.call(PATH, (message,), timeout=20)
            assert sys.getrefcount(message) == before
        finally:
            gc.enable()


@pytest.mark.slow
@ONE_LOOP
async def test_a_server_of_any_engine_may_ask_for_fewer_pings(
    engine: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers end a connection that pings too often, and say so; the client pings less."""
    keepalive = ClientKeepalive(
        time=Duration(0.02), timeout=Duration(1), permit_without_stream=True
    )
    async with Rig(engine) as rig, native_client(rig.address, keepalive=keepalive) as one:
        assert await native_call(one) == b"\x0a\x00"
        await until(lambda: "too many keepalive pings" in caplog.text, 60)
        assert (one._target._keepalive.time or 0) >= 0.04
        assert await native_call(one) == b"\x0a\x00"
