"""Folders that a configuration names, made where they are not there."""

from __future__ import annotations

from pathlib import Path


def make_folders(path: Path, mode: int) -> None:
    """Make `path` and what is missing above it, all with `mode` less the umask.

    So does Go's `os.MkdirAll`, and so the Collector; Python gives `mode` to the last one
    alone. Raises OSError.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folders(path.parent, mode)
    try:
        path.mkdir(mode)
    except FileExistsError:
        if not path.is_dir():
            raise
