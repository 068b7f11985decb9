"""docs/engines.md says which engine can what: each of its rows is tried."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest
import zstandard

from k8strace.config import load
from k8strace.errors import ConfigError
from k8strace.grpc import grpcio, native
from k8strace.grpc.status import Code, StatusError
from k8strace.tls.options import ClientTLS, ServerTLS
from tests.conformance.test_client import TLS, client
from tests.support.backend import PATH
from tests.support.engine import ONE_LOOP, Rig, channel, send
from tests.support.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC,
    HEADERS,
    PING,
    Raw,
    frame,
    headers,
    message,
)
from tests.support.programs import ROOT
from tests.support.snappy import framed

pytestmark = [ONE_LOOP, pytest.mark.slow]
ENGINES = {"native": native, "grpcio": grpcio}
TABLE = re.compile(r"<!-- engines -->\n(.*)<!-- /engines -->", re.DOTALL)


def rows() -> dict[str, dict[str, bool]]:
    """What the table says: a row's name, an engine's, and whether it can."""
    found = TABLE.search((ROOT / "docs" / "engines.md").read_text())
    assert found
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in found[1].splitlines()
    ]
    engines = [name.strip("` |") for name in head[-2:]]
    assert engines == list(ENGINES)
    return {
        name: {
            engine: cell.split(":")[0] == "yes"
            for engine, cell in zip(engines, cells, strict=True)
        }
        for name, *cells in lines
    }


async def takes(engine: ModuleType, encoding: str, packed: bytes) -> bool:
    block = headers(*GRPC, ("grpc-encoding", encoding))
    async with Rig(engine) as rig, Raw(rig.address) as raw:
        await raw.send(
            frame(HEADERS, END_HEADERS, 1, block),
            frame(DATA, END_STREAM, 1, message(packed, 1)),
        )
        status = await raw.status()
        assert status in (Code.OK, Code.INTERNAL)
        return status == Code.OK


async def takes_zstd(engine: ModuleType, folder: Path) -> bool:
    return await takes(engine, "zstd", zstandard.compress(b"\x0a\x00"))


async def takes_snappy(engine: ModuleType, folder: Path) -> bool:
    return await takes(engine, "snappy", framed(b"\x0a\x00"))


CONFIG = """
receivers: {{otlp: {{protocols: {{grpc: }}}}}}
exporters: {{otlp: {{endpoint: "http://tempo:4317", engine: {engine}, {option}}}}}
service: {{pipelines: {{traces: {{receivers: [otlp], exporters: [otlp]}}}}}}
"""


def is_configurable(engine: ModuleType, option: str, folder: Path) -> bool:
    """Whether an exporter may have the option; the error says which engine can."""
    name = engine.__name__.rpartition(".")[2]
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(engine=name, option=option))
    try:
        load([str(path)], [])
    except ConfigError as error:
        return "engine: native" not in str(error)
    return True


async def sends(engine: ModuleType, compression: Any, folder: Path) -> bool:
    if not is_configurable(engine, f"compression: {compression}", folder):
        return False
    async with Rig(native) as rig:  # of our peers in Python only we take it
        async with client(engine, rig.address, compression=compression) as one:
            await one.call(PATH, (b"\x0a" * 500,), timeout=20)
        return rig.calls[0].message == b"\x0a" * 500


async def sends_zstd(engine: ModuleType, folder: Path) -> bool:
    return await sends(engine, "zstd", folder)


async def sends_snappy(engine: ModuleType, folder: Path) -> bool:
    return await sends(engine, "snappy", folder)


PAIR: dict[str, Any] = {
    "cert_file": str(TLS / "server.pem"),
    "key_file": str(TLS / "server.key"),
}


async def chooses_versions(engine: ModuleType, folder: Path) -> bool:
    """Of a server; tests/conformance/test_tls.py has clients and cipher suites, too."""
    options = "tls: {min_version: '1.3', ca_file: x}"
    try:
        rig = Rig(engine, tls=ServerTLS(**PAIR, min_version="1.3"))
    except ConfigError as error:
        assert not is_configurable(engine, options, folder)
        return "engine: native" not in str(error)
    assert is_configurable(engine, options, folder)
    old = ClientTLS(ca_file=PAIR["cert_file"], max_version="1.2")
    async with rig, client(native, rig.address, tls=old) as one:
        with pytest.raises(StatusError):
            await one.call(PATH, (b"\x0a\x00",), timeout=20)
    return True


async def skips_verification(engine: ModuleType, folder: Path) -> bool:
    options = "tls: {insecure_skip_verify: true, ca_file: x}"
    if not is_configurable(engine, options, folder):
        return False
    anybody = ClientTLS(insecure_skip_verify=True)
    async with Rig(native, tls=ServerTLS(**PAIR)) as rig:
        async with client(engine, rig.address, tls=anybody) as one:
            answer: bytes = await one.call(PATH, (b"\x0a\x00",), timeout=20)
            return answer == b"\x0a\x00"


async def renews_certificates(engine: ModuleType, folder: Path) -> bool:
    """That a client does what is configured is in tests/conformance/test_tls.py."""
    return is_configurable(engine, "tls: {reload_interval: 1s, ca_file: x}", folder)


async def counts_failed_handshakes(engine: ModuleType, folder: Path) -> bool:
    async with Rig(engine, tls=ServerTLS(**PAIR)) as rig:
        host, _, port = rig.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(reader.read(), 20)
        writer.close()
        # Until a call is over, what came before it has been told, too.
        known = ClientTLS(ca_file=PAIR["cert_file"])
        async with client(native, rig.address, tls=known) as one:
            await one.call(PATH, (b"\x0a\x00",), timeout=20)
        return rig.reasons == ["tls"]


async def listens_on_given_sockets(engine: ModuleType, folder: Path) -> bool:
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        try:
            rig = Rig(engine, sockets=(given,))
        except ConfigError as error:
            return "engine: native" not in str(error)
        async with rig:
            rig.address = f"127.0.0.1:{port}"
            async with channel(rig) as one:
                return await send(one, b"\x0a\x00") == b"\x0a\x00"


BEGUN = frame(HEADERS, END_HEADERS, 1, headers(*GRPC))


async def reserves_before_the_body(engine: ModuleType, folder: Path) -> bool:
    async with Rig(engine) as rig, Raw(rig.address) as raw, channel(rig) as one:
        await raw.send(BEGUN, frame(DATA, 0, 1, message(bytes(1000))[:5]))
        await send(one, b"\x0a\x00")
        await raw.send(frame(PING, 0, 0, bytes(8)))
        await raw.frame(PING)  # the answer to a ping: what was sent before has been read
        rig.calls.clear()
        return rig.budget.used == 1000


async def cuts_off_slow_bodies(engine: ModuleType, folder: Path) -> bool:
    """The other engine waits as long as its largest message may take."""
    async with Rig(engine, slow_after=0.1) as rig, Raw(rig.address) as raw:
        await raw.send(BEGUN, frame(DATA, 0, 1, message(bytes(1000))[:500]))
        try:
            await rig.until(lambda: bool(rig.rejects), timeout=10)
        except TimeoutError:
            return False
        return rig.reasons == ["slow"]


async def answers_health(engine: ModuleType, folder: Path) -> bool:
    async with Rig(engine) as rig, channel(rig) as one:
        path = "/grpc.health.v1.Health/Check"
        try:
            return await send(one, b"", path=path) == b"\x08\x01"
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED  # noqa: PT017
            return False


async def answers_415(engine: ModuleType, folder: Path) -> bool:
    block = headers(("content-type", "text/html"), GRPC[1])
    async with Rig(engine) as rig, Raw(rig.address) as raw:
        await raw.send(
            frame(HEADERS, END_HEADERS, 1, block),
            frame(DATA, END_STREAM, 1, message(b"\x0a\x00")),
        )
        if b"415" in (await raw.frame(HEADERS)).body:
            return True
        assert await raw.status() == 0
        return False


CHECKS: dict[str, Callable[[ModuleType, Path], Awaitable[bool]]] = {
    "takes zstd": takes_zstd,
    "takes snappy": takes_snappy,
    "sends zstd": sends_zstd,
    "sends snappy": sends_snappy,
    "TLS of chosen versions and cipher suites": chooses_versions,
    "sends to a backend whose certificate is not verified": skips_verification,
    "renews the certificates of an exporter": renews_certificates,
    "counts TLS handshakes that fail": counts_failed_handshakes,
    "listens on sockets that are open already": listens_on_given_sockets,
    "reserves a message's bytes before its body comes": reserves_before_the_body,
    "cuts off a body slower than `slow_body_rate`": cuts_off_slow_bodies,
    "answers `grpc.health.v1.Health/Check`": answers_health,
    "answers 415 to what is not gRPC": answers_415,
}


async def test_each_row_is_tried() -> None:
    table = rows()
    assert set(table) == set(CHECKS)
    assert not [name for name, can in table.items() if len(set(can.values())) == 1]


@pytest.mark.parametrize("name", CHECKS)
async def test_the_table_is_right(engine: ModuleType, name: str, tmp_path: Path) -> None:
    says = rows()[name][engine.__name__.rpartition(".")[2]]
    assert await CHECKS[name](engine, tmp_path) == says
