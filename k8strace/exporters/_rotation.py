"""Files that are set aside when they are full: named by time, kept by number and age."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from k8strace.component import Config
from k8strace.units import MIB

DEFAULT_MEGABYTES = 100
_FORMAT = "%Y-%m-%dT%H-%M-%S"
_MILLISECOND = timedelta(milliseconds=1)


class Rotation(Config, frozen=True, kw_only=True):
    """`rotation`: a file over `max_megabytes` is set aside.

    Of those set aside, `max_backups` are kept, for `max_days`; 0 is no limit.
    """

    max_megabytes: Annotated[int, Meta(ge=0)] = DEFAULT_MEGABYTES
    max_days: Annotated[int, Meta(ge=0)] = 0
    max_backups: Annotated[int, Meta(ge=0)] = 100
    localtime: bool = False

    @property
    def max_bytes(self) -> int:
        return (self.max_megabytes or DEFAULT_MEGABYTES) * MIB

    def set_aside(self, path: Path) -> Path:
        """Rename `path` to a name with the time in it; returns the new name."""
        now = self._now()
        while (backup := _backup(path, now)).exists():
            now += _MILLISECOND
        path.rename(backup)
        return backup

    def prune(self, path: Path) -> None:
        """Remove what was set aside of `path` and is too much or too old."""
        backups = sorted(self._backups(path), reverse=True)
        oldest = self._now() - timedelta(days=self.max_days)
        for index, (when, backup) in enumerate(backups):
            too_many = self.max_backups and index >= self.max_backups
            if too_many or (self.max_days and when < oldest):
                backup.unlink(missing_ok=True)

    def _now(self) -> datetime:
        """The time that names carry: of this place, or UTC."""
        return datetime.now(None if self.localtime else UTC).replace(tzinfo=None)

    def _backups(self, path: Path) -> list[tuple[datetime, Path]]:
        found = []
        for name in os.listdir(path.parent):
            stamp = name.removeprefix(f"{path.stem}-").removesuffix(path.suffix)
            whole, _, milliseconds = stamp.rpartition(".")
            try:
                when = datetime.strptime(whole, _FORMAT)
                when += int(milliseconds) * _MILLISECOND
            except ValueError:
                continue
            # Also refuses names that only resemble one of ours.
            if _backup(path, when).name == name:
                found.append((when, path.parent / name))
        return found


def _backup(path: Path, when: datetime) -> Path:
    stamp = f"{when.strftime(_FORMAT)}.{when.microsecond // 1000:03d}"
    return path.with_name(f"{path.stem}-{stamp}{path.suffix}")
