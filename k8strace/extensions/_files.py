"""What small files say, read again when they have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from k8strace.errors import ConfigError
from k8strace.files import FileReader

CHECK_EVERY = 1.0  # seconds between two looks at a file that is used
MAX_SIZE = 1024 * 1024  # bytes

T = TypeVar("T")
Log = logging.LoggerAdapter[logging.Logger]


class WatchedFile(Generic[T]):
    """The value that `parse` makes of a file's bytes; it raises ValueError for bad ones,
    with a text that has nothing secret.

    A file is looked at when its value is asked for, once a second at most, so that nothing
    runs for one that is not used. While what is there cannot be read, or its mount does not
    answer, the value that was there before goes on, and the log says so, once for each
    change.
    """

    def __init__(self, path: str, parse: Callable[[bytes], T], log: Log) -> None:
        self._path = path
        self._parse = parse
        self._log = log
        self._reader = FileReader(path, MAX_SIZE)
        self._value: T | None = None
        self._looked = 0.0

    def load(self) -> T:
        """Read it now. Raises ConfigError that names the file."""
        try:
            self._value = value = self._parse(self._reader.read())
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
            content = self._reader.look()
            if content is None:
                return
            self._value = self._parse(content)
        except OSError as error:
            why = f"cannot read {self._path}: {error.strerror}"
        except ValueError as error:
            why = f"{self._path}: {error}"
        else:
            self._log.info("%s has changed and was read again", self._path)
            return
        self._log.error("%s; what was read before goes on", why)
