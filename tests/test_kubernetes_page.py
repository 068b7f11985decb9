"""docs/kubernetes.md: each configuration is taken by what it is for, figures are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace.gen import main
from k8strace.kube.judgement import judged
from k8strace.kube.tracing_config import KIND, TracingConfigurationError, parse
from k8strace.kube.versions import Version
from scripts.trace_costs import Figures, figures, report
from tests.support.clients import KUBE, recorded

PAGE = Path("docs/kubernetes.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(PAGE)

# What scripts/trace_costs.py found in the recording that the page speaks of.
RECORDED = Figures(
    requests=12_426,
    spans=136_757,
    size=41_394_252,
    packed=8_964_835,
    idle=6.0,
    loaded=720.8666666666667,
    served=66.26666666666667,
)


def blocks(language: str) -> list[str]:
    return [text for named, text in BLOCKS if named == language]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    kinds = {language for language, _ in BLOCKS}
    assert kinds == {"yaml", "console", "text"}


OF_DISTRIBUTIONS = FENCE.findall(Path("docs/distributions.md").read_text())


@pytest.mark.parametrize(
    "block",
    [*blocks("console"), *(text for _, text in OF_DISTRIBUTIONS)],
    ids=lambda text: text.split("\n")[0],
)
def test_what_gen_prints(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, _, output = block.partition("\n")
    start, module, *arguments = command.removeprefix("$ ").partition(" -m ")[2].split()
    assert (start, module) == ("k8strace.gen", "tracing-config")
    assert main([module, *arguments]) == 0
    assert capsys.readouterr().out == output


def test_yaml_is_of_the_gateway_of_kube_apiserver_or_an_environment() -> None:
    files = []
    for text in blocks("yaml"):
        values = yaml.safe_load(text)
        if values.get("kind") == KIND:
            files.append(parse(text))
        elif "env" in values:
            ((name, value),) = [one.values() for one in values["env"]]
            assert (name, value) == ("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=blue")
        elif "spec" in values:
            (container,) = values["spec"]["containers"]
            mounted = {one["name"] for one in container["volumeMounts"]}
            assert mounted == {one["name"] for one in values["spec"]["volumes"]}
        else:
            assert "service" in values  # those are run
    assert [one.endpoint for one in files] == ["unix:///run/k8strace/otlp.sock"]


def versions(text: str) -> list[Version]:
    """Those that a row is of: a range, or from one on."""
    first, *last = [int(minor) for minor in re.findall(r"1\.(\d+)", text)]
    return [(1, minor) for minor in range(first, (last or [first + 1])[0] + 1)]


ROWS = re.findall(r"^\| ((?:from )?1\.[23]\d.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("of", "apiserver", "kubelet"), ROWS)
def test_versions_are_those_of_gen(
    of: str,
    apiserver: str,
    kubelet: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "file.yaml"
    for component, said in (("kube-apiserver", apiserver), ("kubelet", kubelet)):
        gate = "KubeletTracing" if component == "kubelet" else "APIServerTracing"
        for version in versions(of):
            arguments = ("--kubernetes", "{}.{}".format(*version), "--component", component)
            status = main(["tracing-config", *arguments])
            text = capsys.readouterr().out
            assert (status == 1) == (said == "no tracing")
            if status == 1:
                continue
            assert (gate in text) == ("gate" in said.lower() and "true" in said)
            if component == "kube-apiserver":
                assert f"apiVersion: apiserver.config.k8s.io/{said.split('`')[1]}\n" in text
            path.write_text(text)
            does_not_start = bool(judged(component, path, version, f"{gate}=true")[1])
            assert does_not_start == ("does not start" in said)
            if gate not in text:
                off = judged(component, path, version, f"{gate}=false")[1]
                assert ("locked" in off[0].text) == ("cannot be switched off" in said)


def test_there_are_rows_for_all_versions() -> None:
    listed = [version for row in ROWS for version in versions(row[0])]
    assert listed == [(1, minor) for minor in range(22, 39)]


def test_errors_of_components_are_those_that_we_know() -> None:
    head = "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n"
    for wrong, said in (
        ("endpoint: http://x", r"`(unsupported scheme: http\..*?)`"),
        ("x: 1", r"`(strict decoding error: unknown field \")"),
    ):
        with pytest.raises(TracingConfigurationError) as caught:
            parse(head + wrong)
        (shown,) = re.findall(said, PAGE)
        assert shown in str(caught.value)


def test_costs_are_computed() -> None:
    (shown,) = re.findall(r"<!-- costs -->\n(.*?)<!-- /costs -->", PAGE, re.DOTALL)
    assert shown == report(RECORDED)


def test_costs_of_a_recording() -> None:
    requests = [ExportTraceServiceRequest.FromString(body) for body in recorded()]
    spans = [
        (resource, span)
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    found = figures([KUBE])
    assert found.spans == len(spans)
    assert found.size == sum(map(len, recorded()))
    assert found.requests == sum(
        span.kind == span.SPAN_KIND_SERVER and "apiserver" in str(resource.resource)
        for resource, span in spans
    )
    assert 0 < found.packed < found.size / 3
    assert found.idle <= found.loaded


def test_containerds_rows_are_those_of_gen(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(
        r"^\| (?:from )?([\d.]+)(?: \u2013 ([\d.]+))? \| (.*?) \| .*\|$", PAGE, re.MULTILINE
    )
    rows = [row for row in rows if row[2] in ("`config.toml`", "its environment")]
    assert len(rows) == 6
    for first, last, what in rows:
        for version in (first, last or "2.2.0"):
            arguments = ("--component", "containerd", "--kubernetes", version)
            assert main(["tracing-config", *arguments]) == 0
            shown = capsys.readouterr().out
            assert ("[Service]" in shown) == (what == "its environment")
