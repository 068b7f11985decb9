"""Files set aside: their names, and which of them are kept."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from k8strace.exporters._rotation import Rotation


class Clock(Rotation, frozen=True, kw_only=True):
    """A rotation that believes it is a certain time."""

    now: float = 0.0

    def _now(self) -> datetime:
        return datetime(2022, 9, 14, 5, 2, 14, 173_000) + timedelta(seconds=self.now)


@pytest.mark.parametrize(
    ("name", "backup"),
    [
        ("data.json", "data-2022-09-14T05-02-14.173.json"),
        ("data", "data-2022-09-14T05-02-14.173"),
        ("a.tar.gz", "a.tar-2022-09-14T05-02-14.173.gz"),
    ],
)
def test_the_time_stands_before_the_extension(
    tmp_path: Path, name: str, backup: str
) -> None:
    path = tmp_path / name
    path.write_text("full")
    assert Clock().set_aside(path) == tmp_path / backup
    assert (tmp_path / backup).read_text() == "full"
    assert not path.exists()


def test_two_in_a_millisecond_do_not_overwrite_each_other(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    for content in ("a", "b", "c"):
        path.write_text(content)
        Clock().set_aside(path)
    contents = [(file.name[-8:], file.read_text()) for file in sorted(tmp_path.iterdir())]
    assert contents == [("173.json", "a"), ("174.json", "b"), ("175.json", "c")]


def filled(tmp_path: Path, days: list[int]) -> Path:
    """A file with others of it that were set aside some days ago."""
    path = tmp_path / "data.json"
    for day in days:
        path.write_text(str(day))
        Clock(now=-86_400.0 * day).set_aside(path)
    path.write_text("now")
    return path


def left(path: Path) -> list[int]:
    return sorted(int(file.read_text()) for file in path.parent.glob("data-*"))


@pytest.mark.parametrize(
    ("rotation", "kept"),
    [
        (Clock(max_backups=2), [1, 2]),
        (Clock(max_backups=0), [1, 2, 3, 4]),
        (Clock(max_days=3, max_backups=0), [1, 2, 3]),
        (Clock(max_days=3, max_backups=1), [1]),
        (Clock(max_days=1, max_backups=9), [1]),
    ],
)
def test_only_the_youngest_are_kept(
    tmp_path: Path, rotation: Rotation, kept: list[int]
) -> None:
    path = filled(tmp_path, [3, 1, 4, 2])
    rotation.prune(path)
    assert left(path) == kept
    assert path.read_text() == "now"


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = filled(tmp_path, [1, 2])
    others = [
        "data-old.json",
        "data-2022-09-14T05-02-14.json",
        "data-2022-09-14T05-02-14.17.json",
        "data-2022-09-14T05-02-14.173.txt",
        "other-2022-09-14T05-02-14.173.json",
        "data.json.bak",
    ]
    for name in others:
        (tmp_path / name).write_text("9")
    Clock(max_backups=1).prune(path)
    assert all((tmp_path / name).exists() for name in others)


def test_local_time_is_that_of_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    path.write_text("")
    name = Rotation(localtime=True).set_aside(path).name
    stamp = datetime.strptime(name, "data-%Y-%m-%dT%H-%M-%S.%f")
    assert abs(stamp - datetime.now()) < timedelta(minutes=30)


def test_zero_megabytes_is_the_default() -> None:
    assert Rotation(max_megabytes=0).max_bytes == 100 * 1024 * 1024
