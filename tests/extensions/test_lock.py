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
