"""Folders are made with the mode that is asked for, and those above them as well."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from k8strace.folders import make_folders


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o750), (0o022, 0o750), (0o077, 0o700)])
def test_all_that_is_made_has_the_mode(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "a" / "b" / "c"
    before = os.umask(umask)
    try:
        make_folders(path, 0o750)
        make_folders(path, 0o777)  # what is there stays as it is
    finally:
        os.umask(before)
    for made in (path, path.parent, path.parent.parent):
        assert made.stat().st_mode & 0o777 == mode


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(OSError, match=r"File exists|Not a directory") as caught:
            make_folders(path, 0o750)
        assert str(file) in str(caught.value.filename)
