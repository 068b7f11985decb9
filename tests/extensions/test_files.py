"""Files that are read again when they have changed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from k8strace import files
from k8strace.errors import ConfigError
from k8strace.extensions import _files
from k8strace.extensions._files import MAX_SIZE, WatchedFile
from tests.support.hanging import hanging, until

LOG = logging.LoggerAdapter(logging.getLogger("k8strace"), {})


def number(content: bytes) -> int:
    if not content.isdigit():
        raise ValueError("has no number in it")
    return int(content)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_files, "CHECK_EVERY", 0.0)
    path = tmp_path / "number"
    path.write_text("1")
    return path


def test_a_change_is_noticed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watched = WatchedFile(str(path), number, LOG)
    assert watched.load() == watched.value == 1
    assert not caplog.records
    path.write_text("22")
    assert watched.value == 22
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_file_that_is_replaced_as_kubernetes_does(path: Path) -> None:
    new, link = path.with_name("new"), path.with_name("link")
    new.write_text("2")
    link.symlink_to(path)
    watched = WatchedFile(str(link), number, LOG)
    assert watched.load() == 1
    other = path.with_name("other")
    other.symlink_to(new)
    os.replace(other, link)
    assert watched.value == 2


def test_what_was_there_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = WatchedFile(str(path), number, LOG)
    watched.load()
    path.write_text("secret")
    for _ in range(3):
        assert watched.value == 1
    path.unlink()
    for _ in range(3):
        assert watched.value == 1
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"{path}: has no number in it; what was read before goes on",
        f"cannot read {path}: No such file or directory; what was read before goes on",
    ]
    path.write_text("3")
    assert watched.value == 3


def test_a_mount_that_hangs(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = WatchedFile(str(path), number, LOG)
    watched.load()
    path.write_text("22")
    with hanging() as answer:
        with monkeypatch.context() as patch:
            patch.setattr(files, "LATE", 0.0)
            for _ in range(3):
                assert watched.value == 1
        (record,) = caplog.records
        assert "no answer for 0 s: does its mount hang?; what was read" in record.message
        answer()
        until(lambda: watched.value, 22)


def test_it_is_looked_at_once_a_second_at_most(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "CHECK_EVERY", 1000.0)
    watched = WatchedFile(str(path), number, LOG)
    watched.load()
    path.write_text("22")
    assert watched.value == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "cannot read"), (b"x", "has no number"), (b"1" * (MAX_SIZE + 1), "larger")],
)
def test_at_the_beginning_it_has_to_be_right(
    path: Path, content: bytes | None, text: str
) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=text) as caught:
        WatchedFile(str(path), number, LOG).load()
    assert str(path) in str(caught.value)


def test_what_is_no_file(path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        WatchedFile(str(path.parent), number, LOG).load()
    with pytest.raises(ConfigError, match="is not a regular file"):
        WatchedFile("/dev/zero", number, LOG).load()
