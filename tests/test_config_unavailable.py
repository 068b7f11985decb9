"""Names that the collector has and k8strace doesn't are told from those nobody knows."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest

from k8strace.component import ComponentID
from k8strace.components import COMPONENTS
from k8strace.config import load
from k8strace.config_structs import is_struct, read_annotation
from k8strace.config_telemetry import Telemetry
from k8strace.config_unavailable import (
    _COMPONENTS,
    _OTHER_SPELLINGS,
    reference_hint,
    refusal,
)
from k8strace.errors import ConfigError

SINGULAR = {kind: kind.removesuffix("s") for kind in _COMPONENTS}


def said(kind: str, type_: str) -> str:
    return refusal(kind, SINGULAR[kind], type_, COMPONENTS.get(kind, ()))


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        *[(kind, one) for kind, names in _COMPONENTS.items() for one in names],
        *[(kind, one) for kind, names in _OTHER_SPELLINGS.items() for one in names],
        ("processors", "k8s_attributes"),
        ("processors", "gen_ai_normalizer"),
        ("receivers", "host_metrics"),
        ("exporters", "splunk_hec"),
        ("extensions", "docker_observer"),
    ],
)
def test_what_the_collector_has_is_not_unknown(kind: str, type_: str) -> None:
    text = said(kind, type_)
    before = f"{SINGULAR[kind]} type {type_!r} is not available in k8strace; "
    assert text.startswith(before)
    assert len(text) > len(before)
    assert "did you mean" not in text


def test_no_name_is_both_ours_and_not_available() -> None:
    for kind, types in COMPONENTS.items():
        ours = {name.replace("_", "") for name in types}
        assert not ours & _COMPONENTS[kind].keys()


@pytest.mark.parametrize(
    ("kind", "type_", "hint"),
    [
        ("exporters", "otlp_grcp", "; did you mean otlp_grpc?"),
        (
            "exporters",
            "oltphttp",
            "; did you mean otlphttp, which is not available in k8strace?",
        ),
        ("processors", "tail_smapling", "; did you mean tail_sampling, which is not"),
        ("connectors", "spanmetric", "; did you mean spanmetrics, which is not available"),
        ("extensions", "healthcheck_v3", "; did you mean healthcheckv2, which is not"),
        ("exporters", "oltp", "; did you mean otlp?"),
        ("processors", "bacth", "; did you mean batch?"),
        # Of distributions of others; "did you mean azuredataexplorer" helps nobody.
        ("exporters", "metadataexporter", ""),
        ("connectors", "signozmeter", ""),
        ("processors", "concurrentbatch", ""),
        ("receivers", "xyzzy", ""),
    ],
)
def test_what_nobody_knows_is_unknown(kind: str, type_: str, hint: str) -> None:
    text = said(kind, type_)
    start = f"unknown {SINGULAR[kind]} type {type_!r}"
    assert text.startswith(start + hint)
    assert hint or text == start


@pytest.mark.parametrize(
    ("named", "declared", "hint"),
    [
        ("otlphttp", ["otlp"], ""),
        ("otlp_http", ["otlp_grpc"], ""),
        ("logzio", ["logging"], ""),
        ("otlp_http", ["otlphttp", "otlp"], "; did you mean otlphttp?"),
        ("otlp_grpc", ["otlp"], "; did you mean otlp?"),
        ("otlp/x", ["otlp_grpc/x"], "; did you mean otlp_grpc/x?"),
        ("otlp/x", ["otlp/y", "otlphttp/x"], "; did you mean otlp/y?"),
        ("otlp", ["otpl"], "; did you mean otpl?"),
        ("oltp", ["otlp", "debug"], "; did you mean otlp?"),
    ],
)
def test_a_reference_is_not_taken_for_another_component(
    named: str, declared: list[str], hint: str
) -> None:
    ids = [ComponentID.parse(one) for one in declared]
    ours = COMPONENTS["exporters"]
    assert reference_hint("exporters", ComponentID.parse(named), ids, ours) == hint


def structs(of: Any) -> set[Any]:
    """A configuration's, and those of its options."""
    found = {of}
    for field in msgspec.structs.fields(of):
        inner = read_annotation(field.type).inner
        for one in (inner, *typing.get_args(inner)):
            if is_struct(one):
                found |= structs(one)
    return found


