"""CPU and memory of processes, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.processes import SideError, cpu, family, free_addresses, peak, side

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
BUSY = """
import time
data = bytearray(b"x" * (64 << 20))
end = time.process_time() + 0.2
while time.process_time() < end:
    pass
print("done", flush=True)
time.sleep(600)
"""


def started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_family_is_a_process_and_its_children() -> None:
    with started(PARENT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert family(parent.pid) == [parent.pid, child]
        finally:
            for pid in (child, parent.pid):
                os.kill(pid, signal.SIGTERM)


def test_cpu_and_memory() -> None:
    with started(BUSY) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        assert cpu(process.pid) >= 0.2
        assert peak(process.pid) > 64 << 20
        process.kill()


def test_free_addresses_differ() -> None:
    assert len(set(free_addresses(10))) == 10


def test_a_side_is_gone_in_the_end_whatever_happens(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    found = []

    def interrupted() -> None:
        with side(command, tmp_path / "log") as one:
            found.append(one)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert found[0].process.returncode is not None


def test_a_side_that_does_not_listen(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('bad option', flush=True); raise SystemExit(3)"]
    (address,) = free_addresses(1)
    with (
        side(command, tmp_path / "log") as one,
        pytest.raises(SideError, match="ended with 3: bad option"),
    ):
        one.wait_until_it_listens(address)
