"""The way of the log to stderr: a bounded queue, and a thread that writes.

Who reads stderr may be slow, or may have stopped. A write that blocks would then hold up
the event loop, and with it the health checks and the signals. So nothing but the thread
waits for the reader; what doesn't fit into the queue is dropped and counted, and a line
says so as soon as the reader goes on.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import sys
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, RLock, Thread

from k8strace.units import MIB

MAX_QUEUED = MIB  # bytes that wait for the reader
EXIT_TIMEOUT = 2.0  # seconds for the reader to take the rest when the process ends
STDERR = 2


class LogQueue:
    """Lines that wait to be written to `descriptor`, `limit` bytes of them at most.

    `notice` makes the line that says how many records were dropped.
    """

    def __init__(self, descriptor: int, limit: int = MAX_QUEUED) -> None:
        self.notice: Callable[[int], bytes] = lambda count: b"%d dropped\n" % count
        self._descriptor = descriptor
        self._limit = limit
        self._lines: SimpleQueue[bytes | Event] = SimpleQueue()
        self._thread: Thread | None = None
        # Of those that put; the thread never takes it. The garbage collector may run within
        # it, and whatever that finds may log in the same thread.
        self._lock = RLock()
        self._put = 0  # bytes so far, written by those that put
        self._taken = 0  # bytes so far, written by the thread
        self._refused = 0
        self._lost = 0
        self._told = 0

    @property
    def dropped(self) -> int:
        """Records that did not fit, or that could not be written."""
        return self._refused + self._lost

    def put(self, line: bytes) -> None:
        """Queue `line`, or count it as dropped. Never blocks."""
        with self._lock:
            if self._put - self._taken + len(line) > self._limit:
                self._refused += 1
                return
            self._put += len(line)
            self._lines.put(line)
            self._start()

    def flush(self, timeout: float = EXIT_TIMEOUT) -> bool:
        """Wait until all that is queued is written; False if it takes longer."""
        if self._thread is None:
            return True
        written = Event()
        self._lines.put(written)
        return written.wait(timeout)

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: one that is blocked by the reader must not hold up the exit.
            self._thread = Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        batch: list[bytes] = []
        size = 0
        while True:
            try:
                item = self._lines.get_nowait()
            except Empty:
                if not batch:
                    self._tell_dropped()
                    batch, size = self._begin(self._lines.get())
                    continue
                item = b""
            # A write of this size is not mixed with those of other processes (pipe(7)).
            if item and isinstance(item, bytes) and size + len(item) <= select.PIPE_BUF:
                batch.append(item)
                size += len(item)
                continue
            if batch:
                self._write(batch, size)
            batch, size = self._begin(item)

    def _begin(self, item: bytes | Event) -> tuple[list[bytes], int]:
        """A batch of `item`, or none of what is not a line."""
        if isinstance(item, bytes):
            return ([item], len(item)) if item else ([], 0)
        self._tell_dropped()
        item.set()
        return [], 0

    def _write(self, batch: list[bytes], size: int) -> None:
        if not self._write_made(lambda: b"".join(batch)):
            self._lost += len(batch)
        self._taken += size

    def _tell_dropped(self) -> None:
        """Say how many records were dropped since it was said last."""
        count = self.dropped - self._told
        if count and self._write_made(lambda: self.notice(count)):
            self._told += count

    def _write_made(self, make: Callable[[], bytes]) -> bool:
        """Write what `make` makes; False if that fails.

        Whatever fails, out of memory say, the thread goes on: no other writes the log.
        """
        try:
            return self._write_all(make())
        except Exception:
            return False

    def _write_all(self, text: bytes) -> bool:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody made the terminal or pipe non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:  # there is nobody to tell
                return False
        return True


class LogHandler(logging.Handler):
    """Puts records into a queue."""

    def __init__(self, queue: LogQueue) -> None:
        super().__init__()
        self._queue = queue
        queue.notice = self._notice

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put(self._line(record))
        except Exception:
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace") + b"\n"

    def _notice(self, count: int) -> bytes:
        record = logging.LogRecord(
            "k8strace",
            logging.WARNING,
            __file__,
            0,
            "%d log records were dropped: stderr was not read fast enough",
            (count,),
            None,
        )
        self.filter(record)
        return self._line(record)


class QueuedText(io.TextIOBase):
    """A text file whose writes go into a queue: what Python itself prints on stderr, such
    as the traceback of an error that nobody caught."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, queue: LogQueue, descriptor: int) -> None:
        self._queue = queue
        self._descriptor = descriptor

    def write(self, text: str, /) -> int:
        self._queue.put(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


queue = LogQueue(STDERR)
"""That of this process."""


def take_over_stderr() -> None:
    """Send what Python itself prints on stderr through the queue, too."""
    sys.stderr = QueuedText(queue, STDERR)


atexit.register(queue.flush)
