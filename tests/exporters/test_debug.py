"""The debug exporter: what it prints, where, and how often."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from k8strace.edges import Edge
from k8strace.errors import ConfigError, PartlyRejectedError, RefusedError, RejectedError
from k8strace.exporters import debug
from k8strace.exporters._debug_text import Fragments, detailed, normal
from k8strace.exporters.debug import Debug
from k8strace.payload import Payload
from tests.support.pipeline import assert_at_rest, configured, context, edge_to, payload
from tests.support.requests import parse


def text_of(fragments: Fragments) -> str:
    return b"".join(fragments).decode()


STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@asynccontextmanager
async def running(values: dict[str, Any]) -> AsyncIterator[tuple[Debug, Edge]]:
    exporter = Debug(configured(Debug, values), context("exporters", "debug/x"))
    edge, _ = edge_to(exporter)
    await exporter.start()
    try:
        yield exporter, edge
    finally:
        await exporter.stop(asyncio.get_running_loop().time() + 5)
    assert_at_rest(exporter.ledger)


def bare(path: Path, **values: Any) -> dict[str, Any]:
    return {"use_internal_logger": False, "output_paths": [str(path)], **values}


async def test_basic_is_a_line_for_each_payload(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with running(bare(out)) as (exporter, edge):
        await edge(payload(5, resources=2))
        await edge(Payload.join([payload(1), payload(2)]))
    assert out.read_text() == (
        'Traces\t{"resource spans": 2, "spans": 5}\n'
        'Traces\t{"resource spans": 2, "spans": 3}\n'
    )
    assert exporter.ledger.sent == 8


@pytest.mark.parametrize(
    ("verbosity", "text"), [("normal", normal), ("Detailed", detailed)]
)
async def test_the_spans_follow_the_summary(
    tmp_path: Path, verbosity: str, text: Any
) -> None:
    out = tmp_path / "out"
    one = payload(3)
    async with running(bare(out, verbosity=verbosity)) as (_, edge):
        await edge(one)
    # The collector's console encoder ends the entry, which ends in a line break itself.
    assert out.read_text() == (
        'Traces\t{"resource spans": 1, "spans": 3}\n'
        + text_of(text(parse(one.chunks)))
        + "\n"
    )


async def test_with_the_internal_logger_lines_look_like_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="k8strace")
    one = payload(2)
    async with running({"verbosity": "normal"}) as (_, edge):
        await edge(one)
    out, err = capfd.readouterr()
    where = {
        "otelcol.component.id": "debug/x",
        "otelcol.component.kind": "exporter",
        "otelcol.signal": "traces",
    }
    summary = json.dumps(where | {"resource spans": 1, "spans": 2})
    assert re.fullmatch(
        f"{STAMP}\tinfo\tTraces\t{re.escape(summary)}\n"
        f"{STAMP}\tinfo\t{re.escape(text_of(normal(parse(one.chunks))))}"
        f"\t{re.escape(json.dumps(where))}\n",
        out,
    )
    assert err == ""


async def test_a_log_above_info_prints_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="k8strace")
    async with running({}) as (exporter, edge):
        await edge(payload(2))
    assert capfd.readouterr() == ("", "")
    assert exporter.ledger.sent == 2


async def test_several_outputs_get_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    values = bare(out, output_paths=["stderr", str(out), "stdout"])
    async with running(values) as (_, edge):
        await edge(payload(1))
    line = 'Traces\t{"resource spans": 1, "spans": 1}\n'
    assert capfd.readouterr() == (line, line)
    assert out.read_text() == line


async def test_the_documentations_option_prints_everything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    payloads = [payload(2) for _ in range(5)]
    async with running(bare(out, logLevel="debug")) as (_, edge):
        for one in payloads:
            await edge(one)
    bodies = [text_of(detailed(parse(one.chunks))) for one in payloads]
    assert all(body in out.read_text() for body in bodies)


@pytest.mark.parametrize(
    ("initial", "thereafter", "printed"),
    [
        (2, 1, [1, 2, 3, 4, 5, 6, 7]),
        (2, 3, [1, 2, 5]),
        (0, 2, [2, 4, 6]),
        (3, 0, [1, 2, 3]),
    ],
)
async def test_of_many_in_a_second_some_are_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    initial: int,
    thereafter: int,
    printed: list[int],
) -> None:
    now = 100.0
    monkeypatch.setattr(debug, "time", SimpleNamespace(monotonic=lambda: now))
    out = tmp_path / "out"
    values = bare(out, sampling_initial=initial, sampling_thereafter=thereafter)
    async with running(values) as (exporter, edge):
        for _ in range(2):  # seconds, of which each begins anew
            for spans in range(1, 8):
                await edge(payload(spans))
            now += 1.0
    lines = out.read_text().splitlines()
    assert [int(line.split()[-1].rstrip("}")) for line in lines] == printed * 2
    assert exporter.ledger.sent == 2 * sum(range(1, 8))


async def test_only_what_cannot_be_decoded_is_rejected(tmp_path: Path) -> None:
    out = tmp_path / "out"
    good, bad = payload(2), payload(1)
    chunk = bad.chunks[0].replace(b"Get", b"G\xff\xfe")
    bad = Payload((chunk,), 1, len(chunk), bad.origin)
    async with running(bare(out, verbosity="detailed")) as (exporter, edge):
        with pytest.raises(RejectedError) as failure:
            await edge(bad)
        assert failure.value.reason == "decode_error"
        await edge(good)
    assert exporter.ledger.rejected == 1
    assert exporter.ledger.sent == 2
    assert text_of(detailed(parse(good.chunks))) in out.read_text()


async def test_one_bad_request_does_not_spoil_those_joined_with_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, last = payload(2), payload(3)
    chunk = payload(1).chunks[0].replace(b"Get", b"G\xff\xfe")
    bad = Payload((chunk,), 1, len(chunk))
    joined = Payload.join([first, bad, last])
    async with running(bare(out, verbosity="detailed")) as (exporter, edge):
        with pytest.raises(PartlyRejectedError) as caught:
            await edge(joined)
    assert caught.value.reason == "decode_error"
    assert caught.value.culprits == (joined.sources[1],)
    assert exporter.ledger.sent == 5
    assert all(
        text_of(detailed(parse(one.chunks))) in out.read_text() for one in (first, last)
    )


async def test_an_output_that_fails_refuses() -> None:
    async with running(bare(Path("/dev/full"))) as (exporter, edge):
        with pytest.raises(RefusedError, match="/dev/full: No space left"):
            await edge(payload(2))
    assert exporter.ledger.refused == 2


async def test_an_output_that_cannot_be_opened_is_named_at_start(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "out"
    exporter = Debug(configured(Debug, bare(path)), context("exporters", "debug"))
    with pytest.raises(OSError, match=str(path)):
        await exporter.start()
    await exporter.stop(asyncio.get_running_loop().time())


async def test_a_pipe_that_nobody_reads_holds_up_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    async with running(bare(path, verbosity="detailed")) as (exporter, edge):
        sending = [asyncio.ensure_future(edge(payload(2000))) for _ in range(2)]
        await asyncio.sleep(0)
        assert exporter.ledger.in_flight == 4000
        received = b""
        while not all(one.done() for one in sending):
            with suppress(BlockingIOError):
                received += os.read(reader, 65536)
            await asyncio.sleep(0)
        received += os.read(reader, 65536)
    os.close(reader)
    for start in re.finditer(rb"Traces\t", received):
        assert received[max(0, start.start() - 1) : start.start()] in (b"", b"\n")
    assert received.count(b"Traces\t") == 8  # pieces of 500 spans
    assert received.count(b"Trace ID") == 4000
    assert exporter.ledger.sent == 4000


@pytest.mark.parametrize(
    ("values", "level"),
    [
        ({}, "basic"),
        ({"verbosity": "NORMAL"}, "normal"),
        ({"verbosity": "detailed"}, "detailed"),
        ({"loglevel": "debug"}, "detailed"),
        ({"logLevel": "DEBUG"}, "detailed"),
        ({"loglevel": "info"}, "normal"),
        ({"loglevel": "warn"}, "basic"),
        ({"logLevel": "error"}, "basic"),
    ],
)
def test_the_verbosity_and_its_former_names(values: dict[str, str], level: str) -> None:
    config = configured(Debug, values)
    assert config.level == level
    assert not config.sending_queue.enabled
    assert not config.retry_on_failure.enabled


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"verbosity": "none"}, "verbosity must be one of .*'none'"),
        ({"loglevel": "trace"}, "loglevel must be one of .*'trace'"),
        (
            {"verbosity": "basic", "loglevel": "debug"},
            "verbosity: basic and loglevel: debug",
        ),
        (
            {"loglevel": "info", "logLevel": "debug"},
            "loglevel: info and logLevel: debug",
        ),
        ({"output_paths": ["stdout"]}, "when use_internal_logger is true"),
        ({"use_internal_logger": False, "output_paths": []}, "must not be empty"),
        ({"sampling_initial": -1}, "sampling_initial"),
        ({"sampling_thereafter": -1}, "sampling_thereafter"),
        ({"verBosity": "detailed"}, "verBosity"),
    ],
)
def test_what_cannot_be_configured(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        configured(Debug, values)
