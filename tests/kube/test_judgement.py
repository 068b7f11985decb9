"""Files and feature gates, judged for components of a version."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8strace.kube.judgement import judged, notes, verdict

APISERVER = "apiVersion: apiserver.config.k8s.io/{}\nkind: TracingConfiguration\n"
RATE = "samplingRatePerMillion: 100\n"
KUBELET = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
TRACED = KUBELET + "tracing: {endpoint: x:1, samplingRatePerMillion: 100}\n"
GATED = TRACED + "featureGates:\n  KubeletTracing: "

STARTS = "starts"
IGNORES = "starts with parts ignored"
STOPS = "does not start"


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    return Judge(tmp_path / "file.yaml")


class Judge:
    """Judges a text in a file: the verdict, and each problem as "line: text"."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(
        self, component: str, version: str, gates: str, text: str
    ) -> tuple[str, list[str]]:
        self._path.write_text(text)
        major, minor = map(int, version.split("."))
        _, problems = judged(component, self._path, (major, minor), gates)
        shown = [f"{problem.line or '-'}: {problem.text}" for problem in problems]
        return verdict(problems), shown


@pytest.mark.parametrize(
    ("version", "gates", "text"),
    [
        ("1.22", "APIServerTracing=true", APISERVER.format("v1alpha1") + RATE),
        ("1.26", "Other=false, APIServerTracing=True", APISERVER.format("v1alpha1") + RATE),
        ("1.27", "", APISERVER.format("v1beta1") + RATE),
        ("1.26", "APIServerTracing=T", APISERVER.format("v1alpha1") + RATE),
        ("1.33", "APIServerTracing=true", APISERVER.format("v1beta1") + RATE),
        ("1.34", "", APISERVER.format("v1") + RATE),
        ("1.34", "", APISERVER.format("v1") + "samplingRatePerMillion: 0"),
        ("1.36", "APIServerTracing=true", APISERVER.format("v1alpha1") + RATE),
        ("1.37", "XAPIServerTracing=true", APISERVER.format("v1") + RATE),
        (
            "1.34",
            "",
            APISERVER.format("v1") + RATE + "---\napiVersion: apiserver.config.k8s.io/v9",
        ),
        ("1.27", "", f"# apiserver.config.k8s.io/v9\nendpoint: localhost:4317\n{RATE}"),
    ],
)
def test_what_a_kube_apiserver_takes(
    judge: Judge, version: str, gates: str, text: str
) -> None:
    assert judge("kube-apiserver", version, gates, text) == (STARTS, [])


@pytest.mark.parametrize(
    ("version", "gates", "text", "result", "problem"),
    [
        (
            "1.33",
            "",
            APISERVER.format("v1") + RATE,
            STOPS,
            "1: kube-apiserver 1.33 does not know apiserver.config.k8s.io/v1: 1.34 is the",
        ),
        (
            "1.26",
            "",
            APISERVER.format("v1alpha1") + RATE,
            STOPS,
            "-: 1.26 needs --feature-gates=APIServerTracing=true; it says: "
            "APIServerTracing feature is not enabled, but tracing config file was provided",
        ),
        (
            "1.30",
            "APIServerTracing=false",
            APISERVER.format("v1beta1") + RATE,
            STOPS,
            "-: APIServerTracing=false: leave it out; it says: APIServerTracing feature is",
        ),
        (
            "1.34",
            "APIServerTracing=f",
            APISERVER.format("v1") + RATE,
            STOPS,
            "-: cannot set feature gate APIServerTracing to false, feature is locked to",
        ),
        (
            "1.37",
            "APIServerTracing=true",
            APISERVER.format("v1") + RATE,
            STOPS,
            "-: unrecognized feature gate: APIServerTracing: it was removed in 1.37",
        ),
        (
            "1.30",
            "APIServerTracing=maybe",
            APISERVER.format("v1beta1") + RATE,
            STOPS,
            "-: APIServerTracing=maybe: neither true nor false",
        ),
        (
            "1.21",
            "",
            APISERVER.format("v1alpha1") + RATE,
            STOPS,
            "-: kube-apiserver 1.21 has no tracing, 1.22 is the first; it says: unknown "
            "flag: --tracing-config-file",
        ),
        (
            "1.31",
            "",
            APISERVER.format("v1beta1") + RATE + "rate: 1\n",
            IGNORES,
            '4: unknown field "rate"',
        ),
        (
            "1.32",
            "",
            APISERVER.format("v1beta1") + RATE + "rate: 1\n",
            STOPS,
            '4: strict decoding error: unknown field "rate"',
        ),
        (
            "1.31",
            "",
            APISERVER.format("v1beta1") + RATE + RATE,
            IGNORES,
            '-: line 4: duplicate field "samplingRatePerMillion", the last one counts',
        ),
        (
            "1.32",
            "",
            APISERVER.format("v1beta1") + RATE + RATE,
            STOPS,
            '-: strict decoding error: line 4: duplicate field "samplingRatePerMillion"',
        ),
        (
            "1.27",
            "",
            APISERVER.format("v1beta1") + "samplingRatePerMillion: [1]\n",
            STOPS,
            "3: samplingRatePerMillion: [1] is not an integer of 32 bits",
        ),
        (
            "1.36",
            "",
            APISERVER.format("v1").replace("Tracing", "Egress") + RATE,
            STOPS,
            '2: no kind "EgressConfiguration" is registered for version '
            '"apiserver.config.k8s.io/v1": it is kind TracingConfiguration',
        ),
        (
            "1.36",
            "",
            APISERVER.format("v1") + "endpoint: http://x:1\n" + RATE,
            STOPS,
            '3: endpoint: "http://x:1": unsupported scheme: http.  Options are none, dns, ',
        ),
        ("1.36", "", "a: [b\n", STOPS, "-: it is not YAML: line 2: "),
        (
            "1.36",
            "",
            APISERVER.format("v1"),
            STARTS,
            "-: samplingRatePerMillion: is missing, which is 0: it begins no traces",
        ),
        (
            "1.36",
            "",
            APISERVER.format("v1") + RATE + "endpoint: unix-abstract://x\n",
            STARTS,
            '4: endpoint: "unix-abstract://x": no connection, invalid authority: x: write '
            "unix-abstract:///x",
        ),
        (
            "1.36",
            "",
            APISERVER.format("v1") + RATE + "endpoint: k8strace.observability.svc:4317\n",
            STARTS,
            '4: endpoint: "k8strace.observability.svc:4317": no connection, it names a ',
        ),
    ],
)
def test_what_becomes_of_a_kube_apiserver(
    judge: Judge, version: str, gates: str, text: str, result: str, problem: str
) -> None:
    found, problems = judge("kube-apiserver", version, gates, text)
    assert found == result
    (one,) = problems
    assert one.startswith(problem)


