"""file: writes spans to a file, as lines of OTLP's JSON or as protobuf.

Each payload is a record: a line, or a message behind its length in 4 bytes (big-endian).
As JSON one of more than 500 spans, or 64 KiB, is several.
A record is handed to the operating system before its payload counts as sent, so the end
of the process loses none; `flush_interval` is how often it goes on to the disk. A record
that could not be written whole is taken back. A pipe or a device gets what it takes.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import ClassVar, Literal

from msgspec import UNSET, UnsetType

from k8strace.background import ended, keep_running
from k8strace.component import Context, Worker
from k8strace.errors import RefusedError
from k8strace.exporters import _otlp_json
from k8strace.exporters._appender import CLOSE_TIMEOUT, Appender, Record, opened, prune
from k8strace.exporters._decoding import MAX_BYTES, MAX_SPANS, printed
from k8strace.exporters._output import Output, open_to_append
from k8strace.exporters._rotation import Rotation
from k8strace.exporters._sending import (
    QueueConfig,
    RetryConfig,
    SendingConfig,
    SendingExporter,
    Sent,
)
from k8strace.folders import make_folders
from k8strace.passes import Loan, Spare
from k8strace.payload import Payload
from k8strace.units import Duration

DEFAULT_FLUSH_INTERVAL = Duration(1.0)
_LENGTH = 4  # bytes of the length before each protobuf record


class Config(SendingConfig, frozen=True, kw_only=True):
    """A file that exists is emptied at start, unless there is `append` or `rotation`.

    `rotation` is off unless it is given, be it empty (`rotation:`).
    """

    not_available: ClassVar[Mapping[str, str]] = {
        "compression_params": "files are not compressed; leave it out",
        "encoding": "use format",
        "group_by": "write one exporter for each file",
    }

    path: str
    timeout: Duration = Duration(0.0)
    sending_queue: QueueConfig = QueueConfig(enabled=False)
    retry_on_failure: RetryConfig = RetryConfig(enabled=False)
    append: bool = False
    format: Literal["json", "proto"] = "json"
    compression: str = ""
    flush_interval: Duration = DEFAULT_FLUSH_INTERVAL
    rotation: Rotation | UnsetType | None = UNSET
    create_directory: bool = False
    directory_permissions: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path must not be empty")
        if self.append and self.rotation is not UNSET:
            raise ValueError("append and rotation cannot be used together")
        if self.compression == "zstd":
            raise ValueError("compression: zstd is not available yet, leave it out")
        if self.compression:
            raise ValueError(f"compression {self.compression!r} is not supported")
        if self.flush_interval < 0:
            raise ValueError(
                f"flush_interval must not be negative, found {self.flush_interval}"
            )
        if self.directory_permissions and not self.create_directory:
            raise ValueError("directory_permissions requires create_directory: true")
        if not 0 <= self.directory_mode <= 0o777:
            raise ValueError(
                "directory_permissions must be an octal number up to 0777, "
                f"not {self.directory_permissions!r}"
            )

    @property
    def directory_mode(self) -> int:
        """`directory_permissions` as a number, -1 where it is none."""
        try:
            return int(self.directory_permissions or "0755", 8)
        except ValueError:
            return -1

    @property
    def rotating(self) -> Rotation | None:
        """The options of `rotation`, None where it is off."""
        return None if self.rotation is UNSET else self.rotation or Rotation()


class File(SendingExporter[Config]):
    """Writes payloads to a file."""

    type_name = "file"
    config_type = Config

    def __init__(self, config: Config, context: Context) -> None:
        self._path = own_path(Path(config.path), context.worker)
        super().__init__(config, context)
        self._output: Output | None = None  # what is not a regular file
        self._appender: Appender | None = None
        self._spare = Spare(context.budget)
        self._closing = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None

    @property
    def destination(self) -> str:
        return str(self._path)

    @property
    def max_request_spans(self) -> int:
        return MAX_SPANS if self.config.format == "json" else 0

    @property
    def max_request_bytes(self) -> int:
        return MAX_BYTES if self.config.format == "json" else 0

    async def open(self) -> None:
        config = self.config
        file = await opened(self._open, self._path)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            self._output = Output(file)
            if config.rotating is not None:
                await self.close()
                raise ValueError(f"rotation needs a regular file, {self._path} is none")
        else:
            self._appender = Appender(self._path, file, config.rotating, self.log)
        self._closing.clear()
        self._flusher = keep_running(self._flush_regularly, "flushing the file", self.log)

    def _open(self, path: Path) -> int:
        """On a thread: open the file, and put in order what is there."""
        config = self.config
        if config.create_directory:
            make_folders(path.parent, config.directory_mode)
        keep = config.append or config.rotating is not None
        # A worker that follows one that died goes on behind what that one wrote.
        keep = keep or not self.context.worker.is_first
        file = open_to_append(path, truncate=not keep)
        try:
            if keep and stat.S_ISREG(os.fstat(file).st_mode):
                self._mend(file)
        except BaseException:
            os.close(file)
            raise
        if config.rotating is not None:
            prune(path, config.rotating, self.log)
        return file

    async def send(self, payload: Payload) -> Sent:
        try:
            if self._appender is not None:
                await self._appender.write(partial(self._record, payload), payload)
            elif self._output is not None:
                record, loan = await self._record(payload, inf)
                try:
                    await self._output.write(record)
                finally:
                    loan.end()
        except OSError as error:
            raise RefusedError(
                f"cannot write to {error.filename or self._path}: {error.strerror}"
            ) from error
        return Sent()

    async def close(self) -> None:
        self._closing.set()
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            await ended(flusher, CLOSE_TIMEOUT)
            if not flusher.done():
                flusher.cancel()
                await ended(flusher)
                self.log.error(
                    "the end of %s may not be on the disk: its mount does not answer",
                    self._path,
                )
        if self._appender is not None:
            await self._appender.close()
            self._appender = None
        if self._output is not None:
            self._output.close()
            self._output = None

    async def _record(self, payload: Payload, until: float) -> tuple[Record, Loan]:
        """What is written, and what holds it; see `_appender.Make`."""
        if self.config.format == "proto":
            length = payload.size.to_bytes(_LENGTH, "big")
            return (length, *payload.chunks), Loan(None, None)
        record, loan = await printed(payload, self._spare, _otlp_json.encode, until)
        return (*record, b"\n"), loan

    def _mend(self, appended: int) -> None:
        """Cut off a record that an earlier process did not finish."""
        end_of = _end_of_messages if self.config.format == "proto" else _end_of_lines
        with self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            whole = end_of(file.fileno(), size)
        if whole < size:
            os.ftruncate(appended, whole)
            self.log.warning(
                "cut %d bytes of an unfinished record off %s", size - whole, self._path
            )

    async def _flush_regularly(self) -> None:
        """Flush every `flush_interval`, and once more at the end."""
        interval = self.config.flush_interval or DEFAULT_FLUSH_INTERVAL
        while not self._closing.is_set():
            try:
                async with asyncio.timeout(interval):
                    await self._closing.wait()
            except TimeoutError:
                await self._sync()
        await self._sync()

    async def _sync(self) -> None:
        """Bring to the disk what was written since the last time."""
        if self._appender is None:
            return
        try:
            await self._appender.sync()
        except OSError as error:
            self.log.error(  # noqa: TRY400
                "cannot bring %s to the disk: %s", self._path, error.strerror
            )


def own_path(path: Path, worker: Worker) -> Path:
    """The file that one of several workers writes: spans.json becomes spans-0.json.

    What is no regular file, such as a pipe, is written by all of them.
    """
    if worker.workers == 1 or (path.exists() and not path.is_file()):
        return path
    return path.with_name(f"{path.stem}-{worker.slot}{path.suffix}")


def _end_of_messages(file: int, size: int) -> int:
    """Where the last message that is there whole ends."""
    end = 0
    while end + _LENGTH <= size:
        length = int.from_bytes(os.pread(file, _LENGTH, end), "big")
        if end + _LENGTH + length > size:
            break
        end += _LENGTH + length
    return end


def _end_of_lines(file: int, size: int, step: int = 64 * 1024) -> int:
    """Where the last line that is there whole ends."""
    while size:
        start = max(0, size - step)
        newline = os.pread(file, size - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        size = start
    return 0
