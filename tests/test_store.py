"""The store: what was put is read again, in order, until it is done, whatever happens."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8strace import store as store_module
from k8strace import threads
from k8strace._store import FIRST_RECORD, Scan
from k8strace.segments import Place, Segment, count
from k8strace.store import Store
from tests.support.stores import (
    DONE_AT,
    RECORD,
    abandon,
    files,
    flip,
    put,
    read_all,
    records_in,
    store,
)


async def test_records_come_back_as_they_were_put(tmp_path: Path) -> None:
    one = store(tmp_path / "s")
    assert await one.open() == (0, 0, 0)
    assert files(tmp_path) == []
    await put(one, b"spans", b"", b" and more", meta=b"meta", spans=7)
    await put(one)
    found = await read_all(one)
    assert [(r.meta, r.body, r.spans, r.size) for r in found] == [
        (b"meta", b"spans and more", 7, 14),
        (b"", b"", 1, 0),
    ]
    assert all(record.intact for record in found)
    assert one.records == 2
    await one.close()


async def test_what_is_not_done_is_there_after_a_clean_close(tmp_path: Path) -> None:
    one = store(tmp_path)
    await one.open()
    places = [await put(one, b"%d" % number, spans=number) for number in range(5)]
    for number in (0, 3):
        one.finish(places[number])
    await one.close()
    assert [path.stat().st_size < 8 * 1024 for path in files(tmp_path)] == [True]
    again = store(tmp_path)
    assert await again.open() == (3, 1 + 2 + 4, 3)
    found = await read_all(again)
    assert [record.body for record in found] == [b"1", b"2", b"4"]
    for record in found:
        again.finish(record.place)
    await again.close()
    assert files(tmp_path) == []


async def test_segments_are_filled_one_after_the_other_and_removed(tmp_path: Path) -> None:
    one = store(tmp_path)
    await one.open()
    places = [await put(one, bytes(5000)) for _ in range(6)]
    assert [path.stat().st_size > 8 * 1024 for path in files(tmp_path)] == [True] * 3
    assert one.size == sum(path.stat().st_size for path in files(tmp_path))
    found = await read_all(one)
    for record in found[:3]:
        one.finish(record.place)
    await one.close()
    assert len(files(tmp_path)) == 2
    assert len(places) == 6


async def test_a_record_larger_than_a_segment(tmp_path: Path) -> None:
    one = store(tmp_path)
    await one.open()
    large = os.urandom(3_000_000)
    await put(one, b"before")
    await put(one, large)
    await put(one, b"behind")
    await one.close()
    again = store(tmp_path)
    assert (await again.open()).size == len(large) + 12
    assert [record.body for record in await read_all(again)] == [
        b"before",
        large,
        b"behind",
    ]
    await again.close()


async def test_what_is_kept_is_not_read(tmp_path: Path) -> None:
    one = store(tmp_path)
    await one.open()
    await put(one, b"kept", keep=True)
    assert not one.has_unread
    await put(one, b"left", keep=False)
    await put(one, b"behind it", keep=True)
    assert [record.body for record in await read_all(one)] == [b"left", b"behind it"]
    await put(one, b"kept again", keep=True)
    assert not one.has_unread
    await one.close()


async def test_many_at_once_are_committed_together(tmp_path: Path) -> None:
    commits: list[float] = []
    one = Store(tmp_path, store(tmp_path)._log, on_commit=commits.append)
    await one.open()
    await asyncio.gather(*(put(one, b"%d" % number) for number in range(2000)))
    assert len(commits) < 10
    assert [int(record.body) for record in await read_all(one)] == list(range(2000))
    await one.close()


async def test_another_store_has_nothing_that_is_in_use(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    await one.open()
    await put(one, b"mine")
    assert (await other.open()).records == 0
    assert other.foreign == 1
    await put(other, b"other's")
    await one.close()
    assert await other.adopt() == (1, 1, 4)
    assert other.foreign == 0
    assert [record.body for record in await read_all(other)] == [b"mine", b"other's"]
    await other.close()


async def test_slots_that_are_no_more_are_adopted(tmp_path: Path) -> None:
    for slot in range(5):
        one = store(tmp_path, slot=slot, workers=5)
        await one.open()
        await put(one, b"%d" % slot)
        await one.close()
    (tmp_path / "²").mkdir()  # a digit, but no number: not ours
    first, second = (store(tmp_path, slot=slot, workers=2) for slot in (0, 1))
    await first.open()
    await second.open()
    assert [record.body for record in await read_all(first)] == [b"0", b"2", b"4"]
    found = await read_all(second)
    assert [record.body for record in found] == [b"1", b"3"]
    for record in found:
        second.finish(record.place)
    await first.close()
    await second.close()
    assert not (tmp_path / "3").exists()
    assert (tmp_path / "4").exists()


async def test_a_flipped_bit_costs_one_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = store(tmp_path)
    await one.open()
    for number in range(4):
        await put(one, b"%d" % number * 10, spans=5)
    abandon(one)
    (path,) = files(tmp_path)
    places = list(records_in(path))
    flip(path, places[1][0] + 50)  # the spans
    flip(path, places[2][0] + 17)  # the id in the header
    again = store(tmp_path)
    assert await again.open() == (4, 15, 30)
    found = await read_all(again)
    assert [(record.body, record.spans) for record in found] == [
        (b"0" * 10, 5),
        (b"", 5),
        (b"", 0),
        (b"3" * 10, 5),
    ]
    assert [record.intact for record in found] == [True, False, False, True]
    assert caplog.text.count("fail their checksum; they are set aside as") == 2
    aside = sorted(path for path in files(tmp_path) if path.name.endswith(".damaged"))
    assert [path.stat().st_size for path in aside] == [size for _, size in places[1:3]]
    for record in found:
        again.finish(record.place)
    await again.close()
    assert files(tmp_path) == aside


async def test_a_flipped_bit_before_an_unfinished_record_costs_one_record(
    tmp_path: Path,
) -> None:
    one = store(tmp_path)
    await one.open()
    for number in range(3):
        await put(one, b"%d" % number * 10)
    abandon(one)
    (path,) = files(tmp_path)
    places = list(records_in(path))
    flip(path, places[1][0] + 17)  # the id in the header
    begun, size = places[2]
    with path.open("r+b") as file:
        file.seek(begun + RECORD.size)
        file.write(bytes(size - RECORD.size))
    again = store(tmp_path)
    assert (await again.open()).records == 2
    found = await read_all(again)
    assert [record.body for record in found] == [b"0" * 10, b""]
    for record in found:
        again.finish(record.place)
    assert again.records == 0
    await again.close()
    assert [one.suffix for one in files(tmp_path)] == [".damaged"]


@pytest.mark.parametrize("kept", [RECORD.size + 5, 20])
async def test_a_segment_that_was_cut_short_is_no_unfinished_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    one = store(tmp_path)
    await one.open()
    for number in range(3):
        await put(one, b"%d" % number * 10)
    await one.close()
    (path,) = files(tmp_path)
    begun, _ = list(records_in(path))[1]
    os.truncate(path, begun + kept)
    again = store(tmp_path)
    assert (await again.open()).records == 2
    found = await read_all(again)
    assert [(record.body, record.intact) for record in found] == [
        (b"0" * 10, True),
        (b"", False),
    ]
    assert caplog.text.count("fail their checksum; they are set aside as") == 1
    for record in found:
        again.finish(record.place)
    await again.close()
    (aside,) = files(tmp_path)
    assert (aside.suffix, aside.stat().st_size) == (".damaged", kept)


async def test_spans_that_look_like_a_record_are_none(tmp_path: Path) -> None:
    one, other = store(tmp_path / "a"), store(tmp_path / "b")
    for each in (one, other):
        await each.open()
    await put(one, b"forged")
    (path,) = files(tmp_path / "a")
    ((start, size),) = records_in(path)
    await put(other, bytes(16) + path.read_bytes()[start : start + size] + bytes(16))
    await put(other, b"next")
    await one.close()
    await other.close()
    (path,) = files(tmp_path / "b")
    (start, _), _ = records_in(path)
    flip(path, start + 17)
    again = store(tmp_path / "b")
    await again.open()
    assert [record.body for record in await read_all(again)] == [b"", b"next"]
    await again.close()


async def test_a_thread_that_cannot_be_had_fails_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = store(tmp_path)
    await one.open()

    async def run(*_: object, **__: object) -> None:
        raise MemoryError("no thread can be started")

    with monkeypatch.context() as patch:
        patch.setattr(threads, "run", run)
        with pytest.raises(OSError, match="no thread can be started"):
            await put(one, b"lost")
    await put(one, b"kept")
    assert [record.body for record in await read_all(one)] == [b"kept"]
    await one.close()


async def test_a_flipped_mark_is_none(tmp_path: Path) -> None:
    one = store(tmp_path)
    await one.open()
    await put(one, b"spans")
    abandon(one)
    (path,) = files(tmp_path)
    ((offset, _),) = records_in(path)
    flip(path, offset + DONE_AT)
    again = store(tmp_path)
    await again.open()
    assert [record.body for record in await read_all(again)] == [b"spans"]
    await again.close()


async def test_a_segment_without_a_head_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = store(tmp_path)
    await one.open()
    await put(one, b"lost")
    await one.close()
    (path,) = files(tmp_path)
    flip(path, 3)
    again = store(tmp_path)
    assert (await again.open()).records == 1  # the head is there twice
    await again.close()
    flip(path, 2048 + 3)
    again = store(tmp_path)
    assert (await again.open()).records == 0
    await again.close()
    assert "is no segment of a store: it is set aside" in caplog.text
    assert [one.name.endswith(".segment.damaged") for one in files(tmp_path)] == [True]


@pytest.mark.parametrize("kept", [0, 100, FIRST_RECORD, "record", "before the end"])
async def test_a_segment_that_was_cut_short_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int | str
) -> None:
    one = store(tmp_path)
    await one.open()
    for number in range(3):
        await put(one, b"%d" % number * 10)
    if kept == "before the end":
        abandon(one)  # as one that is killed: nothing stands in the space that is lost
    else:
        await one.close()
    (path,) = files(tmp_path)
    places = list(records_in(path))
    if kept == "record":
        kept = places[1][0]
    elif kept == "before the end":
        kept = path.stat().st_size - 8
    assert isinstance(kept, int)
    os.truncate(path, kept)
    whole = sum(offset + size <= kept for offset, size in places)
    again = store(tmp_path)
    assert (await again.open()).records == whole
    assert again.damaged == 1
    assert str(path) in caplog.text
    assert len(await read_all(again)) == whole
    await again.close()
    caplog.clear()
    third = store(tmp_path)
    assert (await third.open()).records == whole
    assert (third.damaged, caplog.text) == (0, "")
    await third.close()


async def test_files_are_for_us_alone_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0, 0o077, 0o777):
        base = tmp_path / f"{umask:o}"
        before = os.umask(umask)
        try:
            one = store(base)
            await one.open()
            await put(one, b"spans")
            await put(one, b"damaged")
            abandon(one)
            (path,) = files(base)
            flip(path, list(records_in(path))[1][0] + RECORD.size)
            again = store(base)
            await again.open()
            await read_all(again)
            await again.close()
        finally:
            os.umask(before)
        modes = {one: one.stat().st_mode & 0o777 for one in base.rglob("*")}
        modes[base] = base.stat().st_mode & 0o777
        assert [mode for one, mode in modes.items() if one.is_dir()] == [0o750] * 2
        assert [mode for one, mode in modes.items() if one.is_file()] == [0o600] * 2


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "broken link"])
async def test_what_is_no_file_is_named_and_passed_over(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = store(tmp_path)
    await one.open()
    await put(one, b"spans")
    await one.close()
    (path,) = files(tmp_path)
    other = path.with_name("0000000000000001.segment")
    if kind == "folder":
        other.mkdir()
    elif kind == "pipe":
        os.mkfifo(other)
    else:
        other.symlink_to(path if kind == "link" else "nothing")
    (tmp_path / "9").write_bytes(b"not a folder")
    again = store(tmp_path)
    assert (await again.open()).records == 1
    assert (await again.adopt()).records == 0
    assert [record.body for record in await read_all(again)] == [b"spans"]
    assert caplog.text.count(f"{other} is not a regular file: it is passed over") == 1
    await again.close()
    assert other.is_symlink() or other.exists()
    assert count(other) == (0, 0, 0)


async def test_a_segment_that_cannot_be_read_at_the_start_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = store(tmp_path)
    await one.open()
    for _ in range(2):
        await put(one, bytes(9000))
    await one.close()
    bad, good = files(tmp_path)
    scanned = store_module._scanned

    async def fails(segment: Segment) -> Scan:
        if segment.path == bad:
            raise OSError(errno.EIO, "Input/output error", str(bad))
        return await scanned(segment)

    monkeypatch.setattr(store_module, "_scanned", fails)
    again = store(tmp_path)
    assert (await again.open()).records == 1
    assert (await again.adopt()).records == 0
    assert again.damaged == 1
    assert caplog.text.count("cannot read") == 1
    await again.close()
    assert files(tmp_path) == [bad, good]


async def test_one_that_is_not_told_keeps_the_others_from_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = store(tmp_path)
    await one.open()

    def fails(stored: Place | OSError, is_next: bool) -> bool:
        raise RuntimeError(stored, is_next)

    one.put(b"", (b"first",), 1, fails)
    await put(one, b"second")
    assert "could not be told what became of it" in caplog.text
    assert [record.body for record in await read_all(one)] == [b"first", b"second"]
    await one.close()


async def test_a_record_that_is_too_large_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LARGEST_BODY", 100)
    one = store(tmp_path)
    await one.open()
    tasks = [asyncio.create_task(put(one, bytes(size))) for size in (100, 101, 99)]
    await asyncio.wait(tasks)
    assert isinstance(tasks[1].exception(), OSError)
    assert one.records == 2
    await one.close()


@pytest.mark.parametrize("what", ["renamed", "replaced", "removed", "emptied"])
async def test_nothing_is_stored_where_nobody_will_look_for_it(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    base, elsewhere = tmp_path / "all" / "base", tmp_path / "elsewhere"
    base.parent.mkdir()
    one = store(base)
    await one.open()
    await put(one, b"first")
    (path,) = files(base)
    if what in ("renamed", "replaced"):
        base.parent.rename(elsewhere)
    elif what == "removed":
        shutil.rmtree(base.parent)
    else:
        path.unlink()
    with pytest.raises(OSError, match="was removed, renamed or replaced"):
        await put(one, b"second")
    if what != "emptied":
        assert f"{base / '0'} was removed, renamed or replaced" in caplog.text
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await put(one, b"third")
        with pytest.raises(FileNotFoundError):
            await one.look_after()
        if what == "renamed":
            elsewhere.rename(base.parent)
        else:
            base.parent.mkdir()
        assert (await one.look_after()).records == 0
        assert caplog.text.count("is there again") == 1
    await put(one, b"fourth")
    assert [record.body for record in await read_all(one)] == [b"first", b"fourth"]
    await one.close()
    again = store(base)
    await again.open()
    kept = [b"first", b"fourth"] if what == "renamed" else [b"fourth"]
    assert [record.body for record in await read_all(again)] == kept
    await again.close()


@pytest.mark.parametrize("size", [0, FIRST_RECORD, FIRST_RECORD + 10])
async def test_nothing_is_stored_behind_what_was_cut_off(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A segment without its beginning is not read, nor would be what is put behind it."""
    one = store(tmp_path)
    await one.open()
    await put(one, b"first")
    (path,) = files(tmp_path)
    os.truncate(path, size)
    with pytest.raises(OSError, match="cut short"):
        await put(one, b"second")
    await put(one, b"third")
    assert path.stat().st_size == size
    await one.close()
    again = store(tmp_path)
    await again.open()
    whole = [record.body for record in await read_all(again) if record.body]
    assert whole == [b"third"]
    said = "was cut short by" if size else "is no segment of a store"
    assert f"{path} {said}" in caplog.text
    await again.close()


