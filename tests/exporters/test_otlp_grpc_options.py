"""The options of the OTLP/gRPC exporter, and what they make of its client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8strace import __version__
from k8strace.config import decode
from k8strace.errors import ConfigError
from k8strace.exporters.otlp_grpc import Config, OtlpGrpc
from k8strace.units import Duration
from tests.support.sending import Rig


def test_the_defaults_are_the_collectors() -> None:
    config = decode(Config, {"endpoint": "backend:4317"})
    assert config.timeout == Duration(5)
    assert config.compression == "gzip"
    assert config.sending_queue.enabled
    assert config.retry_on_failure.enabled
    assert (config.balancer_name, config.wait_for_ready) == ("round_robin", False)
    assert not config.tls.insecure
    assert config.max_request_size_mib == 4
    settings = config.client()
    assert settings.tls is not None
    assert not settings.tls.has_ca
    assert settings.user_agent == f"k8strace/{__version__}"
    assert settings.keepalive.time is None


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ("backend:4317", "backend:4317"),
        ("http://backend:4317", "backend:4317"),
        ("https://backend:4317", "backend:4317"),
        ("[::1]:4317", "[::1]:4317"),
        ("http://[fe80::1%eth0]:4317", "[fe80::1%eth0]:4317"),
        ("unix:/run/otlp.sock", "unix:/run/otlp.sock"),
        ("unix:///run/otlp.sock", "unix:///run/otlp.sock"),
        ("unix-abstract:otlp", "unix-abstract:otlp"),
        ("dns:backend.monitoring:4317", "dns:backend.monitoring:4317"),
        ("dns:///backend.monitoring:4317", "dns:///backend.monitoring:4317"),
        ("dns://10.0.0.10/backend:4317", "dns://10.0.0.10/backend:4317"),
        ("passthrough:///backend:4317", "backend:4317"),
        ("ipv4:10.0.0.1:4317", "ipv4:10.0.0.1:4317"),
        ("dns:4317", "dns:4317"),
    ],
)
def test_endpoints(endpoint: str, target: str) -> None:
    assert decode(Config, {"endpoint": endpoint}).client().target == target


@pytest.mark.parametrize(
    ("endpoint", "tls", "encrypts"),
    [
        ("backend:4317", {}, True),
        ("backend:4317", {"insecure": True}, False),
        ("http://backend:4317", {}, False),
        ("https://backend:4317", {"insecure": True}, True),
        ("backend:4317", {"insecure": True, "ca_pem": "PEM"}, True),
        ("http://backend:4317", {"ca_pem": "PEM"}, True),
    ],
)
def test_when_tls_is_used(endpoint: str, tls: dict[str, Any], encrypts: bool) -> None:
    config = decode(Config, {"endpoint": endpoint, "tls": tls})
    assert (config.client().tls is not None) == encrypts


def test_all_options_reach_the_client(tmp_path: Path) -> None:
    for name in ("ca", "cert"):
        (tmp_path / name).write_text(name)
    values = {
        "endpoint": "https://backend:4317",
        "compression": "none",
        "wait_for_ready": True,
        "balancer_name": "pick_first",
        "authority": "other",
        "user_agent": "mine",
        "keepalive": {"time": "30s", "timeout": "5s", "permit_without_stream": True},
        "read_buffer_size": 1,
        "write_buffer_size": 1,
        "tls": {
            "ca_file": str(tmp_path / "ca"),
            "cert_file": str(tmp_path / "cert"),
            "key_pem": "key",
            "server_name_override": "name",
        },
    }
    settings = decode(Config, values).client()
    assert (settings.compression, settings.wait_for_ready) == ("none", True)
    assert (settings.balancer_name, settings.authority) == ("pick_first", "other")
    assert settings.user_agent == "mine"
    assert settings.keepalive.time == Duration(30)
    assert settings.keepalive.timeout == Duration(5)
    assert settings.keepalive.permit_without_stream
    assert settings.tls is not None
    assert settings.tls.ca_file == str(tmp_path / "ca")
    assert settings.tls.key_pem.reveal() == "key"
    assert settings.tls.server_name_override == "name"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, 'requires a non-empty "endpoint"'),
        ({"endpoint": "backend"}, "\"endpoint\" 'backend' is not host:port"),
        ({"endpoint": "backend:http"}, "is not host:port"),
        ({"endpoint": "backend:70000"}, "is not host:port"),
        ({"endpoint": "backend..svc:4317"}, "'backend..svc' is not a host name"),
        ({"endpoint": f"{'a' * 64}.example:4317"}, "is not a host name"),
        ({"endpoint": "::1:4317"}, "is not host:port"),
        ({"endpoint": "b\u00fccher.example:4317"}, "is written as xn--"),
        ({"endpoint": 'back"end:4317'}, "has characters that a host's name"),
        ({"endpoint": "https://backend:4317/v1/traces"}, "is not host:port"),
        ({"endpoint": "ftp://backend:4317"}, "is not host:port"),
        ({"endpoint": "https://ann:hunter2@backend:4317"}, "no user or password in it"),
        ({"endpoint": "https://hunter2@backend:4317"}, "no user or password in it"),
        ({"endpoint": "unix:"}, "names no socket"),
        ({"compression": "lz4"}, "expected one of gzip, zstd, snappy, none"),
        (
            {"compression": "zstd", "engine": "grpcio"},
            "`compression: zstd` needs `engine: native`",
        ),
        (
            {"compression": "snappy", "engine": "grpcio"},
            "`compression: snappy` needs `engine: native`",
        ),
        ({"balancer_name": "fastest"}, "round_robin, pick_first"),
        ({"max_request_size_mib": -1}, "max_request_size_mib"),
        ({"timeout": "-1s"}, "`timeout` must be non-negative"),
        ({"headers": {"two words": "x"}}, "no name of a gRPC header"),
        ({"headers": {"grpc-timeout": "1S"}}, "reserved by gRPC"),
        ({"headers": {"token": "geh\u00e4im"}}, "not printable ASCII"),
        ({"headers": {"token": "geh\neim"}}, "not printable ASCII"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "a connection of HTTP/1.1"),
        ({"user_agent": "m\u00efne"}, "`user_agent` has characters that"),
        ({"authority": "a b"}, "`authority` 'a b' has characters that"),
        ({"authority": "name "}, "`authority` 'name ' has characters that"),
        ({"tls": {"server_name_override": "n\u00e4me"}}, "`tls::server_name_override` 'n"),
        (
            {"tls": {"insecure_skip_verify": True}, "engine": "grpcio"},
            "`insecure_skip_verify` needs `engine: native`",
        ),
        (
            {"tls": {"reload_interval": "1h"}, "engine": "grpcio"},
            "`reload_interval` needs `engine: native`",
        ),
        ({"tls": {"ca_file": "a", "ca_pem": "b"}}, "either `ca_file` or `ca_pem`"),
        ({"tls": {"cert_file": "a"}}, "`cert_file` needs `key_file` or `key_pem`"),
    ],
)
def test_what_cannot_work_is_an_error(values: dict[str, Any], text: str) -> None:
    if values and "endpoint" not in values:
        values = {"endpoint": "backend:4317", **values}
    with pytest.raises(ConfigError) as error:
        decode(Config, values)
    assert text in str(error.value)
    assert "geh" not in str(error.value)
    assert "hunter2" not in str(error.value)


async def test_a_certificate_that_is_not_there_is_an_error_at_the_start() -> None:
    rig = Rig(OtlpGrpc, {"endpoint": "localhost:1", "tls": {"ca_file": "/nowhere/ca.pem"}})
    with pytest.raises(
        ConfigError, match=r"tls::ca_file: cannot read /nowhere/ca\.pem: No"
    ):
        await rig.exporter.start()
    await rig.stop()


async def test_a_key_that_is_none_is_in_no_error() -> None:
    tls = {"cert_pem": "hunter2", "key_pem": "hunter2"}
    rig = Rig(OtlpGrpc, {"endpoint": "localhost:1", "tls": tls})
    with pytest.raises(ConfigError) as caught:
        await rig.exporter.start()
    assert str(caught.value) == "tls::cert_pem: holds no certificate in PEM"
    await rig.stop()


async def test_what_has_no_effect_on_plaintext_is_named(caplog: Any) -> None:
    tls = {"insecure": True, "insecure_skip_verify": True, "server_name_override": "a"}
    rig = Rig(OtlpGrpc, {"endpoint": "localhost:1", "tls": tls})
    await rig.exporter.start()
    await rig.stop()
    assert "`server_name_override`, `insecure_skip_verify`: no effect" in caplog.text


async def test_zero_splits_nothing() -> None:
    config = {"endpoint": "backend:4317", "max_request_size_mib": 0}
    assert Rig(OtlpGrpc, config).exporter.max_request_bytes == 0


# A backend that hangs, dies and comes back


def test_connections() -> None:
    given = {"endpoint": "backend:4317", "connections": 3}
    assert decode(Config, given).client().connections == 3
    for wrong in (0, 65):
        with pytest.raises(ConfigError, match="connections"):
            decode(Config, given | {"connections": wrong})
    with pytest.raises(ConfigError, match="engine: native"):
        decode(Config, given | {"engine": "grpcio"})
