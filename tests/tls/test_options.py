"""The options of `tls`: what is taken, and what is a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8strace.config import load, render
from k8strace.config_structs import decode
from k8strace.errors import ConfigError
from k8strace.secret import Secret
from k8strace.tls.options import ClientTLS, ServerTLS
from k8strace.units import Duration

CASES = Path(__file__).parent.parent / "config" / "tls"
KEY = "-----BEGIN PRIVATE KEY-----hunter2"


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comments at the head of the file say what must be reported."""
    monkeypatch.chdir(CASES)
    head = [
        line
        for line in Path("mistakes.yaml").read_text().splitlines()
        if line.startswith("# problem: ")
    ]
    with pytest.raises(ConfigError) as caught:
        load(["mistakes.yaml"])
    assert caught.value.problems == [
        line[11:].replace("{file}", "mistakes.yaml") for line in head
    ]
    assert "hunter2" not in str(caught.value)


def test_every_option_of_the_collector_is_known() -> None:
    common = {
        "cert_file": "a",
        "key_file": "b",
        "include_system_ca_certs_pool": True,
        "min_version": 1.2,
        "max_version": 1.3,
        "cipher_suites": "TLS_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "include_insecure_cipher_suites": False,
        "curve_preferences": [],
        "reload_interval": "1h",
        "tpm": {"enabled": False, "path": "/dev/tpm0", "owner_auth": "x", "auth": "y"},
    }
    server = decode(
        ServerTLS, common | {"client_ca_file": "c", "client_ca_file_reload": True}
    )
    assert (server.min_version, server.max_version) == ("1.2", "1.3")
    assert server.reload_interval == Duration(3600)
    assert server.ciphers() == ["ECDHE-RSA-AES128-GCM-SHA256"]
    pem = {"cert_pem": "a", "key_pem": KEY, "ca_pem": "c"}
    client = decode(
        ClientTLS,
        {k: v for k, v in common.items() if not k.endswith("_file")}
        | pem
        | {"insecure": False, "insecure_skip_verify": True, "server_name_override": "n"},
    )
    assert client.key_pem == Secret(KEY)
    assert "hunter2" not in repr(client)


def test_what_means_nothing_to_a_server_is_noted() -> None:
    values = "{cert_file: a, key_file: b, ca_file: c, ca_pem: ''}"
    loaded = load(
        [
            "yaml:{receivers: {otlp: {protocols: {http: {tls: " + values + "}}}},"
            " exporters: {nop: },"
            " service: {pipelines: {traces: {receivers: [otlp], exporters: [nop]}}}}"
        ]
    )
    assert len(loaded.notes) == 2
    assert all("ca_" in note and "no effect" in note for note in loaded.notes)


def test_keys_are_printed_by_nothing() -> None:
    text = (
        "yaml:{receivers: {otlp: {protocols: {grpc: }}}, exporters: {otlp: "
        f"{{endpoint: 'a:1', tls: {{cert_pem: 'CERT hunter2', key_pem: '{KEY}'}}}}}},"
        " service: {pipelines: {traces: {receivers: [otlp], exporters: [otlp]}}}}"
    )
    loaded = load([text])
    assert "hunter2" not in render(loaded) + render(loaded, fmt="json") + repr(
        loaded.config
    )
    assert render(loaded, "unredacted").count("hunter2") == 2


def test_what_only_the_native_engine_has() -> None:
    pair = {"cert_file": "a", "key_file": "b"}
    server = decode(ServerTLS, pair | {"reload_interval": "1s", "min_version": ""})
    assert server.needs_native() == []
    client = decode(ClientTLS, {"reload_interval": "1s", "max_version": "1.2"})
    assert client.needs_native() == ["max_version", "reload_interval"]
