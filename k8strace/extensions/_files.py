"""What small files say, read again when they have changed."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from k8strace.errors import ConfigError

CHECK_EVERY = 1.0  # seconds between two looks at a file that is used
MAX_SIZE = 1024 * 1024  # bytes

T = TypeVar("T")
Log = logging.LoggerAdapter[logging.Logger]


class WatchedFile(Generic[T]):
    """The value that `parse` makes of a file's bytes; it raises ValueError for bad ones,
    with a text that has nothing secret.

    A file is looked at when its value is asked for, once a second at most, so that nothing
    runs for one that is not used. While what is there cannot be read, the value that was
    there before goes on, and the log says so, once for each change.
    """

    def __init__(self, path: str, parse: Callable[[bytes], T], log: Log) -> None:
        self._path = path
        self._parse = parse
        self._log = log
        self._value: T | None = None
        self._seen: tuple[int, ...] | None = None
        self._looked = 0.0

    def load(self) -> T:
        """Read it now. Raises ConfigError that names the file."""
        try:
            self._seen = self._signature()
            self._value = value = self._parse(_read(self._path))
        except OSError as error:
            raise ConfigError([f"cannot read {self._path}: {error.strerror}"]) from error
        except ValueError as error:
            raise ConfigError([f"{self._path}: {error}"]) from error
        self._looked = monotonic()
        return value

    @property
    def value(self) -> T:
        """What it says, which `load` has read before."""
        now = monotonic()
        if now - self._looked >= CHECK_EVERY:
            self._looked = now
            self._look()
        assert self._value is not None, "load comes first"
        return self._value

    def _look(self) -> None:
        try:
            seen = self._signature()
        except OSError:
            seen = ()
        if seen == self._seen:
            return
        try:
            self.load()
            self._log.info("%s has changed and was read again", self._path)
        except ConfigError as error:
            self._seen = seen
            self._log.error("%s; what was read before goes on", error)

    def _signature(self) -> tuple[int, ...]:
        found = os.stat(self._path)
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is no regular file")
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise ValueError(f"is larger than {MAX_SIZE} bytes")
    return content
