"""Whole configurations: every mistake is found and placed, what is right is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from k8strace.component import NO_EFFECT, Component, ComponentID, Config
from k8strace.components import COMPONENTS
from k8strace.config import GatewayConfig, Loaded, check_id, load, render
from k8strace.errors import ConfigError
from k8strace.secret import Secret
from k8strace.units import Duration

CASES = Path(__file__).with_name("config")
MINIMAL = (
    "yaml:{receivers: {otlp: }, exporters: {quiet: },"
    " service: {pipelines: {traces: {receivers: [otlp], exporters: [quiet]}}}}"
)


class GRPC(Config, frozen=True, kw_only=True):
    endpoint: str = "localhost:4317"
    max_recv_msg_size_mib: int = 64
    read_buffer_size: Annotated[int, NO_EFFECT] = 0


class Protocols(Config, frozen=True, kw_only=True):
    grpc: GRPC | None = None
    http: GRPC | None = None


class OTLP(Config, frozen=True, kw_only=True):
    protocols: Protocols = Protocols()


class Batch(Config, frozen=True, kw_only=True):
    timeout: Duration = Duration(0.2)
    send_batch_size: Annotated[int, msgspec.Meta(ge=0)] = 8192
    send_batch_max_size: int = 0
    metadata_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if 0 < self.send_batch_max_size < self.send_batch_size:
            raise ValueError(
                f"send_batch_max_size ({self.send_batch_max_size}) must not be less than "
                f"send_batch_size ({self.send_batch_size})"
            )


class Queue(Config, frozen=True, kw_only=True):
    enabled: bool = True
    queue_size: int = 1000

    def __post_init__(self) -> None:
        if self.queue_size <= 0:
            raise ValueError(f"queue_size must be positive, not {self.queue_size}")


class Backend(Config, frozen=True, kw_only=True):
    endpoint: str
    enabled: bool = True
    compression: Literal["gzip", "none"] = "gzip"
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    token: Secret = Secret()
    ratio: float = 1.0
    sending_queue: Queue = Queue()

    def __post_init__(self) -> None:
        if 0 < len(self.token.reveal()) < 20:
            raise ValueError(f"token {self.token.reveal()} is too short")


class Size(Config, frozen=True, kw_only=True):
    size: int = 1


class Quiet(Config, frozen=True, kw_only=True):
    queue: Size = Size(size=5)


class Health(Config, frozen=True, kw_only=True):
    endpoint: str = "localhost:13133"


def component(of: str, name: str, config: type[Config]) -> type[Component[Any]]:
    class Fake(Component[Config]):
        kind = of
        type_name = name
        config_type = config

    return Fake


TABLE = {
    "receivers": {"otlp": component("receivers", "otlp", OTLP)},
    "processors": {"batch": component("processors", "batch", Batch)},
    "exporters": {
        "backend": component("exporters", "backend", Backend),
        "quiet": component("exporters", "quiet", Quiet),
    },
    "extensions": {"health_check": component("extensions", "health_check", Health)},
}


def problems_of(*uris: str, sets: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(uris, sets, components=TABLE)
    return caught.value.problems


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.glob("*.yaml")))
def test_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comments at the head of each file say what must be reported, in this order."""
    monkeypatch.chdir(CASES)
    monkeypatch.delenv("UNSET", raising=False)
    text = Path(name).read_text().replace("{file}", name)
    head = [line for line in text.splitlines() if line.startswith("# ")]
    expected = [line[11:] for line in head if line.startswith("# problem: ")]
    notes = [line[8:] for line in head if line.startswith("# note: ")]
    traces_only = "# traces-only" in head
    problems: list[str] = []
    try:
        loaded = load([name], traces_only=traces_only, components=TABLE)
    except ConfigError as error:
        problems = error.problems
    else:
        assert list(loaded.notes) == notes
    assert problems == expected
    assert "hunter2" not in "".join(problems)


def test_every_case_says_what_it_is() -> None:
    for path in CASES.glob("*.yaml"):
        assert path.read_text().startswith(("# problem: ", "# note: ", "# traces-only"))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> GatewayConfig:
    monkeypatch.delenv("MY_POD_IP", raising=False)
    return load([str(CASES / "full.yaml")], components=TABLE).config


