"""Replaying recorded requests against a real OTLP server."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from k8strace import replay
from k8strace.grpc.status import Code, StatusError
from tests.support.backend import Backend
from tests.support.proxy import Proxy
from tests.support.requests import request, span_ids
from tests.support.slowness import without_slowness


async def run(*arguments: str | Path) -> tuple[int, str, str]:
    """`python -m k8strace.replay`: exit status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "k8strace.replay",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), without_slowness(err.decode())


def figures(out: str) -> dict[str, list[int]]:
    """The numbers of each line of the report, by the line's name."""
    return {
        match[1]: [int(number) for number in re.findall(r"\d+", match[2])]
        for match in re.finditer(r"^  (\w[\w ]*?)  +(.*)$", out, re.MULTILINE)
    }


def record(folder: Path, *sizes: int) -> list[ExportTraceServiceRequest]:
    """Requests of so many spans, one in a file each."""
    requests = [request(size) for size in sizes]
    folder.mkdir(exist_ok=True)
    for index, one in enumerate(requests):
        (folder / f"{index:04}.pb").write_bytes(one.SerializeToString())
    return requests


def pack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, "recording")


async def test_folders_files_and_archives(tmp_path: Path) -> None:
    first = record(tmp_path / "a", 3, 1, 2)
    second = record(tmp_path / "b", 4, 5)
    third = record(tmp_path / "c", 6)
    (tmp_path / "b" / "index.jsonl").write_text("no request")
    pack(tmp_path / "b.tar.gz", tmp_path / "b")
    async with Backend() as backend:
        status, out, err = await run(
            *("--endpoint", backend.endpoint, tmp_path / "a", tmp_path / "b.tar.gz"),
            tmp_path / "c" / "0000.pb",
        )
    assert (status, err) == (0, "")
    assert backend.requests == [*first, *second, *third]
    assert figures(out) == {
        "requests": [6, 0],
        "spans": [21],
        "refused": [0, 0],
        "partial success": [0, 0],
    }


async def test_several_connections_share_the_work(tmp_path: Path) -> None:
    sent = record(tmp_path, *range(1, 31))
    async with Backend() as backend, Proxy(backend.port) as proxy:
        arguments = ("--connections", "3", "--endpoint", proxy.endpoint, tmp_path)
        status, out, err = await run(*arguments)
        assert proxy.connections == 3
    assert (status, err) == (0, "")
    assert backend.ids == Counter(i for one in sent for i in span_ids(one))
    assert figures(out)["requests"] == [30, 0]


async def test_gzip_makes_it_smaller(tmp_path: Path) -> None:
    record(tmp_path, 200)
    sizes = []
    for extra in ((), ("--gzip",)):
        async with Backend() as backend, Proxy(backend.port) as proxy:
            status, _, _ = await run("--endpoint", proxy.endpoint, tmp_path, *extra)
            assert (status, backend.spans) == (0, 200)
            sizes.append(proxy.sent)
    assert sizes[1] < sizes[0] / 2


async def test_a_rate_makes_it_slower(tmp_path: Path) -> None:
    record(tmp_path, *[1] * 5)
    async with Backend() as backend:
        start = time.monotonic()
        arguments = ("--rate", "10", "--connections", "2", "--endpoint", backend.endpoint)
        status, _, _ = await run(*arguments, tmp_path)
    assert (status, backend.spans) == (0, 5)
    assert time.monotonic() - start >= 0.4


async def test_what_may_be_tried_again_is(tmp_path: Path) -> None:
    sent = record(tmp_path, 2, 3)
    refusals = [
        StatusError(Code.UNAVAILABLE, "busy", 0.01),
        StatusError(Code.RESOURCE_EXHAUSTED, "full", 0.01),
        None,
        StatusError(Code.UNAVAILABLE, "busy", 0.01),
    ]

    async def answer(
        message: ExportTraceServiceRequest,
    ) -> ExportTraceServiceResponse | None:
        if refusals and (refusal := refusals.pop(0)) is not None:
            raise refusal
        return None

    async with Backend() as backend:
        backend.answer = answer
        status, out, err = await run("--endpoint", backend.endpoint, tmp_path)
    assert (status, err) == (0, "")
    assert backend.requests == sent
    assert figures(out)["requests"] == [2, 3]


