"""file_storage: a directory in which sending queues keep what waits to be sent.

An exporter uses it by `sending_queue: {storage: file_storage}`. What was acknowledged is on
the disk then, and outlives the process. One gateway has a directory, and locks it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import quote, unquote

from k8strace import component, threads
from k8strace._store import Locate
from k8strace.background import keep_running
from k8strace.component import NO_EFFECT, ComponentID, Context
from k8strace.drops import Drops
from k8strace.extensions._lock import NAME, Lock
from k8strace.folders import make_folders
from k8strace.metrics import Metrics
from k8strace.segments import Totals, count, segments, sync_folder
from k8strace.units import Duration

LOOK_EVERY = 1.0  # seconds between two looks at whether the lock is in its place


class CompactionConfig(component.Config, frozen=True, kw_only=True):
    """`compaction`, which there is no need for: segments that are done are removed."""

    on_start: Annotated[bool, NO_EFFECT] = False
    on_rebound: Annotated[bool, NO_EFFECT] = False
    directory: Annotated[str, NO_EFFECT] = ""
    rebound_needed_threshold_mib: Annotated[int, NO_EFFECT] = 100
    rebound_trigger_threshold_mib: Annotated[int, NO_EFFECT] = 10
    check_interval: Annotated[Duration, NO_EFFECT] = Duration(5.0)
    max_transaction_size: Annotated[int, NO_EFFECT] = 65536
    cleanup_on_start: Annotated[bool, NO_EFFECT] = False


class Config(component.Config, frozen=True, kw_only=True):
    """`timeout` is how long to wait for a directory that another process has locked.

    Every commit is brought to the disk, and what is damaged is set aside, whatever `fsync`
    and `recreate` say.
    """

    not_available: ClassVar[Mapping[str, str]] = {
        "max_size": "sending_queue::queue_size of each exporter bounds what it stores",
    }

    directory: str = "/var/lib/otelcol/file_storage"
    timeout: Duration = Duration(1.0)
    create_directory: bool = True
    directory_permissions: str = "0750"
    fsync: Annotated[bool, NO_EFFECT] = False
    recreate: Annotated[bool, NO_EFFECT] = False
    compaction: CompactionConfig = CompactionConfig()

    def __post_init__(self) -> None:
        if not self.directory:
            raise ValueError("`directory` must not be empty")
        if self.timeout < 0:
            raise ValueError(f"`timeout` must be non-negative, found {self.timeout}")
        if not 0 <= self.directory_mode <= 0o777:
            raise ValueError(
                "`directory_permissions` must be an octal number up to 0777, "
                f"found {self.directory_permissions!r}"
            )

    @property
    def directory_mode(self) -> int:
        """`directory_permissions` as a number, -1 where it is none."""
        try:
            return int(self.directory_permissions, 8)
        except ValueError:
            return -1


class FileStorage(component.Storage[Config]):
    type_name = "file_storage"
    config_type = Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self._path = Path(config.directory)
        self.named: set[str] = set()
        """Folders of exporters that store here."""
        self._lock: Lock | None = None
        self._keeper: asyncio.Task[None] | None = None

    def place(self, exporter: ComponentID) -> Path:
        name = quote(str(exporter), safe="")
        self.named.add(name)
        return self._path / name

    async def start(self) -> None:
        if not self.context.worker.is_supervised:
            await self.hold()

    async def stop(self, deadline: float) -> None:  # noqa: ARG002
        self.release()

    async def hold(self) -> None:
        if self._lock is not None:
            return
        self._make_directory()
        until = asyncio.get_running_loop().time() + self.config.timeout
        while (lock := Lock.take(self._path)) is None:
            if asyncio.get_running_loop().time() >= until:
                raise OSError(
                    errno.EAGAIN,
                    "another gateway has locked this directory: stop that one, or give "
                    "each a directory of its own",
                    str(self._path),
                )
            await asyncio.sleep(0.05)
        self._lock = lock
        self._keeper = keep_running(
            self._keep, f"looking after the lock on {self._path}", self.log
        )
        for path, totals in self._orphans():
            self.log.warning(
                "%s keeps %d requests of %d spans of the exporter %s, which stores "
                "nothing here any more: --drop-orphans deletes them",
                *(path, totals.records, totals.spans, unquote(path.name)),
            )

    async def _keep(self) -> None:
        """Lock the directory again when another one was put in its place."""
        path = self._path / NAME
        has_told = False
        while (lock := self._lock) is not None:
            await asyncio.sleep(LOOK_EVERY)
            look = Locate(lock.fd, os.fsencode(path))
            await threads.run(look, for_disk=True)
            if look.error != errno.ESTALE or not self._path.is_dir():
                continue
            another = Lock.take(self._path)
            if another is not None:
                self.log.warning("%s was replaced, and is locked again", self._path)
                self._lock = another
                lock.release()
            elif not has_told:
                has_told = True
                self.log.error(
                    "%s was replaced, and another gateway has locked it: stop that one, or "
                    "give each a directory of its own",
                    self._path,
                )

    def release(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def drop_orphans(self, metrics: Metrics) -> None:
        for path, held in self._orphans():
            left = Totals()
            try:
                shutil.rmtree(path)
            except OSError as error:
                left = _totals(path)
                self.log.error(  # noqa: TRY400  (it says all)
                    "cannot delete %s, which keeps %d requests of %d spans: %s",
                    *(path, left.records, left.spans, error.strerror),
                )
            if left.records == held.records:
                continue
            totals = Totals(*(was - now for was, now in zip(held, left, strict=True)))
            exporter = unquote(path.name)
            ledger = metrics.ledger("exporters", exporter)
            ledger.recovered += totals.spans
            log = logging.LoggerAdapter(
                self.log.logger, {"component": f"exporters/{exporter}"}
            )
            drops = Drops("exporters", exporter, log, ledger, metrics.losses)
            drops.spans(
                totals.spans,
                "orphaned",
                f"deleted {totals.records} requests of the exporter {exporter}, which "
                "stores nothing here any more",
            )

    def _orphans(self) -> list[tuple[Path, Totals]]:
        found = []
        named = self.named.union(*(one.named for one in self._sharing()))
        for path in sorted(self._path.iterdir()):
            if path.name in named or not path.is_dir():
                continue
            if next(segments(path), None) is not None:
                found.append((path, _totals(path)))
        return found

    def _sharing(self) -> list[FileStorage]:
        """Extensions of this gateway that have this directory."""
        here = os.path.realpath(self._path)
        all_ = self.context.extensions.values()
        found = [one for one in all_ if isinstance(one, FileStorage)]
        return [one for one in found if os.path.realpath(one.config.directory) == here]

    def _make_directory(self) -> None:
        path = self._path
        if path.is_dir():
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError(
                    errno.EACCES, "no right to read and write there", str(path)
                )
            return
        if path.exists():
            raise NotADirectoryError(errno.ENOTDIR, "is no directory", str(path))
        if not self.config.create_directory:
            raise FileNotFoundError(
                errno.ENOENT,
                "there is no such directory: make it, or set `create_directory: true`",
                str(path),
            )
        make_folders(path, self.config.directory_mode)
        with suppress(PermissionError):  # who may write there may read it, mostly
            sync_folder(path.parent)


def _totals(path: Path) -> Totals:
    """What all segments of an exporter hold."""
    totals = [count(one) for one in segments(path)]
    return Totals(*map(sum, zip(Totals(), *totals, strict=True)))
