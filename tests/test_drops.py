"""Where spans are lost: what is counted, said and remembered; and the reasons there are."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import get_args

import pytest

import k8strace
from k8strace.drops import (
    MAX_TEXT,
    NOBODY,
    READ_UP_TO,
    Sender,
    sender_of,
    services,
)
from k8strace.errors import Reason
from k8strace.grpc import REJECT_REASONS
from k8strace.grpc import status as grpc_status
from k8strace.losses import Loss
from k8strace.payload import Payload
from tests.support.pipeline import context, payload
from tests.support.requests import request

PACKAGE = Path(k8strace.__file__).parent
DOCS = PACKAGE.parent / "docs" / "drops.md"
DROPPED = Loss("exporters", "otlp", "dropped", "queue_full")


async def test_a_drop_is_counted_said_and_remembered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ctx = context("exporters", "otlp")
    ctx.drops.spans(3, "queue_full", "no room", Sender("10.0.0.1:1", "etcd"))
    assert ctx.ledger.dropped == {"queue_full": 3}
    line = caplog.records[0].__dict__
    assert line["message"] == "dropped spans: no room"
    assert line["levelno"] == logging.ERROR
    assert {name: line[name] for name in ("reason", "spans", "peer", "service")} == {
        "reason": "queue_full",
        "spans": 3,
        "peer": "10.0.0.1:1",
        "service": "etcd",
    }
    ((loss, sample),) = ctx.metrics.losses.samples.items()
    assert loss == DROPPED
    assert (sample.peer, sample.service, sample.text) == ("10.0.0.1:1", "etcd", "no room")


async def test_the_lines_say_how_many_in_all(caplog: pytest.LogCaptureFixture) -> None:
    ctx = context("exporters", "otlp")
    for spans in (0, 1, 2, 3):
        ctx.drops.spans(spans, "queue_full", "no room")
    ctx.drops.spans(4, "shutdown", "too late")
    ctx.drops.lines.flush()
    said = [(one.__dict__["reason"], one.__dict__["spans"]) for one in caplog.records]
    assert said == [("queue_full", 1), ("shutdown", 4), ("queue_full", 5)]
    assert ctx.ledger.dropped == {"queue_full": 6, "shutdown": 4}


async def test_whose_it_was_is_asked_once_a_second_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("k8strace.drops.time.monotonic", lambda: now[0])
    ctx = context("receivers", "otlp")
    asked = []

    def sender() -> Sender:
        asked.append(now[0])
        return NOBODY

    for later in (0, 0.5, 0.25, 0.25, 0.5):
        now[0] += later
        ctx.drops.spans(1, "invalid_id", "zeros", sender)
    assert asked == [1000.0, 1001.0]


async def test_what_comes_from_outside_stays_on_its_line() -> None:
    ctx = context("exporters", "otlp")
    ctx.drops.spans(1, "queue_full", "a\nb" * MAX_TEXT, Sender("p", "x\r\x00" * 300))
    (sample,) = ctx.metrics.losses.samples.values()
    for text in (sample.text, sample.service):
        assert text.isprintable()
        assert text.endswith("…")


def test_whose_a_payload_is() -> None:
    one = payload(2, peer="10.0.0.1:1", service="etcd")
    other = payload(3, peer="10.0.0.2:1", service="kubelet")
    assert sender_of(one) == ("10.0.0.1:1", "etcd")
    assert sender_of(one, 1) == ("10.0.0.1:1", "etcd")
    joined = Payload.join([one, other])
    assert joined.origin is None
    assert sender_of(joined) == ("10.0.0.1:1", "etcd")
    # One of five, and nobody knows which.
    assert sender_of(joined, 1) == ("10.0.0.1:1", "")
    assert sender_of(Payload((b"\x0a",), 1, 1)) == ("", "")
    assert sender_of(Payload((), 0, 0)) == ("", "")


def test_services_are_read_where_it_is_cheap() -> None:
    message = request(2)
    assert services((message.SerializeToString(),)) == ["apiserver", "apiserver"]
    message.resource_spans[0].resource.ClearField("attributes")
    assert services((message.SerializeToString(),)) == ["", ""]
    message.resource_spans[0].scope_spans[0].spans[0].name = "x" * READ_UP_TO
    assert services((message.SerializeToString(),)) == []


# Reasons


def documented(heading: str) -> list[str]:
    """The names in the first column of the table under a heading of docs/drops.md."""
    section = DOCS.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| \S", section, re.MULTILINE)


def strings() -> set[str]:
    """All strings in the code but for those that only say what reasons there are."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent == PACKAGE / "grpc" and path.name == "__init__.py":
            continue
        if path != PACKAGE / "errors.py":
            found |= {
                node.value
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    for path in PACKAGE.rglob("*.pyx"):
        found |= set(re.findall(r'"(\w+)"', path.read_text()))
    return found | {"permanent_error"}  # a RejectedError's that says nothing else


def test_the_docs_explain_every_reason_of_lost_spans() -> None:
    assert sorted(documented("Spans")) == sorted(get_args(Reason))


def test_the_docs_explain_every_reason_of_rejected_requests() -> None:
    assert sorted(documented("Requests")) == sorted(REJECT_REASONS)


def test_the_code_gives_every_reason() -> None:
    assert {*get_args(Reason), *REJECT_REASONS} <= strings()


def test_servers_give_no_other_reasons() -> None:
    assert set(grpc_status.REJECT_REASONS.values()) <= set(REJECT_REASONS)


def test_spans_are_dropped_in_one_place() -> None:
    """Who counted a drop by itself would say nothing of it."""
    callers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"ledger\.drop\(", path.read_text())
    }
    assert callers == {"drops.py", "metrics.py"}
