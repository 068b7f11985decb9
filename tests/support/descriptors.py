"""What this process has open, whatever threads of others close meanwhile."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def open_descriptors() -> set[tuple[str, str]]:
    """Numbers, with what they stand for: what is more than before has been opened since."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            found.add((one.name, str(one.readlink())))
    return found
