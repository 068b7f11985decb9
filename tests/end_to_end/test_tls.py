"""Whole gateways with certificates: the documentation's example, workers, mistakes."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest

from k8strace.grpc import native
from k8strace.tls.options import ServerTLS
from tests.support.certificates import Authority, Pair
from tests.support.clients import Client
from tests.support.engine import Rig
from tests.support.gateway import METRICS_PORT, GatewayProcess, run_gateway
from tests.support.requests import request

PAGE = Path(__file__).parent.parent.parent / "docs" / "tls.md"
REJECTED = "k8strace_requests_rejected_total"
LOCAL_POOL = ("grpc.use_local_subchannel_pool", 1)


class SecureClient(Client):
    """With the certificate `pair`, trusting `authority`."""

    def __init__(self, endpoint: str, authority: Authority, pair: Pair | None) -> None:
        super().__init__(endpoint)
        self._insecure, ca = self._channel, authority.cert.read_bytes()
        cert, key = (None, None) if pair is None else [one.read_bytes() for one in pair]
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        self._channel = grpc.aio.secure_channel(
            endpoint, credentials, options=[LOCAL_POOL, ("grpc.enable_retries", 0)]
        )

    async def __aexit__(self, *_: object) -> None:
        await self._insecure.close()
        await super().__aexit__()


def example(number: int, replacements: dict[str, str]) -> str:
    found = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]
    for old, new in replacements.items():
        assert old in found
        found = found.replace(old, new)
    return str(found)


async def ok(_: object) -> bytes:
    return b""


@pytest.mark.slow
async def test_a_socket_for_the_apiserver_beside_a_port_for_certificates(
    authority: Authority, server_pair: Pair, client_pair: Pair, tmp_path: Path
) -> None:
    """As the documentation has it; the certificate is renewed while it runs."""
    used = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    other = Authority(tmp_path, "other")
    authority.issue().copy_to(used)
    (tmp_path / "ca.crt").write_bytes(authority.cert.read_bytes())
    async with Rig(native, tls=ServerTLS(**server_pair.files)) as backend:
        backend.answer = ok
        path = tmp_path / "gateway.yaml"
        places = {
            "/etc/k8strace/tls": str(tmp_path),
            "/run/k8strace": str(tmp_path),
            "0.0.0.0:4317": "127.0.0.1:0",
            "https://tempo.example.org:4317": f"https://{backend.address}",
        }
        path.write_text(example(1, places))
        sets = (
            METRICS_PORT,
            "receivers.otlp.protocols.grpc.tls.reload_interval=100ms",
            f"exporters.otlp_grpc.tls.ca_file={authority.cert}",
            "exporters.otlp_grpc.compression=none",
        )
        arguments = [part for one in sets for part in ("--set", one)]
        gateway = GatewayProcess("--config", str(path), *arguments, out=tmp_path / "out")
        async with gateway:
            port = await gateway.address("grpc")
            unix = f"unix:{tmp_path}/otlp.sock"
            async with SecureClient(port, authority, client_pair) as known:
                await known.send(request(3))
                async with Client(unix) as local:
                    await local.send(request(4))
                for stranger in (
                    Client(port),
                    SecureClient(port, authority, None),
                    SecureClient(port, authority, other.issue()),
                ):
                    async with stranger:
                        with pytest.raises(grpc.aio.AioRpcError) as caught:
                            await stranger.send(request(1))
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                other.issue().copy_to(used)
                await shows(port, other, client_pair)
                await known.send(request(5))
            samples = await gateway.at_rest()
            assert samples.sum(REJECTED, reason="tls") >= 3  # a client may try twice
            accepted = "otelcol_receiver_accepted_spans_total"
            assert samples.sum(accepted, receiver="otlp") == 8
            assert samples.sum(accepted, receiver="otlp/local") == 4
            assert samples.sum("otelcol_exporter_sent_spans_total") == 12
            assert await gateway.stop() == 0
        assert any(" reason=tls " in line for line in gateway.log)


async def shows(address: str, authority: Authority, pair: Pair) -> None:
    """Until a handshake shows a certificate of `authority`."""
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.load_cert_chain(*pair)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port, ssl=context)
            except ssl.SSLCertVerificationError:
                continue
            writer.transport.abort()
            return


@pytest.mark.slow
async def test_workers_serve_no_plaintext(
    authority: Authority, server_pair: Pair, tmp_path: Path
) -> None:
    tls = f"{{cert_file: {server_pair.cert}, key_file: {server_pair.key}}}"
    protocols = ", ".join(
        f"{name}: {{endpoint: '127.0.0.1:0', tls: {tls}{more}}}"
        for name, more in (("grpc", ", engine: native"), ("http", ""))
    )
    config = (
        f"yaml:{{receivers: {{otlp: {{protocols: {{{protocols}}}}}}}, exporters: {{nop: }},"
        " service: {pipelines: {traces: {receivers: [otlp], exporters: [nop]}}}}"
    )
    arguments = ("--config", config, "--set", METRICS_PORT, "--workers", "2")
    trusting = ssl.create_default_context(cafile=str(authority.cert))
    headers = {"content-type": "application/x-protobuf"}
    async with GatewayProcess(*arguments, out=tmp_path / "out") as gateway:
        http = await gateway.address("http")
        async with SecureClient(await gateway.address("grpc"), authority, None) as client:
            await client.send(request(3))

        async def post(scheme: str, tls: Any) -> int:
            async with aiohttp.ClientSession(headers=headers) as session:
                url = f"{scheme}://{http}/v1/traces"
                body = request(2).SerializeToString()
                async with session.post(url, data=body, ssl=tls) as response:
                    return response.status

        assert [await post("https", trusting) for _ in range(4)] == [200] * 4
        for _ in range(4):
            with pytest.raises(aiohttp.ClientError):
                await post("http", True)
        samples = await gateway.wait_for_metric(REJECTED, 4, reason="tls")
        assert samples.sum("otelcol_receiver_accepted_spans_total") == 11
        await gateway.at_rest()
        assert await gateway.stop() == 0


async def test_a_start_with_wrong_files_says_where(
    server_pair: Pair, client_pair: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "receivers:\n"
        "  otlp:\n"
        "    protocols:\n"
        "      http:\n"
        "        endpoint: 127.0.0.1:0\n"
        "        tls:\n"
        f"          cert_file: {server_pair.cert}\n"
        f"          key_file: {client_pair.key}\n"
        "exporters: {nop: }\n"
        "service:\n"
        "  telemetry: {metrics: {level: none}}\n"
        "  pipelines: {traces: {receivers: [otlp], exporters: [nop]}}\n"
    )
    status, out, err = await run_gateway("--config", str(path))
    assert (status, out) == (1, "")
    assert (
        f"error: {path}:8: receivers::otlp::protocols::http::tls::key_file: "
        f"{client_pair.key} is not the key of the certificate in {server_pair.cert}\n"
    ) in err