async def test_what_was_being_begun_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    folder.mkdir()
    (folder / "0000000000000001.segment.new").write_bytes(b"half a head")
    one = store(tmp_path)
    assert (await one.open()).records == 0
    await one.close()
    assert files(tmp_path) == []


async def test_what_cannot_be_written_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    one = store(tmp_path)
    await one.open()
    first = await put(one, bytes(9000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12 * 1024, before[1]))
        with pytest.raises(OSError, match="File too large"):
            await put(one, bytes(9000))  # needs another segment
        with pytest.raises(OSError, match="File too large"):
            await put(one, bytes(2000))  # would fit into this one
        one.finish(first)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    await put(one, b"after")
    abandon(one)
    again = store(tmp_path)
    await again.open()
    assert [record.body for record in await read_all(again)] == [b"after"]
    await again.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 64 KiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "k8strace", str(tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small filesystem can be mounted here: {error}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


async def test_a_full_disk_takes_deletes_and_goes_on(small_disk: Path) -> None:
    one = store(small_disk)
    await one.open()
    for _ in range(3):
        await put(one, bytes(9000))
    await put(one, bytes(3000))  # into the last one
    with pytest.raises(OSError, match="No space left on device"):
        await put(one, bytes(30_000))
    assert [path.suffix for path in files(small_disk)] == [".segment"] * 3
    for record in (await read_all(one))[:2]:
        one.finish(record.place)
    while one._settler is not None:
        await asyncio.wait((one._settler,))
    await put(one, bytes(30_000))
    await one.close()
    again = store(small_disk)
    assert await again.open() == (3, 3, 42_000)
    await again.close()


async def test_what_cannot_be_read_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = store(tmp_path)
    await one.open()
    await put(one, b"unreadable")
    (segment,) = one._segments.values()
    folder = os.open(tmp_path, os.O_RDONLY)
    kept = os.dup(segment.fd)
    os.dup2(folder, segment.fd)
    assert await read_all(one) == []
    assert "what is in it stays there: Is a directory" in caplog.text
    os.dup2(kept, segment.fd)
    os.close(kept)
    os.close(folder)
    await one.close()
    again = store(tmp_path)
    assert (await again.open()).records == 1
    await again.close()
