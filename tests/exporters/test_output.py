"""Writing to pipes and files: whole records, and nobody else is held up."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from k8strace.exporters._output import MOST_AT_ONCE, Output, open_to_append
from tests.support.pipeline import cancel

MANY = 1024 * 1024  # bytes; more than any pipe holds


class Pipe:
    """The two ends of a pipe; `received` is what was read from it."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.output = Output(writer)
        self.received = b""

    async def read_until(self, task: asyncio.Future[None]) -> None:
        while not task.done():
            self.read()
            await asyncio.sleep(0)
        await task
        self.read()

    def read(self) -> None:
        with suppress(BlockingIOError):
            self.received += os.read(self.reader, MANY)

    def close_reader(self) -> None:
        os.close(self.reader)
        self.reader = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.output.close()
    pipe.output.close()
    if pipe.reader >= 0:
        pipe.close_reader()


async def written(task: asyncio.Future[None]) -> None:
    """Let `task` go on until it has to wait."""
    await asyncio.sleep(0)
    assert not task.done()


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_slow_reader_gets_all_of_it(pipe: Pipe, blocking: bool) -> None:
    os.set_blocking(pipe.output._descriptor, blocking)
    data = bytes(range(256)) * (MANY // 256)
    task = asyncio.ensure_future(pipe.output.write((data,)))
    await written(task)
    await pipe.read_until(task)
    assert pipe.received == data


async def test_records_are_not_mixed(pipe: Pipe) -> None:
    tasks = [
        asyncio.ensure_future(pipe.output.write((letter * MANY,)))
        for letter in (b"a", b"b")
    ]
    await pipe.read_until(asyncio.gather(*tasks))  # type: ignore[arg-type]
    assert pipe.received == b"a" * MANY + b"b" * MANY


async def test_what_was_begun_goes_before_the_next_record(pipe: Pipe) -> None:
    first = asyncio.ensure_future(pipe.output.write((b"a" * MANY,)))
    await written(first)
    await cancel(first)
    await pipe.read_until(asyncio.ensure_future(pipe.output.write((b"b",))))
    assert pipe.received == b"a" * MANY + b"b"


async def test_what_was_not_begun_is_not_written(pipe: Pipe) -> None:
    full = asyncio.ensure_future(pipe.output.write((b"a" * MANY,)))
    await written(full)
    await cancel(full)
    waiting = asyncio.ensure_future(pipe.output.write((b"b" * MANY,)))
    await written(waiting)
    await cancel(waiting)
    await pipe.read_until(asyncio.ensure_future(pipe.output.write((b"c",))))
    assert pipe.received == b"a" * MANY + b"c"


async def test_a_reader_that_goes_away_ends_the_wait(pipe: Pipe) -> None:
    task = asyncio.ensure_future(pipe.output.write((b"a" * MANY,)))
    await written(task)
    pipe.close_reader()
    with pytest.raises(BrokenPipeError):
        await task
    # Nothing of it is tried again.
    with pytest.raises(BrokenPipeError):
        await pipe.output.write((b"b",))


async def test_a_file_takes_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"before ")
    for truncate, expected in ((False, b"before now"), (True, b"now")):
        output = Output(open_to_append(path, truncate=truncate))
        with pytest.raises(StopIteration):
            output.write((b"now",)).send(None)
        output.close()
        assert path.read_bytes() == expected


async def test_a_pipe_without_reader_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match=str(path)) as caught:
        open_to_append(path)
    assert caught.value.errno == errno.ENXIO


async def test_others_go_on_while_a_large_record_is_written() -> None:
    """Also where nothing has to be waited for: the null device takes all at once."""
    output = Output(open_to_append("/dev/null"))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    await output.write((bytes(10 * MOST_AT_ONCE),))
    task.cancel()
    output.close()
    assert turns >= 10
