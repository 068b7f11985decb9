"""Files and feature gates, judged for components of a version."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8strace.kube.judgement import judged

APISERVER = "apiVersion: apiserver.config.k8s.io/{}\nkind: TracingConfiguration\n"
KUBELET = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
TRACED = KUBELET + "tracing: {endpoint: x:1}\n"
GATED = TRACED + "featureGates:\n  KubeletTracing: "


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    return Judge(tmp_path / "file.yaml")


class Judge:
    """Judges a text that stands in a file; each problem as "line: text"."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, component: str, version: str, gates: str, text: str) -> list[str]:
        self._path.write_text(text)
        major, minor = map(int, version.split("."))
        problems = judged(component, self._path, (major, minor), gates)
        return [f"{problem.line or '-'}: {problem.text}" for problem in problems]


@pytest.mark.parametrize(
    ("version", "gates", "text"),
    [
        ("1.22", "APIServerTracing=true", APISERVER.format("v1alpha1")),
        ("1.26", "Other=false, APIServerTracing=True", APISERVER.format("v1alpha1")),
        ("1.27", "", APISERVER.format("v1beta1")),
        ("1.26", "APIServerTracing=T", APISERVER.format("v1alpha1")),
        ("1.33", "APIServerTracing=true", APISERVER.format("v1beta1")),
        ("1.34", "", APISERVER.format("v1")),
        ("1.36", "APIServerTracing=true", APISERVER.format("v1alpha1")),
        ("1.37", "XAPIServerTracing=true", APISERVER.format("v1")),
        (
            "1.34",
            "",
            APISERVER.format("v1") + "---\napiVersion: apiserver.config.k8s.io/v9",
        ),
        ("1.27", "", "# apiserver.config.k8s.io/v9\nendpoint: localhost:4317\n"),
    ],
)
def test_what_a_kube_apiserver_takes(
    judge: Judge, version: str, gates: str, text: str
) -> None:
    assert judge("kube-apiserver", version, gates, text) == []


@pytest.mark.parametrize(
    ("version", "gates", "text", "problems"),
    [
        (
            "1.33",
            "",
            APISERVER.format("v1"),
            [
                "1: kube-apiserver 1.33 does not know apiserver.config.k8s.io/v1: 1.34 is "
                "the first"
            ],
        ),
        (
            "1.26",
            "",
            APISERVER.format("v1alpha1"),
            ["-: 1.26 needs --feature-gates=APIServerTracing=true"],
        ),
        (
            "1.21",
            "APIServerTracing=true",
            "",
            ["-: 1.21 has no APIServerTracing: 1.22 is the first"],
        ),
        (
            "1.30",
            "APIServerTracing=false",
            APISERVER.format("v1beta1"),
            ["-: APIServerTracing=false switches tracing off"],
        ),
        (
            "1.34",
            "APIServerTracing=false",
            APISERVER.format("v1"),
            [
                "-: cannot set feature gate APIServerTracing to false, feature is locked "
                "to true"
            ],
        ),
        (
            "1.37",
            "APIServerTracing=true",
            APISERVER.format("v1"),
            [
                "-: unrecognized feature gate: APIServerTracing: it was removed in 1.37, "
                "tracing is always there: leave the gate out"
            ],
        ),
        (
            "1.30",
            "APIServerTracing=maybe",
            APISERVER.format("v1beta1"),
            [
                "-: invalid value of APIServerTracing=maybe, err: strconv.ParseBool: "
                'parsing "maybe": invalid syntax'
            ],
        ),
        (
            "1.36",
            "",
            APISERVER.format("v1") + "x: 1\nrate: 1\n",
            [
                "3: failed to read tracing config: unable to decode tracing configuration "
                'data: strict decoding error: unknown field "rate", unknown field "x"'
            ],
        ),
        (
            "1.36",
            "",
            APISERVER.format("v1") + "samplingRatePerMillion: [1]\n",
            [
                "3: failed to read tracing config: unable to decode tracing configuration "
                "data: json: cannot unmarshal array into Go struct field "
                "TracingConfiguration.TracingConfiguration.samplingRatePerMillion of type "
                "int32"
            ],
        ),
        (
            "1.36",
            "",
            APISERVER.format("v1") + "endpoint: unix-abstract://x\n",
            [
                '3: endpoint: "unix-abstract://x": no connection, invalid authority: x: '
                "write unix-abstract:///x"
            ],
        ),
        (
            "1.36",
            "",
            APISERVER.format("v1").replace("Tracing", "Egress"),
            [
                "2: failed to read tracing config: unable to decode tracing configuration "
                'data: no kind "EgressConfiguration" is registered for version '
                '"apiserver.config.k8s.io/v1" in scheme "pkg/runtime/scheme.go:111"'
            ],
        ),
    ],
)
def test_what_a_kube_apiserver_does_not_take(
    judge: Judge, version: str, gates: str, text: str, problems: list[str]
) -> None:
    assert judge("kube-apiserver", version, gates, text) == problems


def test_what_is_no_yaml_has_its_line_in_the_error(judge: Judge) -> None:
    (problem,) = judge("kube-apiserver", "1.36", "", "a: [b\n")
    assert problem.startswith("-: failed to read tracing config: ")
    assert "yaml: line 1: did not find" in problem


@pytest.mark.parametrize(
    ("version", "gates", "text", "problems"),
    [
        ("1.25", "", GATED + "true", []),
        ("1.25", "KubeletTracing=true", TRACED, []),
        ("1.34", "", TRACED, []),
        ("1.25", "", TRACED, ["-: 1.25 needs featureGates: {KubeletTracing: true}"]),
        (
            "1.34",
            "KubeletTracing=true",  # the file's counts
            GATED + "false",
            [
                "5: cannot set feature gate KubeletTracing to false, feature is locked to "
                "true"
            ],
        ),
        ("1.34", "", KUBELET, ["-: the kubelet has no `tracing`: it makes no spans"]),
        (
            "1.34",
            "",
            f"{KUBELET}tracing:\n  endpoint: dns://x:1\n",
            ['4: endpoint: "dns://x:1": no connection, missing address: write x:1'],
        ),
        (
            "1.34",
            "",
            f"{KUBELET}tracing:\n  samplingRatePerMillion: 1\n  endpoint: http://x\n",
            [
                "5: failed to validate kubelet configuration: tracing.endpoint: Invalid "
                'value: "http://x": unsupported scheme: http.  Options are none, dns, '
                "unix, or unix-abstract.  See "
                "https://github.com/grpc/grpc/blob/master/doc/naming.md"
            ],
        ),
    ],
)
def test_kubelets(
    judge: Judge, version: str, gates: str, text: str, problems: list[str]
) -> None:
    assert judge("kubelet", version, gates, text) == problems


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for component in ("kube-apiserver", "kubelet"):
        (problem,) = judged(component, tmp_path / "none.yaml", (1, 34), "")
        assert "none.yaml" in problem.text
        assert "no such file" in problem.text.lower()
        assert problem.line is None
