from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8strace import memory
from k8strace._heap import IS_GLIBC
from tests.support.sanitizers import unsanitized

GIB = 1024**3
MACHINE = 8 * GIB


class Machine:
    """A tree with the files of /proc and /sys that tell of memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemFree: 1 kB\nMemTotal: {MACHINE // 1024} kB\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cgroup(self, *lines: str) -> None:
        self.write("proc/self/cgroup", "\n".join(lines) + "\n")

    def mounts(self, *mounts: str) -> None:
        """Lines of mountinfo from "root mount-point type source options"."""
        lines = ["22 1 8:1 / / rw - ext4 /dev/sda1 rw"]
        for number, mount in enumerate(mounts, 30):
            root, point, kind, source, options = mount.split()
            lines.append(
                f"{number} 22 0:{number} {root} {point} rw,nosuid shared:4 - "
                f"{kind} {source} {options}"
            )
        self.write("proc/self/mountinfo", "\n".join(lines) + "\n")

    @property
    def limit(self) -> int:
        return memory.memory_limit(self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


V2 = "/ /sys/fs/cgroup cgroup2 cgroup2 rw,nsdelegate"
V1 = "/ /sys/fs/cgroup/memory cgroup cgroup rw,memory"


def test_without_cgroups_it_is_the_machine(machine: Machine) -> None:
    assert machine.limit == MACHINE
    assert memory.default_budget(machine.root) == MACHINE // 2


def test_v2_limit_of_the_own_cgroup(machine: Machine) -> None:
    machine.cgroup("0::/kubepods.slice/pod1")
    machine.mounts(V2)
    machine.write("sys/fs/cgroup/kubepods.slice/pod1/memory.max", f"{GIB}\n")
    assert machine.limit == GIB
    assert memory.default_budget(machine.root) == GIB // 2


def test_v2_limit_of_a_parent_counts_too(machine: Machine) -> None:
    machine.cgroup("0::/kubepods.slice/pod1/container")
    machine.mounts(V2)
    machine.write("sys/fs/cgroup/kubepods.slice/pod1/container/memory.max", "max\n")
    machine.write("sys/fs/cgroup/kubepods.slice/pod1/memory.max", f"{3 * GIB}\n")
    machine.write("sys/fs/cgroup/kubepods.slice/memory.max", f"{4 * GIB}\n")
    assert machine.limit == 3 * GIB


def test_v2_without_any_limit(machine: Machine) -> None:
    machine.cgroup("0::/user.slice")
    machine.mounts(V2)
    machine.write("sys/fs/cgroup/user.slice/memory.max", "max\n")
    assert machine.limit == MACHINE


def test_v2_inside_a_cgroup_namespace(machine: Machine) -> None:
    """The process sees its own cgroup as the root of the hierarchy."""
    machine.cgroup("0::/")
    machine.mounts(V2)
    machine.write("sys/fs/cgroup/memory.max", f"{GIB}\n")
    assert machine.limit == GIB


def test_v2_outside_of_its_namespace_root(machine: Machine) -> None:
    machine.cgroup("0::/../../other/pod")
    machine.mounts(V2)
    machine.write("sys/fs/cgroup/memory.max", f"{2 * GIB}\n")
    machine.write("other/pod/memory.max", "1\n")
    assert machine.limit == 2 * GIB


def test_v1_limit(machine: Machine) -> None:
    machine.cgroup("5:cpu,cpuacct:/elsewhere", "4:memory:/docker/abc", "0::/ignored")
    machine.mounts("/ /sys/fs/cgroup/cpu cgroup cgroup rw,cpu,cpuacct", V1)
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", f"{GIB}\n")
    assert machine.limit == GIB


def test_v1_without_a_limit_shows_a_number_above_all(machine: Machine) -> None:
    machine.cgroup("4:memory:/docker/abc")
    machine.mounts(V1)
    unlimited = "9223372036854771712\n"
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", unlimited)
    assert machine.limit == MACHINE


def test_v1_in_a_container_that_sees_the_host_path(machine: Machine) -> None:
    """Without a cgroup namespace the mount's root is the container's own cgroup."""
    machine.cgroup("4:memory:/docker/abc/inner")
    machine.mounts("/docker/abc /sys/fs/cgroup/memory cgroup cgroup ro,memory")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    machine.write("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", f"{GIB}\n")
    assert machine.limit == GIB


def test_both_hierarchies_mounted(machine: Machine) -> None:
    """Hybrid: v2 is there, but memory is controlled by v1."""
    machine.cgroup("4:memory:/a", "0::/b")
    machine.mounts(V1, "/ /sys/fs/cgroup/unified cgroup2 cgroup2 rw")
    machine.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", f"{GIB}\n")
    machine.write("sys/fs/cgroup/unified/b/cgroup.procs", "1\n")
    assert machine.limit == GIB


def test_mount_points_with_blanks(machine: Machine) -> None:
    machine.cgroup("0::/pod")
    machine.mounts(r"/ /my\040groups cgroup2 none rw")
    machine.write("my groups/pod/memory.max", f"{GIB}\n")
    assert machine.limit == GIB


def test_a_limit_above_the_machine_is_none(machine: Machine) -> None:
    machine.cgroup("0::/pod")
    machine.mounts(V2)
    machine.write("sys/fs/cgroup/pod/memory.max", f"{2 * MACHINE}\n")
    assert machine.limit == MACHINE


def test_no_meminfo_is_an_error(machine: Machine) -> None:
    machine.write("proc/meminfo", "MemFree: 1 kB\n")
    with pytest.raises(OSError, match="MemTotal"):
        memory.memory_limit(machine.root)


def test_this_machine() -> None:
    assert 0 < memory.resident_memory() < memory.memory_limit()


def test_resident_memory_is_in_bytes(machine: Machine) -> None:
    machine.write("proc/self/statm", "5000 300 200 1 0 100 0\n")
    assert memory.resident_memory(machine.root) == 300 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not IS_GLIBC, reason="not glibc")
@unsanitized("their malloc has nothing to trim")
async def test_trim_gives_free_memory_back() -> None:
    blocks = [bytes([number % 256]) * 60_000 for number in range(1000)]
    last = blocks[-1]  # keeps the C heap from shrinking by itself
    blocks.clear()
    before = memory.resident_memory()
    await memory.trim()
    assert before - memory.resident_memory() > 30_000_000
    assert len(last) == 60_000


@pytest.fixture
def collector() -> Iterator[None]:
    """The garbage collector as it was, afterwards."""
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_what_is_set_aside_is_collected_when_it_is_not_needed_any_more() -> None:
    class Graph:
        itself: object

    graph = Graph()
    graph.itself = graph
    gone = weakref.ref(graph)
    memory.set_aside()
    assert gc.get_freeze_count() > 0
    del graph
    gc.collect()
    assert gone() is not None
    memory.set_aside()
    assert gone() is None


@pytest.mark.usefixtures("collector")
def test_a_graph_that_was_replaced_is_collected_wherever_it_is() -> None:
    """Where nothing of it was set aside, not everything is gone through."""

    class Graph:
        itself: object

    def made(parts: int) -> tuple[Graph, weakref.ref[Graph]]:
        graph = Graph()
        graph.itself = [graph, [[] for _ in range(parts)]]
        return graph, weakref.ref(graph)

    memory.set_aside()
    aside = gc.get_freeze_count()
    graph, gone = made(10)
    del graph
    memory.let_go()
    assert gc.get_freeze_count() == aside
    gc.collect()
    assert gone() is None
    graph, gone = made(2 * memory.LOOKED_THROUGH)
    memory.collect_some()
    memory.collect_some()
    assert gc.get_freeze_count() > aside
    del graph
    gc.collect()
    assert gone() is not None
    memory.let_go()
    assert gone() is None


@pytest.mark.skipif(not IS_GLIBC, reason="not glibc")
@unsanitized("their malloc keeps what is freed for itself")
def test_freed_memory_is_kept_for_what_comes_next() -> None:
    code = """