async def test_what_may_not_be_tried_again_is_refused(tmp_path: Path) -> None:
    sent = record(tmp_path, 2, 3, 4)
    refusals = [
        StatusError(Code.INVALID_ARGUMENT, "not a span"),
        StatusError(Code.RESOURCE_EXHAUSTED, "too large"),
    ]

    async def answer(
        message: ExportTraceServiceRequest,
    ) -> ExportTraceServiceResponse | None:
        if refusals:
            raise refusals.pop(0)
        return None

    async with Backend() as backend:
        backend.answer = answer
        status, out, err = await run("--endpoint", backend.endpoint, tmp_path)
    assert (status, err) == (1, "")
    assert backend.calls == 3
    assert backend.requests == sent[2:]
    assert figures(out)["spans"] == [9]
    assert figures(out)["refused"] == [2, 5]
    assert "  1 times: INVALID_ARGUMENT: not a span\n" in out
    assert "  1 times: RESOURCE_EXHAUSTED: too large\n" in out


async def test_it_gives_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, 2)
    monkeypatch.setattr(replay, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(replay, "MAX_BACKOFF", 0.02)
    monkeypatch.setattr(replay, "GIVE_UP_AFTER", 3.0)

    async def refuse(
        message: ExportTraceServiceRequest,
    ) -> ExportTraceServiceResponse | None:
        raise StatusError(Code.UNAVAILABLE, "busy")

    async with Backend() as backend:
        backend.answer = refuse
        sender = replay.Sender(backend.endpoint)
        await sender.send(replay.recorded([tmp_path]))
        assert sender.retries == backend.calls - 1 > 0
    assert (sender.refused, sender.refused_spans) == (1, 2)


async def test_partial_successes_are_counted(tmp_path: Path) -> None:
    record(tmp_path, 5, 5, 5)
    answers = [(2, "two were bad"), (0, "a warning"), (0, "")]

    async def answer(
        message: ExportTraceServiceRequest,
    ) -> ExportTraceServiceResponse | None:
        rejected, text = answers.pop(0)
        response = ExportTraceServiceResponse()
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = text
        return response

    async with Backend() as backend:
        backend.answer = answer
        status, out, _ = await run("--endpoint", backend.endpoint, tmp_path)
    assert status == 0
    assert figures(out)["partial success"] == [1, 2]
    assert "  1 times: two were bad\n" in out
    assert "  1 times: a warning\n" in out


async def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken.tar.gz"
    pack(broken, empty)
    broken.write_bytes(broken.read_bytes()[:20])
    flipped = tmp_path / "flipped.tar.gz"
    record(tmp_path / "good", 50)
    pack(flipped, tmp_path / "good")
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    flipped.write_bytes(content)
    bad = tmp_path / "bad.pb"
    bad.write_bytes(b"\x0a\xff")
    async with Backend() as backend:
        for path, problem in (
            (empty, "has no .pb files in it"),
            (broken, "is no readable archive"),
            (flipped, "is no readable archive"),
            (bad, "is no trace request"),
            (tmp_path / "missing", "No such file"),
            (tmp_path / "missing.pb", "No such file"),
        ):
            status, out, err = await run("--endpoint", backend.endpoint, path)
            assert (status, out) == (1, ""), err
            assert str(path) in err
            assert problem in err
            assert len(err.splitlines()) == 1
    assert backend.calls == 0


def test_nobody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, 1)
    monkeypatch.setattr(replay, "CONNECT_TIMEOUT", 0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        assert replay.main(["--endpoint", endpoint, str(tmp_path)]) == 1
    assert capsys.readouterr() == ("", f"error: nothing listens on {endpoint}\n")


def test_a_missing_path_is_told_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.pb"
    assert replay.main(["--endpoint", "127.0.0.1:1", str(tmp_path), str(missing)]) == 1
    error = capsys.readouterr().err
    assert str(missing) in error
    assert "No such file" in error


@pytest.mark.parametrize(
    "arguments", [(), ("x", "--connections", "0"), ("x", "--rate", "nan")]
)
def test_wrong_arguments(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        replay.main(arguments)
    assert exit_.value.code == 2
    assert "usage: python -m k8strace.replay" in capsys.readouterr().err
