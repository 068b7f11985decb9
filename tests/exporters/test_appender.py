"""A file that threads append records to: order, errors, and a disk that doesn't answer."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from k8strace import threads
from k8strace.exporters import _appender
from k8strace.exporters._appender import Appender, Make, Record, opened
from k8strace.exporters._output import open_to_append
from k8strace.exporters._rotation import Rotation
from k8strace.passes import Loan
from k8strace.units import MIB

LOG = logging.LoggerAdapter(logging.getLogger("k8strace"), {})


@asynccontextmanager
async def appending(
    path: Path, rotation: Rotation | None = None
) -> AsyncIterator[Appender]:
    one = Appender(path, open_to_append(path), rotation, LOG)
    yield one
    await one.close()
    await one.close()


def record(content: bytes) -> Make:
    async def make(_: float) -> tuple[Record, Loan]:
        return (content[:1], content[1:]), Loan(None, None)

    return make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(threads, "run", disk.run)
    return disk


class Disk:
    """One that does nothing while it hangs."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()
        self.jobs: list[Any] = []

    async def run(self, job: threads.Job, *_: Any, may_hang: bool) -> None:
        assert may_hang
        self.jobs.append(job)
        self.asked.set()
        await self.answers.wait()
        await RUN(job, may_hang=True)


RUN = threads.run


def content_of(path: Path) -> bytes:
    return path.read_bytes()


async def test_records_are_in_order(path: Path, disk: Disk) -> None:
    lines = [b"%d\n" % number for number in range(500)]
    async with appending(path) as one:
        await asyncio.gather(*(one.write(record(line), None) for line in lines))
    assert content_of(path) == b"".join(lines)
    assert len(disk.jobs) < 10  # those that wait together are one write


async def test_large_ones_are_writes_of_their_own(path: Path, disk: Disk) -> None:
    large = bytes(MIB)
    async with appending(path) as one:
        await asyncio.gather(*(one.write(record(large), None) for _ in range(3)))
    assert content_of(path) == bytes(3 * MIB)
    assert len(disk.jobs) == 3


async def test_a_record_that_cannot_be_made_fails_alone(path: Path) -> None:
    async def broken(_: float) -> tuple[Record, Loan]:
        raise ValueError("no record")

    async with appending(path) as one:
        found = await asyncio.gather(
            one.write(record(b"1"), None),
            one.write(broken, None),
            one.write(record(b"2"), None),
            return_exceptions=True,
        )
    assert [type(each) for each in found] == [type(None), ValueError, type(None)]
    assert content_of(path) == b"12"


async def test_an_error_is_told_to_all_of_a_write(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CREAT)  # which cannot be written to
    one = Appender(path, file, None, LOG)
    writes = [one.write(record(b"x"), None) for _ in range(3)]
    found = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(each, OSError) and each.filename == str(path) for each in found)
    assert len({id(each) for each in found}) == 3
    await one.close()


async def test_while_a_disk_hangs_others_go_on(path: Path, disk: Disk) -> None:
    async with appending(path) as one:
        disk.answers.clear()
        first = asyncio.ensure_future(one.write(record(b"1"), None))
        await disk.asked.wait()  # and here we are
        waits = [
            asyncio.ensure_future(one.write(record(text), None)) for text in (b"2", b"3")
        ]
        await asyncio.sleep(0)
        for task in (first, waits[0]):
            task.cancel()  # a timeout, say
        await asyncio.wait((first, waits[0]))
        disk.answers.set()
        await waits[1]
    # What was being written is there; what nobody waits for any more is not.
    assert content_of(path) == b"13"


async def test_a_disk_that_hangs_at_the_end(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(_appender, "CLOSE_TIMEOUT", 0.01)
    one = Appender(path, open_to_append(path), None, LOG)
    disk.answers.clear()
    write = asyncio.ensure_future(one.write(record(b"1"), None))
    await disk.asked.wait()
    await one.close()
    assert "is given up: its mount does not answer" in caplog.text
    disk.answers.set()
    await write
    await one.close()


async def test_rotation_goes_on_when_it_can(path: Path) -> None:
    rotation = Rotation(max_megabytes=1)
    async with appending(path, rotation) as one:
        await one.write(record(bytes(MIB)), None)
        path.parent.chmod(0o500)
        gone = path.parent.rename(path.parent.with_name("elsewhere"))
        with pytest.raises(OSError, match="No such file"):
            await one.write(record(b"next"), None)
        gone.rename(path.parent)
        path.parent.chmod(0o700)
        await one.write(record(b"next"), None)
    assert content_of(path) == b"next"
    (backup,) = (each for each in path.parent.iterdir() if each != path)
    assert backup.stat().st_size == MIB


async def test_syncing(path: Path, disk: Disk) -> None:
    async with appending(path) as one:
        await one.sync()
        assert not disk.jobs  # nothing was written
        await one.write(record(b"1"), None)
        await one.sync()
        await one.sync()
        assert len(disk.jobs) == 2


async def test_what_could_not_be_synced_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with appending(path) as one:
        await one.write(record(b"1"), None)
        with monkeypatch.context() as patch:
            unsyncable, writer = os.pipe()
            patch.setattr(os, "dup", lambda _: unsyncable)
            with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
                await one.sync()
            os.close(writer)
        synced: list[threads.Job] = []

        async def run(job: threads.Job, *, may_hang: bool) -> None:
            synced.append(job)
            await RUN(job, may_hang=may_hang)

        monkeypatch.setattr(threads, "run", run)
        await one.sync()
        assert len(synced) == 1


async def test_a_sync_that_is_cancelled_leaves_no_file_open(path: Path, disk: Disk) -> None:
    async with appending(path) as one:
        await one.write(record(b"1"), None)
        before = os.listdir("/proc/self/fd")
        disk.answers.clear()
        disk.asked.clear()
        syncing = asyncio.ensure_future(one.sync())
        await disk.asked.wait()
        syncing.cancel()
        await asyncio.wait((syncing,))
        assert os.listdir("/proc/self/fd") == before
        disk.answers.set()
        await one.sync()
        assert len(disk.jobs) == 3


async def test_a_mount_that_hangs_when_it_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_appender, "OPEN_TIMEOUT", 0.01)
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="no answer within") as caught:
        await opened(lambda _: os.read(reader, 1), path)
    assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, str(path))
    os.write(writer, b"x")
    monkeypatch.setattr(_appender, "OPEN_TIMEOUT", 20.0)
    assert await opened(lambda found, more: (found, more), path, 1) == (path, 1)
    for one in (reader, writer):
        os.close(one)