import resource
from k8strace.memory import keep_free
keep_free()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    blocks = [b"x" * 200_000 for _ in range(64)]
    before = faults()
    del blocks
    blocks = [b"x" * 200_000 for _ in range(64)]
print(faults() - before)
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) < 100  # of 3,200 pages


def test_how_much_is_kept_follows_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[int]()
    monkeypatch.setattr(memory, "keep", kept.append)
    for free in (None, 80 * 1024 * 1024, 0, GIB):
        memory.keep_free(free)
    assert kept == [memory.KEPT_FREE, 10 * 1024 * 1024, memory.LEAST_KEPT, memory.KEPT_FREE]


def test_slack_is_a_part_of_what_a_limit_leaves() -> None:
    assert memory.slack(600) == 100


def test_what_the_process_needs_itself_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resident = GIB
    monkeypatch.setattr(memory, "resident_memory", lambda: resident)
    memory.own_memory.cache_clear()
    try:
        assert memory.own_memory() == GIB + memory.FOR_WORK
        resident = 3 * GIB
        assert memory.own_memory() == GIB + memory.FOR_WORK
    finally:
        memory.own_memory.cache_clear()


@pytest.mark.usefixtures("collector")
def test_collections_do_not_go_through_what_is_queued() -> None:
    """However much that is: each of them is about a bounded number of objects."""
    memory.set_aside()
    generations: list[int] = []
    is_tending = False

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and not is_tending:
            generations.append(info["generation"])

    gc.callbacks.append(note)
    queue: deque[list[int]] = deque()
    try:
        for _ in range(10):
            queue.extend([number] for number in range(memory.LOOKED_THROUGH))
            is_tending = True
            memory.collect_some()
            is_tending = False
            for generation in (1, 2):
                assert len(gc.get_objects(generation)) <= memory.LOOKED_THROUGH
    finally:
        gc.callbacks.remove(note)
    assert set(generations) == {0}  # nothing else is ever collected by itself
    assert gc.get_freeze_count() > len(queue) // 2
    last = weakref.ref(one := Cycle())
    gc.collect(0)  # which it outlives
    del one
    memory.collect_some()
    assert last() is None


class Cycle:
    def __init__(self) -> None:
        self.itself = self