@pytest.mark.parametrize(
    ("version", "gates", "text", "result", "problem"),
    [
        ("1.25", "", GATED + "true", STARTS, None),
        ("1.25", "KubeletTracing=true", TRACED, STARTS, None),
        ("1.25", "KubeletTracing=true", GATED + "false", STARTS, None),  # the flag wins
        ("1.34", "", TRACED, STARTS, None),
        (
            "1.25",
            "",
            TRACED,
            STOPS,
            "-: 1.25 needs featureGates: {KubeletTracing: true}; it says: tracing should "
            "not be configured if KubeletTracing feature flag is disabled.",
        ),
        ("1.30", "", GATED + "false", STOPS, "5: KubeletTracing=false: leave it out; it"),
        (
            "1.34",
            "",
            GATED + "false",
            STOPS,
            "5: cannot set feature gate KubeletTracing to false",
        ),
        ("1.37", "", GATED + "true", STOPS, "5: unrecognized feature gate: KubeletTracing"),
        ("1.24", "", TRACED, IGNORES, "3: kubelet 1.24 has no tracing, 1.25 is the first"),
        ("1.34", "", KUBELET, STARTS, "-: the kubelet has no `tracing`: it makes no spans"),
        (
            "1.34",
            "",
            f"{KUBELET}tracing: {{}}\n",
            STARTS,
            "3: tracing.samplingRatePerMillion: is missing, which is 0",
        ),
        (
            "1.37",
            "",
            f"{KUBELET}tracing:\n  samplingRatePerMillion: 1\n  sampler: always_on\n",
            IGNORES,
            '5: unknown field "tracing.sampler"',
        ),
        (
            "1.34",
            "",
            f"{KUBELET}tracing:\n  endpoint: dns://x:1\n  samplingRatePerMillion: 1\n",
            STARTS,
            '4: endpoint: "dns://x:1": no connection, missing address: write x:1',
        ),
        (
            "1.34",
            "",
            f"{KUBELET}tracing:\n  samplingRatePerMillion: 1\n  endpoint: http://x\n",
            STOPS,
            '5: tracing.endpoint: "http://x": unsupported scheme: http.',
        ),
        ("1.34", "", f"{KUBELET}tracing: 7\n", STOPS, "3: tracing: 7 is not a map"),
    ],
)
def test_what_becomes_of_a_kubelet(
    judge: Judge, version: str, gates: str, text: str, result: str, problem: str | None
) -> None:
    found, problems = judge("kubelet", version, gates, text)
    assert found == result
    if problem is None:
        assert problems == []
    else:
        (one,) = problems
        assert one.startswith(problem)


def test_a_kubelet_without_tracing_may_have_its_gate_off(judge: Judge) -> None:
    text = KUBELET + "featureGates: {KubeletTracing: false}\n"
    found, problems = judge("kubelet", "1.30", "", text)
    assert found == STARTS
    assert len(problems) == 1


def test_before_tracing_a_kubelet_does_not_know_the_gate(judge: Judge) -> None:
    found, problems = judge("kubelet", "1.24", "", GATED + "true")
    assert found == STOPS
    assert problems[0] == "5: unrecognized feature gate: KubeletTracing"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for component in ("kube-apiserver", "kubelet"):
        _, (problem,) = judged(component, tmp_path / "none.yaml", (1, 34), "")
        assert "no such file" in problem.text.lower()
        assert (problem.effect, problem.line) == ("stops", None)
    path = tmp_path / "tracing.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    _, (problem,) = judged("kubelet", path, (1, 34), "")
    assert "not UTF-8" in problem.text


def test_egress_selectors_before_1_26_are_spoken_of() -> None:
    (note,) = notes("kube-apiserver", (1, 25))
    assert "1.25 crashes" in note
    assert "controlplane" in note
    assert not notes("kube-apiserver", (1, 26))
    assert not notes("kubelet", (1, 25))
