"""The log's queue: what a reader of stderr that is slow, or gone, does to the gateway."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread

import pytest

from k8strace.log_queue import LogHandler, LogQueue, QueuedText

PAGE = 4096
LIMIT = 64 * 1024


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reader and writer of a pipe that holds a page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    yield reader, writer
    # The writer stays open: a queue's thread may still write to its number, which the next
    # test's pipe would have.
    with suppress(OSError):
        os.close(reader)


def drain(reader: int, queue: LogQueue, last: bytes) -> bytes:
    """Read until all that is queued is there, which ends with `last`."""
    text = b""
    while last not in text:
        text += os.read(reader, PAGE)
    assert queue.flush()
    os.set_blocking(reader, False)
    with suppress(BlockingIOError):
        text += os.read(reader, LIMIT)
    return text


def test_what_is_not_read_is_bounded_and_dropped(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    queue = LogQueue(writer, LIMIT)
    queue.notice = lambda count: b"lost %d\n" % count
    lines = [b"%03d%s\n" % (number, b"x" * 996) for number in range(200)]
    for line in lines:
        queue.put(line)  # blocks nobody, although nobody reads
    assert not queue.flush(timeout=0)
    dropped = queue.dropped
    # The queue holds its limit, a pipe its page, and the thread what it is writing.
    assert len(lines) - (LIMIT + 2 * PAGE) // 1000 - 1 <= dropped
    assert dropped <= len(lines) - LIMIT // 1000
    text = drain(reader, queue, b"lost")
    assert text == b"".join(lines[: len(lines) - dropped]) + b"lost %d\n" % dropped
    assert queue.dropped == dropped


def test_it_goes_on_after_a_drop(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    queue = LogQueue(writer, 10)
    queue.notice = lambda count: b"lost %d\n" % count
    queue.put(b"far too long\n")
    queue.put(b"short\n")
    assert drain(reader, queue, b"lost") == b"short\nlost 1\n"
    os.set_blocking(reader, True)
    queue.put(b"more\n")
    assert queue.flush()
    assert os.read(reader, PAGE) == b"more\n"


def test_lines_are_written_whole_up_to_what_a_pipe_takes_at_once(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    queue = LogQueue(writer)
    for number in range(100):
        queue.put(b"%099d\n" % number)
    texts: list[bytes] = []
    while sum(map(len, texts)) < 10_000:
        texts.append(os.read(reader, PAGE))
    assert all(text.endswith(b"\n") for text in texts)
    assert b"".join(texts) == b"".join(b"%099d\n" % number for number in range(100))


def test_a_pipe_that_does_not_block(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    queue = LogQueue(writer)
    line = b"y" * (3 * PAGE) + b"\n"
    queue.put(line)
    text = b""
    while len(text) < len(line):
        text += os.read(reader, PAGE)
    assert text == line
    assert queue.flush()


def test_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    queue = LogQueue(writer)
    queue.put(b"to nobody\n")
    assert queue.flush()
    assert queue.dropped == 1


class _Logs(bytes):
    """A line at which another is logged, as from a finalizer, while it is queued."""

    queue: LogQueue

    def __len__(self) -> int:
        self.queue.put(b"inner\n")
        return super().__len__()


def test_what_logs_while_a_line_is_queued_waits_for_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    queue = LogQueue(writer, LIMIT)
    line = _Logs(b"outer\n")
    line.queue = queue
    thread = Thread(target=queue.put, args=(line,), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    queue.put(b"last\n")
    assert {b"inner", b"outer", b"last"} == set(drain(reader, queue, b"last").split())


def test_a_notice_that_cannot_be_made_stops_nothing(pipe: tuple[int, int]) -> None:
    def fail(count: int) -> bytes:
        raise MemoryError(count)

    reader, writer = pipe
    queue = LogQueue(writer, LIMIT)
    queue.notice = fail
    queue.put(bytes(LIMIT + 1))
    assert queue.dropped == 1
    for number in range(3):
        queue.put(b"%d\n" % number)
        assert queue.flush()
    queue.notice = lambda count: b"lost %d\n" % count
    queue.put(b"last\n")
    assert drain(reader, queue, b"lost") == b"0\n1\n2\nlast\nlost 1\n"


def test_nothing_to_flush() -> None:
    assert LogQueue(-1).flush(timeout=0)


def test_records_and_what_python_prints(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    queue = LogQueue(writer)
    handler = LogHandler(queue)
    for text, value in (("a lone \udc80 and %d more", 2), ("%d", "no number")):
        # The second is the fault of a call: it is told on stderr, and survived.
        record = logging.LogRecord("k8strace", logging.INFO, "", 0, text, (value,), None)
        handler.handle(record)
    stream = QueuedText(queue, writer)
    traceback.print_exception(ValueError("wrong"), file=stream)
    assert stream.writable()
    assert stream.fileno() == writer
    assert not stream.isatty()
    assert isinstance(stream, io.TextIOBase)
    assert queue.flush()
    lines = os.read(reader, PAGE).decode().splitlines()
    assert lines[0] == "a lone \\udc80 and 2 more"
    assert lines[-1] == "ValueError: wrong"


def test_the_notice_is_a_record_of_the_log(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    queue = LogQueue(writer, 10)
    handler = LogHandler(queue)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    queue.put(b"far too long\n")
    queue.put(b"short\n")
    assert drain(reader, queue, b"fast") == (
        b"short\nWARNING 1 log records were dropped: stderr was not read fast enough\n"
    )


def test_the_rest_is_written_at_the_end() -> None:
    program = (
        "from k8strace.log_queue import queue, take_over_stderr\n"
        "take_over_stderr()\n"
        "for number in range(500): queue.put(b'%d\\n' % number)\n"
        "raise RuntimeError('at the end')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, check=False
    )
    assert run.returncode == 1
    lines = run.stderr.decode().splitlines()
    assert lines[:500] == [str(number) for number in range(500)]
    assert lines[-1] == "RuntimeError: at the end"
