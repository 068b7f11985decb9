"""headers_setter: what requests that go out get from those that came in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8strace.component import ComponentID, Context
from k8strace.config import load, render
from k8strace.errors import ConfigError, RejectedError
from k8strace.exporters.otlp_grpc import OtlpGrpc
from k8strace.extensions import _files
from k8strace.extensions.bearertokenauth import BearerTokenAuth
from k8strace.extensions.headers_setter import HeadersSetter
from k8strace.graph import Graph
from k8strace.metrics import Metrics
from k8strace.payload import Origin
from tests.support.auth import extension, named_by
from tests.support.backend import Backend
from tests.support.pipeline import configured, context
from tests.support.sending import running_as

ORIGIN = Origin(
    "10.0.0.1:1", "ann", (("x-tenant", "blue"), ("two", "1"), ("two", "2")), ("a", "b")
)


def setter(*headers: dict[str, Any], **values: Any) -> HeadersSetter:
    one = extension(HeadersSetter, headers=list(headers), **values)
    assert isinstance(one, HeadersSetter)
    return one


async def made(
    header: dict[str, Any], before: dict[str, str], origin: Origin | None = ORIGIN
) -> dict[str, str]:
    return dict(await setter(header).client().metadata(tuple(before.items()), origin))


@pytest.mark.parametrize(
    ("action", "absent", "present"),
    [("insert", "new", "old"), ("update", None, "new"), ("upsert", "new", "new")],
)
async def test_actions(action: str, absent: str | None, present: str) -> None:
    header = {"action": action, "key": "X-A", "value": "new"}
    assert (await made(header, {"b": "1"})).get("x-a") == absent
    assert await made(header, {"b": "1", "x-a": "old"}) == {"b": "1", "x-a": present}


async def test_deleting() -> None:
    header = {"action": "delete", "key": "X-A"}
    assert await made(header, {"b": "1", "x-a": "old"}) == {"b": "1"}
    assert await made(header, {"b": "1"}) == {"b": "1"}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ({"from_context": "X-Tenant"}, "blue"),
        ({"from_context": "none"}, ""),
        ({"from_context": "none", "default_value": "red"}, "red"),
        ({"from_attribute": "subject"}, "ann"),
        ({"from_attribute": "username"}, "ann"),
        ({"from_attribute": "membership"}, '["a","b"]'),
    ],
)
async def test_sources(source: dict[str, str], value: str) -> None:
    assert await made({"key": "x-scope-orgid", **source}, {}) == {"x-scope-orgid": value}


@pytest.mark.parametrize("origin", [None, Origin("unix:")])
async def test_without_an_origin_or_a_name(origin: Origin | None) -> None:
    for source in ({"from_context": "x-tenant"}, {"from_attribute": "subject"}):
        header = {"key": "a", "default_value": "red", **source}
        assert await made(header, {}, origin) == {"a": "red"}


async def test_what_cannot_be_a_header_is_refused_for_good() -> None:
    with pytest.raises(RejectedError, match="has 2 headers 'two'"):
        await made({"key": "a", "from_context": "two"}, {})
    origin = Origin("unix:", metadata=(("x", "sécret"),))
    with pytest.raises(RejectedError, match="not printable ASCII") as caught:
        await made({"key": "a", "from_context": "x"}, {}, origin)
    assert "cret" not in str(caught.value)


async def test_the_same_tuple_as_long_as_nothing_changes() -> None:
    one = setter({"key": "a", "from_context": "x-tenant"}).client()
    headers = (("b", "1"),)
    first = await one.metadata(headers, ORIGIN)
    assert await one.metadata(headers, ORIGIN) is first
    assert await one.metadata(headers, None) == (("b", "1"), ("a", ""))


async def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "CHECK_EVERY", 0.0)
    path = tmp_path / "value"
    path.write_text("one\n")
    one = setter({"key": "a", "value_file": str(path)})
    await one.start()
    assert dict(await one.client().metadata((), None)) == {"a": "one"}
    path.write_text("two")
    assert dict(await one.client().metadata((), None)) == {"a": "two"}
    path.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        await setter({"key": "a", "value_file": str(path)}).start()


def test_what_it_needs() -> None:
    assert not setter({"key": "a", "value": "b"}).client().needs_origin
    assert not setter({"key": "a", "action": "delete", "from_context": "b"}).needs_origin
    assert setter({"key": "a", "from_attribute": "subject"}).client().needs_origin
    assert not setter({"key": "a", "value": "b"}).client().needs_tls


def after(first: Any, ctx: Context) -> HeadersSetter:
    """One that lets `first` go before it."""
    values = {
        "headers": [
            {"key": "authorization", "action": "delete"},
            {"key": "a", "value": "b"},
        ],
        "additional_auth": str(first.context.id),
    }
    return HeadersSetter(configured(HeadersSetter, values), named_by(first, ctx))


async def test_another_goes_before_it() -> None:
    first = extension(BearerTokenAuth, token="hunter2", header="x-key", scheme="")
    one = after(first, context("extensions", "headers_setter")).client()
    assert one.needs_tls
    assert not one.needs_origin
    sent = await one.metadata((("authorization", "x"),), None)
    assert dict(sent) == {"x-key": "hunter2", "a": "b"}


def test_none_goes_before_itself() -> None:
    names = ("headers_setter/a", "headers_setter/b")
    known: dict[ComponentID, Any] = {}
    for name, other in zip(names, reversed(names), strict=True):
        ctx = context("extensions", name)
        there = Context(
            id=ctx.id,
            kind=ctx.kind,
            metrics=ctx.metrics,
            ledger=ctx.ledger,
            budget=ctx.budget,
            log=ctx.log,
            drops=ctx.drops,
            extensions=known,
        )
        values = {"headers": [{"key": "a", "value": "b"}], "additional_auth": other}
        known[ctx.id] = HeadersSetter(configured(HeadersSetter, values), there)
    with pytest.raises(ValueError, match="leads to itself"):
        next(iter(known.values())).client()


async def test_behind_an_exporter() -> None:
    one = setter(
        {"key": "x-scope-orgid", "from_context": "x-tenant", "default_value": "red"}
    )
    async with Backend() as backend:
        async with running_as(
            OtlpGrpc,
            one,
            endpoint=f"http://{backend.endpoint}",
            auth={"authenticator": "headers_setter"},
        ) as rig:
            await rig.send(2)
            await backend.wait_for_spans(2)
            await rig.settled()
            assert rig.ledger.sent == 2
        assert backend.metadata[0]["x-scope-orgid"] == "red"


PIPELINE = """
extensions: {headers_setter: {headers: [{key: hidden, value: hunter2, from_context: }]}}
receivers: {otlp: {protocols: {grpc: }}}
processors: {batch: }
exporters:
  otlp: {endpoint: "http://a:1", auth: {authenticator: headers_setter}}
service:
  extensions: [headers_setter]
  pipelines: {traces: {receivers: [otlp], processors: [batch], exporters: [otlp]}}
"""
FROM = "value: hunter2, from_context:"


def test_behind_what_joins_it_is_a_mistake() -> None:
    Graph(load([f"yaml:{PIPELINE}"]).config, Metrics())
    origins = PIPELINE.replace(FROM, "from_context: x-tenant")
    with pytest.raises(ConfigError, match="take batch out"):
        Graph(load([f"yaml:{origins}"]).config, Metrics())
    alone = origins.replace("processors: [batch], ", "")
    Graph(load([f"yaml:{alone}"]).config, Metrics())
    joined = alone.replace("auth:", "sending_queue: {batch: }, auth:")
    with pytest.raises(ConfigError, match="sending_queue::batch joins requests"):
        Graph(load([f"yaml:{joined}"]).config, Metrics())


def test_values_are_not_shown() -> None:
    shown = render(load([f"yaml:{PIPELINE}"]))
    assert "hunter2" not in shown
    assert "key: hidden" in shown
