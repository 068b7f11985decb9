"""The file exporter: what is in the file, whatever happens while it is written."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from k8strace import threads
from k8strace._files import Append, Sync
from k8strace.component import Worker
from k8strace.edges import Edge
from k8strace.errors import ConfigError, RefusedError, RejectedError
from k8strace.exporters import _appender, file
from k8strace.exporters.file import File, _end_of_lines, own_path
from k8strace.payload import Payload
from tests.support.descriptors import open_descriptors
from tests.support.pipeline import (
    MIB,
    assert_at_rest,
    configured,
    context,
    edge_to,
    payload,
)
from tests.support.requests import parse, span_ids


@asynccontextmanager
async def running(path: Path, **values: Any) -> AsyncIterator[tuple[File, Edge]]:
    exporter = make(path, **values)
    edge, _ = edge_to(exporter)
    await exporter.start()
    try:
        yield exporter, edge
    finally:
        await exporter.stop(asyncio.get_running_loop().time() + 5)
    assert_at_rest(exporter.ledger)


def make(path: Path, **values: Any) -> File:
    config = configured(File, {"path": str(path), **values})
    return File(config, context("exporters", "file"))


@pytest.mark.parametrize(
    ("path", "workers", "expected"),
    [
        ("spans.json", 1, "spans.json"),
        ("spans.json", 2, "spans-1.json"),
        ("spans", 2, "spans-1"),
        ("pipe", 2, "pipe"),
    ],
)
def test_each_worker_has_a_file(
    tmp_path: Path, path: str, workers: int, expected: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    worker = Worker(slot=1, workers=workers)
    assert own_path(tmp_path / path, worker) == tmp_path / expected


def json_ids(content: str) -> list[bytes]:
    """The span ids in lines of JSON, each of which must be whole."""
    return [
        bytes.fromhex(span["spanId"])
        for line in content.splitlines()
        for group in json.loads(line)["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]


def messages(content: bytes) -> list[ExportTraceServiceRequest]:
    """The messages in a protobuf file, which must end with one."""
    result = []
    while content:
        size = int.from_bytes(content[:4], "big")
        assert len(content) >= 4 + size
        result.append(ExportTraceServiceRequest.FromString(content[4 : 4 + size]))
        content = content[4 + size :]
    return result


def ids(*payloads: Payload) -> list[bytes]:
    return [i for one in payloads for i in span_ids(parse(one.chunks))]


def backups(path: Path) -> list[Path]:
    """What was set aside of `path`, the oldest first."""
    return sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"))


def proto_ids(*paths: Path) -> list[bytes]:
    return [i for p in paths for m in messages(p.read_bytes()) for i in span_ids(m)]


def large(size: int = 400_000) -> Payload:
    """A payload of about `size` bytes."""
    return payload(size // (payload(1000, attributes=0).size // 1000), attributes=0)


async def test_json_has_a_line_for_each_payload(tmp_path: Path) -> None:
    path = tmp_path / "spans.json"
    sent = [payload(3), Payload.join([payload(2), payload(1, resources=1)]), payload(1)]
    async with running(path) as (exporter, edge):
        for one in sent:
            await edge(one)
        # It is there before anything is flushed or closed.
        content = path.read_text()
    assert content == path.read_text()
    assert content.count("\n") == 3
    assert json_ids(content) == ids(*sent)
    assert exporter.ledger.sent == 7


async def test_a_large_request_is_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "spans.json"
    one = payload(1200)
    async with running(path) as (exporter, edge):
        await edge(one)
    assert path.read_text().count("\n") == 3
    assert json_ids(path.read_text()) == ids(one)
    assert exporter.ledger.sent == 1200


async def test_proto_has_the_bytes_as_they_came(tmp_path: Path) -> None:
    path = tmp_path / "spans.bin"
    sent = [payload(3), Payload.join([large(20_000), large(20_000)]), payload(1)]
    async with running(path, format="proto") as (_, edge):
        for one in sent:
            await edge(one)
    content = path.read_bytes()
    assert messages(content) == [parse(one.chunks) for one in sent]
    assert content[4 : 4 + sent[0].size] == sent[0].chunks[0]


@pytest.mark.parametrize("append", [False, True])
async def test_a_file_that_exists_is_emptied_or_kept(tmp_path: Path, append: bool) -> None:
    path = tmp_path / "spans.json"
    sent = [payload(1), payload(2)]
    for one in sent:
        async with running(path, append=append) as (_, edge):
            await edge(one)
    assert json_ids(path.read_text()) == ids(*(sent if append else sent[1:]))


@pytest.mark.parametrize("form", ["json", "proto"])
@pytest.mark.parametrize("left", [1, 3, 50])
async def test_an_unfinished_record_is_cut_off(
    tmp_path: Path, form: str, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spans"
    sent = [payload(1), payload(2), payload(3)]
    async with running(path, format=form) as (_, edge):
        await edge(sent[0])
        kept = path.stat().st_size
        await edge(sent[1])
    os.truncate(path, kept + left)
    async with running(path, format=form, append=True) as (_, edge):
        await edge(sent[2])
    expected = ids(sent[0], sent[2])
    if form == "json":
        assert json_ids(path.read_text()) == expected
    else:
        found = [i for one in messages(path.read_bytes()) for i in span_ids(one)]
        assert found == expected
    assert f"cut {left} bytes of an unfinished record off {path}" in caplog.text


def test_the_end_of_the_last_line_is_found_from_behind(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for content, end in (
        (b"", 0),
        (b"abc", 0),
        (b"a\n", 2),
        (b"ab\n\ncdefghijkl", 4),
        (b"a\nbcdefghi\n", 11),
    ):
        path.write_bytes(content)
        with path.open("rb") as opened:
            assert _end_of_lines(opened.fileno(), len(content), 4) == end


async def test_rotation_sets_whole_files_aside(tmp_path: Path) -> None:
    path = tmp_path / "spans.bin"
    sent = [large() for _ in range(8)]
    rotation = {"max_megabytes": 1, "max_backups": 0}
    async with running(path, format="proto", rotation=rotation) as (_, edge):
        for one in sent:
            await edge(one)
    files = [*backups(path), path]
    assert len(files) > 1
    assert proto_ids(*files) == ids(*sent)
    assert all(os.stat(one).st_size <= MIB for one in files)


async def test_rotation_goes_on_with_the_file_of_the_run_before(tmp_path: Path) -> None:
    path = tmp_path / "spans.bin"
    sent = [large(600_000), payload(1), large(600_000)]
    rotation = {"max_megabytes": 1}
    for one in sent:
        async with running(path, format="proto", rotation=rotation) as (_, edge):
            await edge(one)
    assert len(backups(path)) == 1
    assert proto_ids(*backups(path)) == ids(*sent[:2])
    assert proto_ids(path) == ids(sent[2])


async def test_only_max_backups_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "spans.bin"
    rotation = {"max_megabytes": 1, "max_backups": 2}
    async with running(path, format="proto", rotation=rotation) as (_, edge):
        for _ in range(6):
            # Over the limit by itself: it gets a file of its own.
            await edge(large(1_500_000))
    assert len(backups(path)) == 2
    assert len(messages(path.read_bytes())) == 1


async def test_a_rotation_that_fails_refuses_and_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spans.bin"
    sent = [large(900_000), large(900_000)]
    real_open = os.open

    def full(name: Any, *args: Any, **kwargs: Any) -> int:
        if name == path:
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return real_open(name, *args, **kwargs)

    async with running(path, format="proto", rotation={"max_megabytes": 1}) as (_, edge):
        await edge(sent[0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", full)
            with pytest.raises(RefusedError, match=f"{path}: Too many open files"):
                await edge(sent[1])
        assert os.listdir(tmp_path) == ["spans.bin"]
        await edge(sent[1])
    assert proto_ids(*backups(path), path) == ids(*sent)


@pytest.mark.parametrize("truncate_fails", [False, True])
async def test_a_full_disk_refuses_and_leaves_no_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truncate_fails: bool
) -> None:
    path = tmp_path / "spans.json"
    sent = [payload(1), payload(2), payload(3)]

    class Torn:
        """A write of which ten bytes are there, and cannot be taken back."""

        error = errno.EIO
        is_torn = True

        def __init__(self, file: int, parts: tuple[bytes, ...]) -> None:
            self.end = os.fstat(file).st_size
            self.submit = Append(file, (parts[0][:10],)).submit

    async with running(path) as (exporter, edge):
        await edge(sent[0])
        with monkeypatch.context() as patch:
            if truncate_fails:
                patch.setattr(_appender, "Append", Torn)
            with (
                room_for(os.stat(path).st_size + 10),
                pytest.raises(RefusedError, match=f"cannot write to {path}: "),
            ):
                await edge(sent[1])
        assert (json_tail(path) == "") is not truncate_fails
        await edge(sent[1])
        await edge(sent[2])
    assert json_ids(path.read_text()) == ids(*sent)
    assert exporter.ledger.refused == 2
    assert exporter.ledger.sent == 6


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files of this process may not become larger, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def json_tail(path: Path) -> str:
    return path.read_text().rpartition("\n")[2]


async def test_a_device_that_is_full_refuses() -> None:
    async with running(Path("/dev/full")) as (exporter, edge):
        with pytest.raises(RefusedError, match="/dev/full: No space left on device"):
            await edge(payload(2))
    assert exporter.ledger.refused == 2


async def test_only_what_cannot_be_decoded_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "spans.json"
    chunk = payload(1).chunks[0].replace(b"Get", b"G\xff\xfe")
    good = payload(2)
    async with running(path) as (exporter, edge):
        with pytest.raises(RejectedError) as failure:
            await edge(Payload((chunk,), 1, len(chunk)))
        assert failure.value.reason == "decode_error"
        await edge(good)
    assert json_ids(path.read_text()) == ids(good)
    assert exporter.ledger.rejected == 1


@pytest.mark.parametrize("rotation", [{}, {"rotation": None}])
async def test_a_path_that_cannot_be_written_is_named_at_start(
    tmp_path: Path, rotation: dict[str, None]
) -> None:
    for path in (tmp_path / "missing" / "spans.json", tmp_path):
        exporter = make(path, **rotation)
        with pytest.raises(OSError, match=str(path)):
            await exporter.start()
        await exporter.stop(asyncio.get_running_loop().time())


async def test_a_pipe_without_reader_is_named_at_start(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    exporter = make(path)
    with pytest.raises(OSError, match=str(path)):
        await exporter.start()
    await exporter.stop(asyncio.get_running_loop().time())


async def test_rotation_of_what_is_no_file_is_an_error() -> None:
    exporter = make(Path("/dev/null"), rotation=None)
    with pytest.raises(ValueError, match="/dev/null"):
        await exporter.start()
    await exporter.stop(asyncio.get_running_loop().time())


async def test_the_directory_is_made_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "spans.json"
    values = {"create_directory": True, "directory_permissions": "0700"}
    async with running(path, **values) as (_, edge):
        await edge(payload(1))
    assert len(json_ids(path.read_text())) == 1
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_what_was_written_is_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spans.json"
    synced: list[int] = []
    flushed = asyncio.Event()

    class Noted:
        error = 0

        def __init__(self, file: int) -> None:
            synced.append(os.fstat(file).st_size)
            self.submit = Sync(file).submit
            flushed.set()

    monkeypatch.setattr(_appender, "Sync", Noted)
    async with running(path, flush_interval="10ms") as (_, edge):
        await edge(payload(1))
        first = path.stat().st_size
        await asyncio.wait_for(flushed.wait(), 20)
        await edge(payload(1))
    assert synced[0] == first
    # At the latest when it is closed; and never twice for the same.
    assert synced[-1] == path.stat().st_size
    assert len(synced) == 2


async def test_a_disk_that_never_flushes_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, asked = threads.run, asyncio.Event()

    async def hang(job: threads.Job, *holds: Any, may_hang: bool) -> None:
        if isinstance(job, _appender.Syncing):
            asked.set()
            await asyncio.Event().wait()
        await run(job, *holds, may_hang=may_hang)

    monkeypatch.setattr(threads, "run", hang)
    monkeypatch.setattr(file, "CLOSE_TIMEOUT", 0.01)
    path = tmp_path / "spans"
    async with running(path, flush_interval="10ms") as (_, edge):
        await edge(payload(3))
        await asyncio.wait_for(asked.wait(), 20)
    assert f"the end of {path} may not be on the disk" in caplog.text
    assert len(json_ids(path.read_text())) == 3


async def test_a_disk_that_fails_to_flush_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failed:
        error = errno.EIO

        def __init__(self, file: int) -> None:
            self.submit = Sync(file).submit

    monkeypatch.setattr(_appender, "Sync", Failed)
    path = tmp_path / "spans.json"
    async with running(path) as (_, edge):
        await edge(payload(1))
    assert f"cannot bring {path} to the disk" in caplog.text


async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    rotation = {"max_megabytes": 1}
    async with running(tmp_path / "b") as (_, edge):  # which opens the way to the threads
        await edge(payload(1))
    before = open_descriptors()
    async with running(tmp_path / "a", format="proto", rotation=rotation) as (_, edge):
        for _ in range(4):
            await edge(large(900_000))
    assert not open_descriptors() - before


def test_rotation_is_on_when_it_is_there() -> None:
    assert configured(File, {"path": "x"}).rotating is None
    given: tuple[dict[str, int] | None, ...] = (None, {})
    for value in given:
        rotating = configured(File, {"path": "x", "rotation": value}).rotating
        assert (rotating.max_bytes, rotating.max_backups) == (100 * MIB, 100)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "path"),
        ({"path": ""}, "path must not be empty"),
        ({"path": "x", "append": True, "rotation": None}, "append and rotation"),
        ({"path": "x", "compression": "zstd"}, "zstd is not available yet"),
        ({"path": "x", "compression": "gzip"}, "compression 'gzip' is not supported"),
        ({"path": "x", "format": "text"}, "format"),
        ({"path": "x", "flush_interval": "-1s"}, "flush_interval must not be negative"),
        ({"path": "x", "group_by": {"enabled": True}}, "group_by"),
        ({"path": "x", "rotation": {"max_megabytes": -1}}, "max_megabytes"),
        ({"path": "x", "rotation": {"max_size": 1}}, "max_size"),
        ({"path": "x", "directory_permissions": "0700"}, "requires create_directory"),
        (
            {"path": "x", "create_directory": True, "directory_permissions": "9"},
            "octal number up to 0777, not '9'",
        ),
    ],
)
def test_what_cannot_be_configured(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        configured(File, values)
