"""Small files of the operator's, read without waiting for long: their mount may hang.

Reading is a thread's job. The caller blocks for some milliseconds at most, in which a disk
that is well has answered; when it takes longer, a later look has the answer.
"""

from __future__ import annotations

import errno
import os
import select
from time import monotonic

from k8strace._files import Read
from k8strace.threads import Begun

PATIENCE = 0.005  # seconds that a look may hold up the event loop
START_TIMEOUT = 10.0  # seconds for the first reading, before which nothing can begin
LATE = 5.0  # seconds after which the log says that there is no answer

_TEXTS = {errno.EINVAL: "it is not a regular file"}


def read_whole(path: str, most: int) -> bytes:
    """What a file, a pipe or a device says up to its end, `most` + 1 bytes of it at most.

    Waits up to START_TIMEOUT for a mount or a writer. Raises OSError.
    """
    try:
        return FileReader(path, most + 1).read()
    except OSError as error:
        if error.errno == errno.EFBIG:
            return bytes(most + 1)
        if error.errno != errno.EINVAL:
            raise
    # Not a regular file: a shell's <(…) and /dev/stdin are pipes, and as good.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return _read_slowly(path, file, most)
    finally:
        os.close(file)


def _read_slowly(path: str, file: int, most: int) -> bytes:
    end = monotonic() + START_TIMEOUT
    poll = select.poll()
    poll.register(file, select.POLLIN)
    data = b""
    was_there = False  # a writer of the pipe
    while len(data) <= most:
        try:
            part = os.read(file, most + 1 - len(data))
        except BlockingIOError:
            part = None
        left = end - monotonic()
        if part and left > 0:
            data += part
        elif part == b"" and (data or was_there):
            break
        elif left > 0 and poll.poll(left * 1000):
            was_there = True
        else:
            text = f"nobody has written it to its end within {START_TIMEOUT:g} s"
            raise OSError(errno.ETIMEDOUT, text, path)
    return data


class FileReader:
    """The file at `path`, of `most` bytes at most.

    Errors are OSError with a text and the path.
    """

    def __init__(self, path: str, most: int) -> None:
        self.path = path
        self._most = most
        self._job: Read | None = None
        self._begun: Begun | None = None
        self._since = 0.0
        self._is_late = False
        self._seen: tuple[int, ...] | None = None
        self._failure: tuple[int, tuple[int, ...]] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it was looked at, and there is no answer yet."""
        return self._begun is not None

    def read(self) -> bytes:
        """What is in it now; waits up to START_TIMEOUT. Raises OSError."""
        self._seen = self._failure = self._begun = None
        content = self._look(START_TIMEOUT)
        if content is None:
            text = f"no answer within {START_TIMEOUT:g} s: does its mount hang?"
            raise OSError(errno.ETIMEDOUT, text, self.path)
        return content

    def look(self) -> bytes | None:
        """What is in it, if that has changed since it was read, as far as is known by now.

        Raises OSError where it cannot be read, once until that changes; what was there
        before is what is known of it.
        """
        return self._look(PATIENCE if self._begun is None else 0.0)

    def _look(self, seconds: float) -> bytes | None:
        if self._begun is None or self._job is None:
            self._job = Read(os.fsencode(self.path), self._most, self._seen)
            self._begun = Begun(self._job)
            self._since = monotonic()
        if not self._begun.wait(seconds):
            if not self._is_late and monotonic() - self._since >= LATE:
                self._is_late = True
                text = f"no answer for {LATE:g} s: does its mount hang?"
                raise OSError(errno.ETIMEDOUT, text, self.path)
            return None
        job, self._job, self._begun, self._is_late = self._job, None, None, False
        if job.error:
            self._fail(job.error, job.signature)
            return None
        self._failure = None
        if job.content is not None:
            self._seen = job.signature
        return job.content

    def _fail(self, error: int, signature: tuple[int, ...]) -> None:
        self._seen = None  # whatever is there next is read
        if self._failure != (error, signature):
            self._failure = error, signature
            text = _TEXTS.get(error) or os.strerror(error)
            if error == errno.EFBIG:
                text = f"it is larger than {self._most} bytes"
            raise OSError(error, text, self.path)
