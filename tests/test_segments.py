"""Segments as files: what is one, whose it is, and what it holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from k8strace._store import FIRST_RECORD, FORMAT, crc32c, read_head, record_size
from k8strace.segments import claim, count, segments, sync_folder
from tests.support.stores import HEAD, abandon, files, put, records_in, store


def test_the_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283
    assert crc32c(b"") == 0


def test_sizes_are_multiples_of_eight() -> None:
    assert record_size(0, 0) == 56
    assert record_size(3, 6) == record_size(0, 16) == 72


async def one_segment(base: Path) -> Path:
    one = store(base)
    await one.open()
    await put(one, b"spans", spans=3)
    await one.close()
    (path,) = files(base)
    return path


async def test_what_a_segment_holds_is_counted(tmp_path: Path) -> None:
    path = await one_segment(tmp_path)
    assert list(segments(tmp_path)) == [path]
    assert count(path) == (1, 3, 5)
    assert len(list(records_in(path))) == 1
    path.write_bytes(b"something else")
    assert count(path) == (0, 0, 0)


async def test_a_segment_of_another_version_is_an_error(tmp_path: Path) -> None:
    path = await one_segment(tmp_path)
    data = bytearray(path.read_bytes())
    magic, version, salt, number = HEAD.unpack_from(data)
    assert (number, salt, version) == read_head(bytes(data))
    assert version == FORMAT
    head = HEAD.pack(magic, version + 1, salt, number)
    data[: HEAD.size + 4] = head + crc32c(head).to_bytes(4, "little")
    path.write_bytes(data)
    one = store(tmp_path)
    with pytest.raises(OSError, match=r"another version of k8strace \(store 2, this one"):
        await one.open()
    await one.close()
    assert files(tmp_path) == [path]


def test_a_head_that_is_cut_off_is_none() -> None:
    assert read_head(bytes(FIRST_RECORD)) is None
    assert read_head(b"") is None


async def test_one_process_has_a_segment(tmp_path: Path) -> None:
    one = store(tmp_path)
    await one.open()
    await put(one, b"spans")
    (path,) = files(tmp_path)
    assert claim(path) is None
    abandon(one)
    fd = claim(path)
    assert fd is not None
    os.close(fd)
    path.unlink()
    assert claim(path) is None


def test_folders_are_brought_to_the_disk(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")