def test_what_is_written_arrives_typed(full: GatewayConfig) -> None:
    otlp = full.receivers[ComponentID("otlp")]
    assert otlp == OTLP(
        protocols=Protocols(
            grpc=GRPC(endpoint="0.0.0.0:4317", read_buffer_size=524288), http=GRPC()
        )
    )
    assert full.receivers[ComponentID("otlp", "unused")] == OTLP()
    assert full.processors == {
        ComponentID("batch"): Batch(timeout=Duration(90), metadata_keys=("tenant", "zone")),
        ComponentID("batch", "second"): Batch(timeout=Duration(0), send_batch_size=16),
        ComponentID("batch", "third"): Batch(timeout=Duration(0), send_batch_size=1000),
    }
    assert full.exporters[ComponentID("backend")] == Backend(
        endpoint="tempo:4317",
        headers={"x-tenant": "007", "authorization": "Bearer ${x}"},
        sending_queue=Queue(queue_size=5),
    )
    assert full.exporters[ComponentID("quiet")] == Quiet(queue=Size(size=7))
    service = full.service
    assert service.extensions == (ComponentID("health_check"),)
    assert list(map(str, service.pipelines)) == ["traces", "traces/two"]
    assert service.pipelines[ComponentID("traces")].processors == (
        ComponentID("batch"),
        ComponentID("batch", "second"),
    )
    telemetry = service.telemetry
    assert telemetry.prometheus is not None
    assert (telemetry.prometheus.host, telemetry.prometheus.port) == ("0.0.0.0", 9999)
    assert telemetry.resource_attributes == {"service.name": "gateway", "build": "0123"}
    assert telemetry.suppressed_attributes == {"service.version"}


def test_a_configuration_is_frozen(full: GatewayConfig) -> None:
    with pytest.raises(AttributeError):
        full.service = full.service  # type: ignore[misc]


@pytest.mark.parametrize("fmt", ["yaml", "json"])
def test_what_is_rendered_is_the_same_configuration(
    full: GatewayConfig, fmt: Literal["yaml", "json"]
) -> None:
    text = render(full, "unredacted", fmt)
    assert load([f"yaml:{text}"], components=TABLE).config == full


def test_rendering_hides_secrets() -> None:
    text = "token: 'hunter2 and twenty more characters', headers: {a: hunter2}"
    loaded = load(
        [MINIMAL, f"yaml:exporters: {{backend: {{endpoint: a, {text}}}}}"],
        components=TABLE,
    )
    shown = render(loaded)
    assert "hunter2" not in shown
    backend = yaml.safe_load(shown)["exporters"]["backend"]
    assert backend["headers"] == {"a": "[REDACTED]"}
    assert backend["token"] == "[REDACTED]"
    assert "hunter2" in render(loaded, "unredacted", "json")


def test_problems_of_the_start_are_placed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "receivers: {otlp: }\n"
        "exporters:\n"
        "  backend:\n"
        "    endpoint: a\n"
        "service: {pipelines: {traces: {receivers: [otlp], exporters: [backend]}}}\n"
    )
    loaded = load([str(path)], components=TABLE)
    assert loaded.placed(
        [
            "exporters::backend::endpoint: cannot listen on a: b",
            "exporters::backend::token: is not given, but wrong",
            "exporters::backend/other: is not there",
            "something else: went wrong",
        ]
    ) == [
        f"{path}:4: exporters::backend::endpoint: cannot listen on a: b",
        f"{path}:3: exporters::backend::token: is not given, but wrong",
        f"{path}:2: exporters::backend/other: is not there",
        "something else: went wrong",
    ]
    already = [f"{path}:4: exporters::backend: wrong"]
    assert loaded.placed(already) == already
    assert Loaded(loaded.config, ()).placed(["exporters::backend: a"]) == [
        "exporters::backend: a"
    ]


def test_rendering_shows_defaults_and_not_what_is_off() -> None:
    shown = json.loads(render(load([MINIMAL], components=TABLE), fmt="json"))
    assert shown["receivers"] == {"otlp": {"protocols": {}}}
    assert shown["exporters"] == {"quiet": {"queue": {"size": 5}}}
    assert "processors" not in shown
    assert shown["service"]["pipelines"]["traces"]["receivers"] == ["otlp"]


def test_without_uris_it_is_the_built_in_default() -> None:
    config = load([], ["receivers.otlp.protocols.grpc.endpoint=a:1"], components=DEFAULTS)
    otlp = config.config.receivers[ComponentID("otlp")]
    assert otlp == OTLP(protocols=Protocols(grpc=GRPC(endpoint="a:1")))
    service = config.config.service
    assert list(map(str, service.extensions)) == ["health_check"]
    assert service.telemetry.prometheus is not None
    assert service.telemetry.prometheus.port == 8888
    assert config.notes == ()


DEFAULTS = {**TABLE, "exporters": {"debug": component("exporters", "debug", Quiet)}}


def test_the_built_in_default_fits_the_components() -> None:
    loaded = load([])
    assert loaded.notes == ()
    assert load([f"yaml:{render(loaded, 'unredacted')}"]).config == loaded.config
    named = loaded.config.service.pipelines[ComponentID("traces")]
    assert {id_.type for id_ in named.exporters} <= set(COMPONENTS["exporters"])


@pytest.mark.parametrize("path", sorted((CASES / "collector").glob("*.yaml")))
def test_a_configuration_of_the_collector_is_taken_as_it_is(path: Path) -> None:
    loaded = load([str(path)])
    assert loaded.notes == ()
    assert load([f"yaml:{render(loaded, 'unredacted')}"]).config == loaded.config


def test_later_sources_win_and_set_wins_over_all() -> None:
    config = load(
        [
            MINIMAL,
            "yaml:processors::batch::timeout: 1s",
            "yaml:processors: {batch: {timeout: 2s, metadata_keys: [a]}}",
            "yaml:processors: {batch: {send_batch_size: 7}}",
            "yaml:processors: {batch: {metadata_keys: [b, c]}}",
        ],
        ["processors.batch.timeout=3s"],
        components=TABLE,
    ).config
    assert config.processors[ComponentID("batch")] == Batch(
        timeout=Duration(3), send_batch_size=7, metadata_keys=("b", "c")
    )


def test_mistakes_of_all_sources_are_reported_together() -> None:
    found = problems_of(
        MINIMAL,
        "yaml:processors: {batch: {timeuot: 1s}}",
        sets=("processors.batch/x.timeout=1", "exporters.backend.endpoint={}"),
    )
    assert found == [
        "--config yaml:1: processors::batch::timeuot: unknown option; "
        "did you mean timeout?",
        "--set processors.batch/x.timeout: processors::batch/x::timeout: "
        "a duration needs a unit: write 1s or 1ms",
        "--set exporters.backend.endpoint: exporters::backend::endpoint: "
        "expected string, not a map",
    ]


def test_sources_that_cannot_be_read_are_reported_alone(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert problems_of(str(missing), "yaml:{x: }", "http://localhost/x", sets=("a",)) == [
        f"{missing}: cannot read the file '{missing}': No such file or directory",
        "--config http: scheme 'http' is not available: there are file, env and yaml",
        "--set a: missing equal sign: write --set key=value",
    ]


def test_an_unset_variable_is_noted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    loaded = load(
        [MINIMAL, "env:UNSET", "yaml:exporters::backend::endpoint: ${UNSET}"],
        components=TABLE,
    )
    assert loaded.notes == (
        "env:UNSET: environment variable UNSET is not set",
        "--config yaml:1: environment variable UNSET is not set",
    )
    assert problems_of("env:UNSET") == [
        "env:UNSET: empty configuration (environment variable UNSET is not set)"
    ]


def test_the_newer_way_to_write_the_resource() -> None:
    text = "attributes: [{name: a, value: 007}, {name: b, value: }], schema_url: x"
    loaded = load(
        [MINIMAL, f"yaml:service: {{telemetry: {{resource: {{{text}}}}}}}"],
        components=TABLE,
    )
    assert loaded.config.service.telemetry.resource == {"a": "007", "b": None}
    assert loaded.notes == (
        "--config yaml:1: service::telemetry::resource::schema_url: has no effect here",
    )


@pytest.mark.parametrize("text", ["otlp", "o_1/a-b.c", "o/1", "o/ä", "a" * 63])
def test_ids_that_the_collector_takes(text: str) -> None:
    check_id(ComponentID.parse(text))


@pytest.mark.parametrize(
    "text", ["1a", "a-b", "ä", "_a", "a" * 64, "a/x y", "a/x+y", "a/" + "x" * 1025]
)
def test_ids_that_the_collector_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="of an id must"):
        check_id(ComponentID.parse(text))


WORDS = st.sampled_from(
    [
        *("receivers", "otlp", "protocols", "grpc", "endpoint", "processors", "batch"),
        *("timeout", "send_batch_size", "metadata_keys", "exporters", "backend", "quiet"),
        *("headers", "token", "sending_queue", "enabled", "service", "pipelines"),
        *("traces", "metrics", "telemetry", "logs", "level", "readers", "pull"),
        *("exporter", "prometheus", "port", "resource", "attributes", "extensions"),
        *("connectors", "1s", "5", "-1", "yes", "true", "null", "", "${X}", "${yaml:5}"),
        *("a::b", "<<", ".nan", "1e999", "0x", "otlp/x", "/", "$$", "${", "\n", "ä"),
    ]
)
SCALARS = (
    WORDS | st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=9)
)
TREES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(WORDS | st.text(max_size=5), below, max_size=5)
    ),
    max_leaves=25,
)


def loads_or_says_why(uri: str, *, traces_only: bool = False) -> None:
    try:
        loaded = load([MINIMAL, uri], traces_only=traces_only, components=TABLE)
    except ConfigError as error:
        assert error.problems  # noqa: PT017
        assert all(len(one.splitlines()) == 1 for one in error.problems)  # noqa: PT017
    else:
        text = render(loaded, "unredacted")
        assert load([f"yaml:{text}"], components=TABLE).config == loaded.config


@given(st.dictionaries(WORDS, TREES, max_size=5), st.booleans())
def test_any_map_loads_or_says_why(tree: dict[str, Any], traces_only: bool) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True)
    loads_or_says_why(f"yaml:{text}", traces_only=traces_only)


@given(st.text(alphabet=st.sampled_from("ab:[]{},&*x!\"'#|>-?%@ \n\t$<\x00\ud800ä0.")))
def test_any_text_loads_or_says_why(text: str) -> None:
    loads_or_says_why(f"yaml:{text}")
