"""The lock on a directory: one process has it, as often as it likes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8strace.extensions._lock import NAME, Lock

TAKE = """
import sys
from pathlib import Path
from k8strace.extensions._lock import Lock
print(Lock.take(Path(sys.argv[1])) is not None)
"""


def another_gets_it(path: Path) -> bool:
    command = [sys.executable, "-c", TAKE, str(path)]
    return subprocess.run(command, capture_output=True, check=True).stdout == b"True\n"


def test_one_process_has_it(tmp_path: Path) -> None:
    first = Lock.take(tmp_path)
    second = Lock.take(tmp_path)
    assert first is not None
    assert second is first
    first.release()
    assert not another_gets_it(tmp_path)
    second.release()
    assert another_gets_it(tmp_path)


def test_another_version_is_an_error(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("k8strace store 99\n")
    with pytest.raises(OSError, match=r"another version of k8strace \(store 99, this one"):
        Lock.take(tmp_path)
    os.truncate(tmp_path / NAME, 0)
    lock = Lock.take(tmp_path)
    assert lock is not None
    lock.release()
    assert (tmp_path / NAME).read_text() == "k8strace store 1\n"


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / NAME
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("elsewhere")
    with pytest.raises(OSError, match="is not a regular file") as caught:
        Lock.take(tmp_path)
    assert caught.value.filename == str(path)
    assert not (tmp_path / "elsewhere").exists()


def test_its_file_is_for_us_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        lock = Lock.take(tmp_path)
    finally:
        os.umask(before)
    assert lock is not None
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    lock.release()


def test_a_lock_whose_file_is_gone_is_taken_anew(tmp_path: Path) -> None:
    first = Lock.take(tmp_path)
    assert first is not None
    (tmp_path / NAME).unlink()
    second = Lock.take(tmp_path)
    assert second is not None
    assert second is not first
    first.release()
    assert not another_gets_it(tmp_path)
    second.release()
    assert another_gets_it(tmp_path)
