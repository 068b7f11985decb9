"""Small files, read by threads: what is there, what is not, and what never answers."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import threading
from pathlib import Path

import pytest

from k8strace import files, threads
from k8strace._files import Append, Read, Sync
from k8strace.files import FileReader, read_whole
from tests.support.hanging import hanging, until

MOST = 100_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    return path


def written(path: Path, content: bytes) -> os.stat_result:
    path.write_bytes(content)
    return path.stat()


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, MOST - 1, MOST])
async def test_a_file_is_read_whole(path: Path, size: int) -> None:
    content = os.urandom(size)
    found = written(path, content)
    job = Read(bytes(path), MOST)
    await threads.run(job, may_hang=True)
    assert (job.error, job.content) == (0, content)
    assert job.signature == (
        found.st_dev,
        found.st_ino,
        size,
        *divmod(found.st_mtime_ns, 10**9),
    )
    again = Read(bytes(path), MOST, job.signature)
    again.run()
    assert (again.error, again.content) == (0, None)


def test_what_cannot_be_read(path: Path) -> None:
    fifo = path.with_name("fifo")
    os.mkfifo(fifo)
    path.write_bytes(bytes(MOST + 1))
    for where, error in (
        (bytes(path), errno.EFBIG),
        (bytes(path.parent), errno.EISDIR),
        (bytes(fifo), errno.EINVAL),  # nobody writes to it, and nobody waits for that
        (b"/dev/zero", errno.EINVAL),
        (b"/proc/self/nothing", errno.ENOENT),
        (bytes(path) + b"/below", errno.ENOTDIR),
    ):
        job = Read(where, MOST)
        job.run()
        assert (job.error, job.content) == (error, None), where
    with pytest.raises(ValueError, match="null byte"):
        Read(b"a\0b", MOST)
    with pytest.raises(ValueError, match="used already"):
        job.__init__(b"x", MOST)


def test_changes_are_told_once(path: Path) -> None:
    reader = FileReader(str(path), MOST)
    assert reader.read() == b"one"
    assert reader.read() == b"one"  # whether it has changed or not
    until(lambda: seen(reader), None)
    path.write_bytes(b"two!")
    until(lambda: seen(reader), b"two!")
    path.unlink()
    until(lambda: seen(reader), f"{path}: No such file or directory")
    assert seen(reader) is None
    path.mkdir()
    until(lambda: seen(reader), f"{path}: Is a directory")
    path.rmdir()
    path.write_bytes(bytes(MOST + 1))
    until(lambda: seen(reader), f"{path}: it is larger than {MOST} bytes")
    path.write_bytes(b"three")
    until(lambda: seen(reader), b"three")


def seen(reader: FileReader) -> bytes | str | None:
    try:
        return reader.look()
    except OSError as error:
        return f"{error.filename}: {error.strerror}"


def test_a_mount_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FileReader(str(path), MOST)
    assert reader.read() == b"one"
    path.write_bytes(b"other")
    with hanging() as answer:
        assert seen(reader) is None
        assert seen(reader) is None
        with monkeypatch.context() as patch:
            patch.setattr(files, "LATE", 0.0)
            assert seen(reader) == f"{path}: no answer for 0 s: does its mount hang?"
            assert seen(reader) is None  # which was said
        answer()
        until(lambda: seen(reader), b"other")
    monkeypatch.setattr(files, "START_TIMEOUT", 0.0)
    with hanging(), pytest.raises(OSError, match="no answer within 0 s") as caught:
        reader.read()
    assert caught.value.filename == str(path)


def test_what_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_whole(str(path), 3) == b"one"
    assert len(read_whole(str(path), 2)) == 3  # more than the most: that is all it says
    assert len(read_whole("/dev/zero", 2)) == 3
    assert read_whole("/dev/null", 2) == b""
    with pytest.raises(IsADirectoryError):
        read_whole(str(path.parent), 2)
    fifo = path.with_name("fifo")
    os.mkfifo(fifo)
    monkeypatch.setattr(files, "START_TIMEOUT", 0.2)
    with pytest.raises(TimeoutError):
        read_whole(str(fifo), 3)
    writer = os.open(fifo, os.O_RDWR)
    os.write(writer, b"tw")
    with pytest.raises(TimeoutError):  # its writer is still there
        read_whole(str(fifo), 3)
    os.close(writer)


@pytest.mark.parametrize("content", [b"", b"one", bytes(300_000)])
def test_pipes_of_a_shell_are_files(content: bytes) -> None:
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    assert read_whole(f"/dev/fd/{reader}", len(content)) == content
    thread.join()
    os.close(reader)


def test_missing_at_the_beginning(path: Path) -> None:
    path.unlink()
    with pytest.raises(FileNotFoundError):
        FileReader(str(path), MOST).read()


async def test_appending_is_all_or_nothing(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    job = Append(file, (b" and", b"", b" two"))
    await threads.run(job, may_hang=True)
    assert (job.error, job.end, job.is_torn) == (0, 11, False)
    os.close(file)
    assert written_to(path) == b"one and two"
    job = Append(file, (b"closed",))
    await threads.run(job, may_hang=True)
    assert job.error == errno.EBADF


@pytest.mark.parametrize("is_sealed", [False, True])
async def test_what_does_not_fit_is_taken_back(is_sealed: bool) -> None:
    file = os.memfd_create("small", os.MFD_ALLOW_SEALING)
    os.write(file, b"one")
    if is_sealed:  # it cannot become smaller: nothing can be taken back
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limit[1]))
    job = Append(file, (b"four", b"five"))
    await threads.run(job, may_hang=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (job.error, job.end, job.is_torn) == (errno.EFBIG, 3, is_sealed)
    assert os.fstat(file).st_size == (8 if is_sealed else 3)
    os.close(file)


async def test_syncing_closes(path: Path) -> None:
    reader, writer = os.pipe()
    for file, error in ((os.open(path, os.O_RDONLY), 0), (writer, errno.EINVAL)):
        job = Sync(file)
        await threads.run(job, may_hang=True)
        assert job.error == error
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)
    os.close(reader)


def written_to(path: Path) -> bytes:
    return path.read_bytes()
