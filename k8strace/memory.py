"""How much memory there is, how much the process holds, and giving some of it back."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
FOR_CONNECTIONS = 8 * 1024 * 1024  # bytes
KEPT_FREE = 64 * 1024 * 1024  # bytes
COLLECT_AFTER = 5_000  # objects that came and have not gone
LOOKED_THROUGH = 20_000  # objects that a collection goes through at most: some milliseconds
_NEVER = 1_000_000_000
_ESCAPE = re.compile(r"\\([0-7]{3})")


def memory_limit(root: Path = _ROOT) -> int:
    """Bytes of memory that this process may use.

    The least of the limits of its cgroup (v1 or v2) and of those around it, and of the
    machine's memory. `root` is where /proc and /sys are looked for.
    """
    return min([_machine_memory(root), *_cgroup_limits(root)])


def default_budget(root: Path = _ROOT) -> int:
    """The bytes of payloads that the process holds at most: half of its memory."""
    return memory_limit(root) // 2


def resident_memory(root: Path = _ROOT) -> int:
    """Bytes of this process that are in memory (RSS)."""
    pages = int((root / "proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@cache
def own_memory() -> int:
    """Bytes that the process needs without any span: what it had when this was asked first,
    and `FOR_CONNECTIONS`.

    That is when the first graph is built; later, spans and what they left are in there.
    """
    return resident_memory() + FOR_CONNECTIONS


def trim() -> bool:
    """Give free memory of the C heap back to the system; False where that can't be done.

    It runs without the GIL, and may take some milliseconds for each GiB.
    """
    if _malloc_trim is None:
        return False
    return bool(_malloc_trim(0))


def keep_free() -> bool:
    """Have the C heap keep what is freed, up to `KEPT_FREE` bytes, for what comes next.

    Batches come and go by the megabyte; the system clears each page that it hands out
    again, which costs more than all else that is done with them. False where that can't
    be done.
    """
    if _mallopt is None:
        return False
    return bool(
        _mallopt(_M_MMAP_THRESHOLD, KEPT_FREE // 2)
        and _mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)
    )


def set_aside() -> None:
    """Keep the garbage collector from what there is now, which stays, and seldom busy.

    Requests leave no cycles: it would only look at what is parked, again and again. What
    was set aside before and is not needed any more, it takes first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, _NEVER, _NEVER)


def collect_some() -> None:
    """Collect what cycles there may be among some objects; to be called every second.

    Python would go through all that is queued, which holds the loop up for seconds where
    that is a million requests. What is more than is gone through in a moment is set aside:
    it goes when nobody refers to it any more, as everything does that has no cycles.
    """
    _, collections, _ = gc.get_count()  # of the youngest, each of which has left some
    if collections * COLLECT_AFTER > LOOKED_THROUGH:
        gc.freeze()
        return
    if collections:
        gc.collect(1)
    if len(gc.get_objects(2)) > LOOKED_THROUGH:
        gc.freeze()
    elif collections:
        gc.collect(2)


def _c_function(name: str, *arguments: type) -> ctypes._NamedFuncPointer | None:
    """A function of the C heap, which returns whether it could; None without glibc."""
    function: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function.argtypes = arguments
        function.restype = ctypes.c_int
    return function


_malloc_trim = _c_function("malloc_trim", ctypes.c_size_t)
_mallopt = _c_function("mallopt", ctypes.c_int, ctypes.c_int)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as malloc.h has them


def _machine_memory(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) * 1024
    raise OSError(f"{root / 'proc/meminfo'} has no MemTotal")


def _cgroup_limits(root: Path) -> Iterator[int]:
    """The memory limits of the process's cgroup and of its parents, as far as they show."""
    v1, v2 = _own_cgroups(root)
    for mount in _read_lines(root / "proc/self/mountinfo"):
        fields, _, kind = mount.partition(" - ")
        if kind.startswith("cgroup2 ") and v2 is not None:
            own, name = v2, "memory.max"
        elif kind.startswith("cgroup ") and v1 is not None and _has_memory(kind):
            own, name = v1, "memory.limit_in_bytes"
        else:
            continue
        mounted, mount_point = map(_unescaped, fields.split()[3:5])
        top = root / mount_point.lstrip("/")
        for directory in _upwards(top, _inside(own, mounted)):
            limit = _read_limit(directory / name)
            if limit is not None:
                yield limit


def _has_memory(kind: str) -> bool:
    """Whether a v1 mount (its type, source and options) is the memory hierarchy."""
    return "memory" in kind.split()[-1].split(",")


def _own_cgroups(root: Path) -> tuple[str | None, str | None]:
    """The paths of the process's cgroup in the v1 memory hierarchy and in v2."""
    v1 = v2 = None
    for line in _read_lines(root / "proc/self/cgroup"):
        hierarchy, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            v1 = path
        elif hierarchy == "0":
            v2 = path
    return v1, v2


def _inside(own: str, mounted: str) -> PurePosixPath:
    """`own` as seen below a mount whose root is the cgroup `mounted`.

    Where it is not below it (another cgroup namespace), the mount itself is the best guess.
    """
    path = PurePosixPath(own)
    if ".." not in path.parts and path.is_relative_to(mounted):
        return path.relative_to(mounted)
    return PurePosixPath()


def _upwards(top: Path, below: PurePosixPath) -> Iterator[Path]:
    yield top / below
    for parent in below.parents:
        yield top / parent


def _read_limit(file: Path) -> int | None:
    """The limit in `file`; None without a file or a limit (`max`, or -1 in old kernels)."""
    lines = _read_lines(file)
    if not lines or not lines[0].strip().isdigit():
        return None
    return int(lines[0]) or None


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _unescaped(text: str) -> str:
    """A field of mountinfo, in which blanks are written as octal numbers."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
