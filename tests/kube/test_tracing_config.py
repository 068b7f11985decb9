"""TracingConfiguration, held against what the real kube-apiserver says of the same files.

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
def test_says_what_the_apiserver_says(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(TracingConfigurationError) as caught:
            parse(case["text"])
        assert str(caught.value) == case["error"]
        return
    found = parse(case["text"])
    assert found == TracingConfiguration(
        endpoint=case["endpoint"], sampling_rate_per_million=case["samplingRatePerMillion"]
    )


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
    assert str(caught.value) == (
        "failed to read tracing config: unable to read tracing configuration from "
        f'"{path}": open {path}: no such file or directory'
    )
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
        (
            KUBELET + "tracing: {rate: 1}",
            'strict decoding error: unknown field "tracing.rate"',
        ),
        (
            KUBELET + "tracing: {samplingRatePerMillion: -1}",
            "tracing.samplingRatePerMillion: Invalid value: -1: sampling rate must be",
        ),
        (KUBELET + "tracing: 7", "cannot unmarshal number"),
        (HEAD, 'no kind "TracingConfiguration" is registered'),
        ("", 'no kind "" is registered'),
        ("a: [", "yaml: "),
    ],
)
def test_a_wrong_stanza(text: str, error: str) -> None:
    with pytest.raises(TracingConfigurationError, match=r"^failed to ") as caught:
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
    ],
)
def test_what_kubernetes_takes_and_grpc_does_not(endpoint: str, why: str) -> None:
    assert parse(f"endpoint: {endpoint}").endpoint == endpoint
    assert unreachable(endpoint) == f'endpoint: "{endpoint}": no connection, {why}'


@pytest.mark.parametrize(
    "endpoint",
    [
        None,
        "",
        "x:1",
        "[::1]:1",
        "unix:///run/x",
        "dns:///x:1",
        "dns://192.0.2.1/x:1",
        "dns",
    ],
)
def test_what_grpc_connects_to(endpoint: str | None) -> None:
    assert unreachable(endpoint) == ""
