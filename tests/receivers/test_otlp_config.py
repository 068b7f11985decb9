"""The otlp receiver's configuration: the collector's keys and defaults."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from k8strace.errors import ConfigError
from k8strace.receivers.otlp import OTLP, Config
from k8strace.units import Duration
from tests.support.pipeline import configured


def config(values: dict[str, Any]) -> Config:
    found: Config = configured(OTLP, values)
    return found


def test_a_protocol_is_served_when_it_is_named() -> None:
    both = config({"protocols": {"grpc": None, "http": {}}}).protocols
    assert both.grpc is not None
    assert both.http is not None
    assert (both.grpc.endpoint, both.http.endpoint) == ("localhost:4317", "localhost:4318")
    assert config({"protocols": {"grpc": None}}).protocols.http is None
    assert config({"protocols": {"http": None}}).protocols.grpc is None


def test_defaults() -> None:
    protocols = config({"protocols": {"grpc": None, "http": None}}).protocols
    assert protocols.grpc is not None
    assert protocols.http is not None
    settings = protocols.grpc.settings()
    assert settings.max_message_size == 64 << 20
    assert settings.max_concurrent_streams is None
    assert not settings.include_metadata
    assert protocols.http.max_size == 64 << 20
    assert protocols.http.path == "/v1/traces"


def test_all_options_of_grpc() -> None:
    given = {
        "endpoint": "0.0.0.0:4317",
        "transport": "tcp",
        "max_recv_msg_size_mib": 4,
        "max_concurrent_streams": 16,
        "read_buffer_size": 524288,
        "write_buffer_size": 524288,
        "include_metadata": True,
        "keepalive": {
            "server_parameters": {
                "max_connection_idle": "11s",
                "max_connection_age": "12s",
                "max_connection_age_grace": "13s",
                "time": "30s",
                "timeout": "5s",
            },
            "enforcement_policy": {"min_time": "10s", "permit_without_stream": True},
        },
    }
    grpc = config({"protocols": {"grpc": given}}).protocols.grpc
    assert grpc is not None
    settings = grpc.settings()
    assert settings.endpoint == "0.0.0.0:4317"
    assert settings.max_message_size == 4 << 20
    assert settings.max_concurrent_streams == 16
    assert settings.include_metadata
    keepalive = settings.keepalive
    assert keepalive.max_connection_idle == Duration(11)
    assert keepalive.max_connection_age == Duration(12)
    assert keepalive.max_connection_age_grace == Duration(13)
    assert keepalive.time == Duration(30)
    assert keepalive.timeout == Duration(5)
    assert keepalive.min_time == Duration(10)
    assert keepalive.permit_without_stream


@pytest.mark.parametrize("values", [{}, {"protocols": None}, {"protocols": {}}])
def test_no_protocol(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must specify at least one protocol"):
        config(values)


@pytest.mark.parametrize(
    ("protocols", "text"),
    [
        ({"grpc": {"endpoint": "localhost"}}, "localhost"),
        ({"grpc": {"endpoint": "localhost:65536"}}, "65536"),
        ({"grpc": {"transport": "udp"}}, "udp"),
        ({"grpc": {"transport": "unix", "endpoint": "unix:"}}, "unix"),
        ({"grpc": {"max_recv_msg_size_mib": 4096}}, "max_recv_msg_size_mib"),
        ({"grpc": {"max_concurrent_streams": -1}}, "max_concurrent_streams"),
        ({"grpc": {"keepalive": {"server_parameters": {"tme": "1s"}}}}, "tme"),
        ({"grpc": {"tls": {"cert_file": "x"}}}, "tls"),
        ({"http": {"endpoint": "4318"}}, "4318"),
        ({"http": {"max_request_body_size": -1}}, "max_request_body_size"),
        ({"http": {"idle_timeout": "-1s"}}, "idle_timeout"),
        ({"http": {"read_header_timeout": "-1s"}}, "read_header_timeout"),
        ({"http": {"cors": {}}}, "cors"),
        ({"htpp": {}}, "htpp"),
    ],
)
def test_mistakes_are_named(protocols: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config({"protocols": protocols})


def test_on_given_sockets_the_port_is_theirs() -> None:
    engines = {"native": {"engine": "native"}, "grpcio": {"engine": "grpcio"}}
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        for engine, options in engines.items():
            endpoint = {"endpoint": "127.0.0.1:0", **options}
            grpc = config({"protocols": {"grpc": endpoint}}).protocols.grpc
            assert grpc is not None
            assert grpc.settings().endpoint == "127.0.0.1:0"
            settings = grpc.settings((one,))
            if engine == "native":
                assert settings.sockets == (one,)
            else:
                assert settings.endpoint == f"127.0.0.1:{port}"
                assert (settings.reuse_port, settings.sockets) == (True, ())


def test_a_size_of_zero_is_the_default() -> None:
    zero = {"grpc": {"max_recv_msg_size_mib": 0}, "http": {"max_request_body_size": 0}}
    protocols = config({"protocols": zero}).protocols
    assert protocols.grpc is not None
    assert protocols.http is not None
    assert protocols.grpc.settings().max_message_size == 64 << 20
    assert protocols.http.max_size == 64 << 20