def test_no_option_is_both_there_and_not_available() -> None:
    configs = [one.config_type for types in COMPONENTS.values() for one in types.values()]
    seen = {one for config in (*configs, Telemetry) for one in structs(config)}
    assert len(seen) > 30
    for one in seen:
        lacking = getattr(one, "not_available", {})
        assert not lacking.keys() & set(one.__struct_encode_fields__), one


PIPELINES = """yaml:
receivers: {otlp: {protocols: {grpc: }}}
exporters: {debug: , otlp/bad: {}}
%s
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [%s]}
    metrics: {receivers: [%s], exporters: [otlp/bad]}
"""


def problems(uri: str, *, traces_only: bool = True) -> list[str]:
    try:
        load([uri], traces_only=traces_only)
    except ConfigError as error:
        return [problem.partition(": ")[2] for problem in error.problems]
    return []


def test_what_only_other_signals_use_is_left_out() -> None:
    uri = PIPELINES % ("", "debug", "otlp")
    loaded = load([uri], traces_only=True)
    assert list(map(str, loaded.config.exporters)) == ["debug"]
    assert [note.partition(": ")[2] for note in loaded.notes] == [
        "service::pipelines::metrics: left out: not traces",
        "exporters::otlp/bad: left out: no pipeline of traces names it",
    ]


EXTENSIONS = """yaml:
receivers:
  otlp: {protocols: {grpc: %s}}
  k8s_cluster: {k8s_leader_elector: k8s_leader_elector/one}
exporters:
  debug:
  prometheusremotewrite: {auth: {authenticator: headers_setter}, note: health_check}
extensions:
  k8s_leader_elector/one:
  headers_setter: {additional_auth: basicauth, headers: [{key: a, value: b}]}
  basicauth: {client_auth: {username: a, pasword: b}}
  health_check:
service:
  extensions: [health_check, k8s_leader_elector/one, headers_setter, basicauth]
  pipelines:
    traces: {receivers: [otlp], exporters: [debug]}
    metrics: {receivers: [k8s_cluster], exporters: [prometheusremotewrite]}
"""


def test_extensions_that_only_other_signals_need_are_left_out() -> None:
    """Also those that such ones name; never what does something by itself."""
    loaded = load([EXTENSIONS % ""], traces_only=True)
    assert list(map(str, loaded.config.service.extensions)) == ["health_check"]
    assert list(map(str, loaded.config.extensions)) == ["health_check"]
    text = "left out: nothing that pipelines of traces name needs it"
    assert [note.partition(": ")[2] for note in loaded.notes if text in note] == [
        f"extensions::k8s_leader_elector/one: {text}",
        f"extensions::headers_setter: {text}",
        f"extensions::basicauth: {text}",
    ]


def test_an_extension_that_traces_need_is_judged() -> None:
    cannot, unknown = sorted(problems(EXTENSIONS % "{auth: {authenticator: basicauth}}"))[
        ::-1
    ]
    path = "extensions::basicauth::client_auth::pasword"
    assert unknown == f"{path}: unknown option; did you mean password?"
    assert "cannot authenticate the callers of a server" in cannot
    everything = problems(EXTENSIONS % "", traces_only=False)
    assert unknown in everything
    assert any(one.startswith("extensions::k8s_leader_elector/one") for one in everything)


def test_what_traces_use_or_nobody_is_checked() -> None:
    uri = PIPELINES % ("", "debug, otlp/bad", "otlp")
    assert any("requires a non-empty" in one for one in problems(uri))
    uri = (PIPELINES % ("", "debug", "otlp")).replace(
        "exporters: [otlp/bad]", "exporters: [x]"
    )
    assert any("requires a non-empty" in one for one in problems(uri))


def test_a_limit_without_room_is_told_beside_what_else_is_wrong() -> None:
    limit = "processors: {memory_limiter: {check_interval: 1s, limit_mib: 2}}"
    uri = (PIPELINES % (limit, "debug, otlp/bad", "otlp")).replace(
        "traces: {", "traces: {processors: [memory_limiter], "
    )
    found = problems(uri)
    assert len(found) == 2
    assert found[1].startswith("processors::memory_limiter: the soft limit (limit less ")
    assert "leaves no room for spans" in found[1]


def test_a_connector_is_reported_once() -> None:
    uri = PIPELINES % ("connectors: {spanmetrics: }", "debug, spanmetrics", "spanmetrics")
    (problem,) = problems(uri)
    assert problem.startswith(
        "connectors::spanmetrics: connector type 'spanmetrics' is not"
    )
