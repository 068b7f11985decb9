"""file_storage: a directory that is there, ours alone, and free of what nobody wants."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from k8strace.component import ComponentID, Worker
from k8strace.config import decode
from k8strace.config_structs import Decoder, to_node
from k8strace.errors import ConfigError
from k8strace.extensions import file_storage
from k8strace.extensions._lock import NAME, Lock
from k8strace.extensions.file_storage import Config, FileStorage
from k8strace.metrics import Metrics
from tests.support.pipeline import context, until
from tests.support.stores import files, put, store

NOBODY = 65534


def storage(directory: Path, **options: Any) -> FileStorage:
    config = decode(Config, {"directory": str(directory), "timeout": "0s", **options})
    return FileStorage(config, context("extensions", "file_storage"))


def test_defaults() -> None:
    config = Config()
    assert config.directory == "/var/lib/otelcol/file_storage"
    assert (config.create_directory, config.directory_mode) == (True, 0o750)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"directory": ""}, "`directory` must not be empty"),
        ({"timeout": "-1s"}, "`timeout` must be non-negative"),
        ({"directory_permissions": "rwx"}, "octal number up to 0777, found 'rwx'"),
        ({"directory_permissions": "1777"}, "octal number up to 0777, found '1777'"),
        ({"direcory": "/tmp"}, "direcory"),
    ],
)
def test_mistakes(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        decode(Config, options)


def test_what_tunes_the_collectors_database_has_no_effect() -> None:
    decoder = Decoder()
    values = {"fsync": True, "recreate": True, "compaction": {"on_start": True}}
    assert decoder.struct(Config, to_node(values), "file_storage") == decode(Config, values)
    assert len(decoder.notes) == 3
    assert all("no effect" in note for note in decoder.notes)


async def test_the_directory_is_made(tmp_path: Path) -> None:
    one = storage(tmp_path / "a" / "b", directory_permissions="0700")
    await one.start()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    await one.stop(0)
    await one.stop(0)


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no such directory: make it, or set"):
        await storage(tmp_path / "x", create_directory=False).start()


async def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(OSError, match="is no directory"):
        await storage(tmp_path / "x").start()


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[Path]:
    """A directory without rights for who we are meanwhile."""
    if os.geteuid() == 0:
        tmp_path.chmod(0o700)
        os.seteuid(NOBODY)
        yield tmp_path
        os.seteuid(0)
    else:
        tmp_path.chmod(0o500)
        yield tmp_path
        tmp_path.chmod(0o700)


async def test_a_directory_without_rights(nobody: Path) -> None:
    with pytest.raises(PermissionError):
        await storage(nobody).start()


async def test_a_directory_that_another_gateway_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lock, "take", lambda _: None)
    with pytest.raises(OSError, match="another gateway has locked this directory"):
        await storage(tmp_path, timeout="60ms").start()


async def test_a_worker_leaves_the_lock_to_its_supervisor(tmp_path: Path) -> None:
    one = storage(tmp_path)
    worker = Worker(workers=2, is_supervised=True)
    one.context = structs.replace(one.context, worker=worker)
    await one.start()
    assert files(tmp_path) == []


async def test_orphans_are_named_and_dropped_when_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, spans in (("otlp%2Fold", 5), ("otlp", 3)):
        one = store(tmp_path / name)
        (tmp_path / name).mkdir()
        await one.open()
        await put(one, b"spans", spans=spans)
        await one.close()
    (tmp_path / "exporter_otlp_").write_text("of somebody else")
    (tmp_path / "lost+found").mkdir()
    extension = storage(tmp_path)
    assert extension.place(ComponentID("otlp")) == tmp_path / "otlp"
    assert extension.place(ComponentID("otlp", "new")) == tmp_path / "otlp%2Fnew"
    with caplog.at_level(logging.INFO):
        await extension.start()
    assert "keeps 1 requests of 5 spans of the exporter otlp/old" in caplog.text
    assert caplog.text.count("--drop-orphans") == 1
    metrics = Metrics()
    extension.drop_orphans(metrics)
    ledger = metrics.ledger("exporters", "otlp/old")
    assert (ledger.recovered, ledger.dropped) == (5, {"orphaned": 5})
    assert ledger.in_flight == 0
    assert not (tmp_path / "otlp%2Fold").exists()
    assert (tmp_path / "otlp" / "0").exists()
    assert (tmp_path / "exporter_otlp_").exists()
    await extension.stop(0)


async def test_an_orphan_that_cannot_be_deleted_stays_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = store(tmp_path / "old")
    (tmp_path / "old").mkdir()
    await one.open()
    await put(one, b"spans", spans=5)
    await one.close()
    extension = storage(tmp_path)
    await extension.start()

    def forbidden(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", forbidden)
        metrics = Metrics()
        extension.drop_orphans(metrics)
    text = f"cannot delete {tmp_path}/old, which keeps 1 requests of 5 spans: Permission"
    assert text in caplog.text
    assert metrics.ledger("exporters", "old").dropped == {}
    extension.drop_orphans(metrics)
    assert metrics.ledger("exporters", "old").dropped == {"orphaned": 5}
    await extension.stop(0)


async def test_who_shares_the_directory_has_no_orphans(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "store")
    a, b = storage(tmp_path / "store"), storage(tmp_path / "link")
    both = {ComponentID("file_storage", "a"): a, ComponentID("file_storage", "b"): b}
    for number, extension in enumerate(both.values()):
        extension.context = structs.replace(extension.context, extensions=both)
        one = store(extension.place(ComponentID("otlp", str(number))))
        one.base.mkdir(parents=True)
        await one.open()
        await put(one, b"spans", spans=5)
        await one.close()
    for extension in both.values():
        await extension.start()
        extension.drop_orphans(Metrics())
    assert not caplog.text
    assert len([one for one in files(tmp_path) if one.suffix == ".segment"]) == 2
    for extension in both.values():
        await extension.stop(0)


@pytest.mark.parametrize("is_taken", [False, True])
async def test_a_directory_that_was_replaced_is_locked_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_taken: bool,
) -> None:
    monkeypatch.setattr(file_storage, "LOOK_EVERY", 0.01)
    directory, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    directory.mkdir()
    one = storage(directory)
    await one.start()
    directory.rename(elsewhere)
    new = tmp_path / "new"
    new.mkdir()
    other = open_lock(new) if is_taken else -1
    new.rename(directory)
    if is_taken:
        await until(lambda: "another gateway has locked it" in caplog.text)
        os.close(other)
    await until(lambda: f"{directory} was replaced, and is locked again" in caplog.text)
    with pytest.raises(BlockingIOError):
        open_lock(directory)
    os.close(open_lock(elsewhere))
    await one.stop(0)
    os.close(open_lock(directory))


def open_lock(directory: Path) -> int:
    """The lock as another process has it. Raises BlockingIOError."""
    fd = os.open(directory / NAME, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd
