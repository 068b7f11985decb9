"""TracingConfiguration, held against what the real kube-apiserver takes.

`tests/data/tracing-configuration.json` has what kube-apiserver 1.36.3's own code said.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k8strace.kube.tracing_config import (
    TracingConfiguration,
    TracingConfigurationError,
    parse,
    parse_kubelet,
    read,
    unreachable,
)

CASES = json.loads(Path("tests/data/tracing-configuration.json").read_text())
HEAD = "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_takes_what_the_apiserver_takes(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(TracingConfigurationError):
            parse(case["text"])
        return
    found = parse(case["text"])
    assert found == TracingConfiguration(
        endpoint=case["endpoint"], sampling_rate_per_million=case["samplingRatePerMillion"]
    )


@pytest.mark.parametrize(
    ("text", "error", "field"),
    [
        ("endpoint: http://x:1", "unsupported scheme: http.  Options are none", "endpoint"),
        ("endpoint: x:port", "is not a host with a port that is a number", "endpoint"),
        ("endpoint: 4317", "endpoint: 4317 is not a string: quote it", "endpoint"),
        ("endpoint: true", "endpoint: True is not a string", "endpoint"),
        ("samplingRatePerMillion: -1", "-1: sampling rate must be positive", None),
        ("samplingRatePerMillion: 1000001", "less than or equal to one million", None),
        ("samplingRatePerMillion: often", "'often' is not an integer", None),
        ("samplingRatePerMillion: 1.5", "1.5 is not an integer", None),
        ("samplingRatePerMillion: .inf", "inf is not an integer", None),
        ("sampling: 1", 'unknown field "sampling"', "sampling"),
        ("a: [", "it is not YAML: line ", ()),
        ('{"endpoint": }', "it begins with { and is not JSON", ()),
        ('{"endpoint": "a:1", "endpoint": "b:1"}', 'duplicate field "endpoint"', ()),
        ("- a", "it is list, not a map", ()),
        ("kind: Tracing", 'no kind "Tracing" is registered for version ""', "apiVersion"),
    ],
)
def test_what_is_wrong_is_told(
    text: str, error: str, field: str | tuple[()] | None
) -> None:
    with pytest.raises(TracingConfigurationError) as caught:
        parse(text)
    assert error in str(caught.value)
    fields = (field or "samplingRatePerMillion",) if field != () else ()
    assert caught.value.fields == fields


@example("{{}}")
@example(".inf")
@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    sources = [text, f'{{"endpoint": {text}}}', f'{{"endpoint": "{text}"}}']
    sources += [f"{HEAD}endpoint: {one}" for one in (text, json.dumps(text))]
    sources += [f"{HEAD}samplingRatePerMillion: {text}"]
    for source in sources:
        with suppress(TracingConfigurationError):
            assert isinstance(parse(source), TracingConfiguration)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "tracing.yaml"
    with pytest.raises(TracingConfigurationError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: No such file or directory"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TracingConfigurationError, match="not UTF-8"):
        read(path)
    path.write_text(HEAD + "endpoint: x:1\n")
    assert read(path).endpoint == "x:1"


KUBELET = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def test_the_kubelets_stanza() -> None:
    assert parse_kubelet(KUBELET + "maxPods: 7\n") is None
    found = parse_kubelet(KUBELET + "tracing: {endpoint: x:1, samplingRatePerMillion: 7}\n")
    assert found == TracingConfiguration(endpoint="x:1", sampling_rate_per_million=7)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (KUBELET + "tracing: {rate: 1}", 'unknown field "tracing.rate"'),
        (
            KUBELET + "tracing: {samplingRatePerMillion: -1}",
            "tracing.samplingRatePerMillion: -1: sampling rate must be",
        ),
        (KUBELET + "tracing: 7", "tracing: 7 is not a map"),
        (HEAD, 'no kind "TracingConfiguration" is registered'),
        ("", 'no kind "" is registered'),
        ("a: [", "it is not YAML"),
    ],
)
def test_a_wrong_stanza(text: str, error: str) -> None:
    with pytest.raises(TracingConfigurationError) as caught:
        parse_kubelet(text)
    assert error in str(caught.value)


def test_one_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ValueError, match="unsupported scheme: http"):
        TracingConfiguration(endpoint="http://x:1")


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("unix://run/x", "invalid authority: run: write unix:///run/x"),
        ("unix-abstract://x", "invalid authority: x: write unix-abstract:///x"),
        ("DNS://collector:4317", "missing address: write collector:4317"),
        ("dns://collector:4317/", "missing address: write collector:4317"),
        ("collector", "a port is missing, so that gRPC asks 443: write collector:4317"),
        ("10.0.0.1", "a port is missing, so that gRPC asks 443: write 10.0.0.1:4317"),
        ("[::1]", "a port is missing, so that gRPC asks 443: write [::1]:4317"),
        ("x:", "a port is missing, so that gRPC asks 443: write x:4317"),
        ("dns:///x", "a port is missing, so that gRPC asks 443: write x:4317"),
        ("x:0", "0 is not a port: write x:4317"),
        ("x:70000", "70000 is not a port: write x:4317"),
        ("::1:4317", "an IPv6 address stands in brackets: write [::1]:4317"),
        ("user:pw@x:1", "user:pw@ is not part of an address: write x:1"),
        (
            "10.0.0.1:4318",
            "4318 is the port of OTLP over HTTP, and this is gRPC: write 10.0.0.1:4317",
        ),
        ("x:80/v1/traces", "a path is for HTTP, and this is gRPC: write x:80"),
        ("dns:///x:1/v1/traces", "a path is for HTTP, and this is gRPC: write x:1"),
        ("dns://8.8.8.8/x:1/v1", "a path is for HTTP, and this is gRPC: write x:1"),
        (
            "ipv4:127.0.0.1:1",
            "ipv4: is a scheme that gRPC in Go does not have: write 127.0.0.1:1",
        ),
        ("", "it is empty: leave it out for localhost:4317"),
    ],
)
def test_what_kubernetes_takes_and_grpc_does_not(endpoint: str, why: str) -> None:
    assert parse(f"endpoint: {json.dumps(endpoint)}").endpoint == endpoint
    assert unreachable(endpoint) == f'endpoint: "{endpoint}": no connection, {why}'


@pytest.mark.parametrize(
    "endpoint",
    [
        None,
        "x:1",
        ":4317",
        "[::1]:1",
        "unix:///run/x",
        "unix:/run/x",
        "unix-abstract:///x",
        "dns:///x:1",
        "dns:x:1",
        "dns://192.0.2.1/x:1",
        "service.example.org:4317",
        "svc:4317",
    ],
)
def test_what_grpc_connects_to(endpoint: str | None) -> None:
    assert unreachable(endpoint) == ""


@pytest.mark.parametrize(
    "endpoint",
    [
        "k8strace.observability.svc:4317",
        "collector.observability.svc.cluster.local:4317",
        "collector.observability.SVC.example.org.:4317",
        "dns:///collector.observability.svc:4317",
        "collector-0.collector.x.pod.cluster.local:4317",
    ],
)
def test_names_of_services(endpoint: str) -> None:
    assert "it names a Service, which the resolver of the node" in unreachable(endpoint)
