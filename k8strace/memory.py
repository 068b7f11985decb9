"""How much memory there is, how much the process holds, and giving some of it back."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from k8strace import threads
from k8strace._heap import Trim, keep

_ROOT = Path("/")
FOR_WORK = 8 * 1024 * 1024  # bytes; buffers, modules that are loaded late, scrapes
SLACK_SHARE = 6  # of what the limit leaves
KEPT_FREE = 64 * 1024 * 1024  # bytes
COLLECT_AFTER = 5_000  # objects that came and have not gone
LOOKED_THROUGH = 20_000  # objects that a collection goes through at most: some milliseconds
_NEVER = 1_000_000_000
KEPT_SHARE = 8  # of what the limit leaves
LEAST_KEPT = 4 * 1024 * 1024  # bytes
_ESCAPE = re.compile(r"\\([0-7]{3})")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_is_more_aside = False  # by `collect_some`


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
    file = os.open(f"{root}/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pages = int(os.read(file, 256).split(None, 2)[1])
    finally:
        os.close(file)
    return pages * _PAGE


@cache
def own_memory() -> int:
    """Bytes that the process needs without any span: what it had when this was asked first,
    and `FOR_WORK`.

    That is when the first graph is built; later, spans and what they left are in there.
    """
    return resident_memory() + FOR_WORK


def slack(free: int) -> int:
    """The part of `free` bytes, a limit's, that payloads don't get.

    It is for the pieces that the heap loses between what is held, for what a step holds
    until it ends, and for the connections that fit beside any budget.
    """
    return free // SLACK_SHARE


async def trim() -> None:
    """Give free memory of the C heap back to the system, on a C thread.

    It takes some milliseconds for each GiB; who needs the heap meanwhile waits for it.
    """
    await threads.run(Trim())


def keep_free(free: int | None = None) -> bool:
    """Have the C heap keep what is freed for what comes next, in one arena for all threads.

    Batches come and go by the megabyte; the system clears each page that it hands out
    again, which costs more than all else that is done with them. `KEPT_FREE` bytes are
    kept, or a part of the `free` ones that a limit leaves. False where that can't be done.
    """
    most = KEPT_FREE if free is None else free // KEPT_SHARE
    return keep(min(max(most, LEAST_KEPT), KEPT_FREE))


def set_aside() -> None:
    """Keep the garbage collector from what there is now, which stays, and seldom busy.

    Requests leave no cycles: it would only look at what is parked, again and again. What
    was set aside before and is not needed any more, it takes first. That takes some tens of
    milliseconds: to be called before there is anything to be held up.
    """
    global _is_more_aside
    _is_more_aside = False
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, _NEVER, _NEVER)


def let_go() -> None:
    """After a graph was replaced: take what of it was set aside, if any was.

    Else it goes by `collect_some`.
    """
    if _is_more_aside:
        set_aside()


def collect_some() -> None:
    """Collect what cycles there may be among some objects; to be called every second.

    Python would go through all that is queued, which holds the loop up for seconds where
    that is a million requests. What is more than is gone through in a moment is set aside:
    it goes when nobody refers to it any more, as everything does that has no cycles.
    """
    global _is_more_aside
    _, collections, _ = gc.get_count()  # of the youngest, each of which has left some
    if collections * COLLECT_AFTER > LOOKED_THROUGH:
        gc.freeze()
        _is_more_aside = True
        return
    if collections:
        gc.collect(1)
    if len(gc.get_objects(2)) > LOOKED_THROUGH:
        gc.freeze()
        _is_more_aside = True
    elif collections:
        gc.collect(2)


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
