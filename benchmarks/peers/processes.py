"""Processes that are started here: helpers that are asked, and sides that are measured."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

STOP_TIMEOUT = 10.0  # seconds until what was told to end is killed
START_TIMEOUT = 60.0
POLL = 0.02


class SideError(Exception):
    """A side could not do what it was measured for; with the end of its log."""


class Helper:
    """One of ours, `python -m MODULE`: a line is asked, a line is the answer."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for who started it
        )

    def line(self) -> str:
        """Its next line. Raises RuntimeError when it has ended instead."""
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return line.rstrip("\n")
        raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")

    def ask(self, question: object, answer: Any) -> Any:
        """Its answer to a question, both as JSON; `answer` is the type."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(question).decode() + "\n")
        self.process.stdin.flush()
        return msgspec.json.decode(self.line(), type=answer)


@contextmanager
def helper(module: str, *arguments: str) -> Iterator[Helper]:
    one = Helper(module, *arguments)
    with _ended(one.process):
        yield one


class Side:
    """A running side: the CPU and the memory of its process and those that it started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def cpu(self) -> float:
        """Seconds, user and system, of all its processes' threads that live."""
        return sum(cpu(pid) for pid in family(self.process.pid))

    def peak(self) -> int:
        """The most memory that was resident, bytes; of several processes the sum."""
        return sum(peak(pid) for pid in family(self.process.pid))

    def wait_until_it_listens(self, address: str) -> None:
        """Raises SideError when it ends instead, or does not listen in time."""
        host, _, port = address.rpartition(":")
        end = time.monotonic() + START_TIMEOUT
        while True:
            self.check()
            with suppress(OSError), socket.create_connection((host, int(port)), 1.0):
                return
            if time.monotonic() > end:
                raise SideError(f"it does not listen on {address}: {self.tail()}")
            time.sleep(POLL)

    def check(self) -> None:
        if self.process.poll() is not None:
            status = self.process.returncode
            raise SideError(f"it ended with {status}: {self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


@contextmanager
def side(command: Sequence[str], log: Path) -> Iterator[Side]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with _ended(process):
        yield Side(process, log)


@contextmanager
def _ended(
    process: subprocess.Popen[bytes] | subprocess.Popen[str],
) -> Iterator[None]:
    """Whatever happens, the process is gone in the end."""
    try:
        yield
    finally:
        with process:  # closes its pipes
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def free_addresses(count: int) -> list[str]:
    """Addresses of the loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
    for sock in sockets:
        sock.close()
    return found


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                stat = Path(f"/proc/{name}/stat").read_text(encoding="utf-8")
                parent = int(stat.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu(pid: int) -> float:
    """CPU seconds of a process, all its threads, in nanoseconds' resolution."""
    return time.clock_gettime(~pid << 3 | 2)  # its clock, as Linux numbers it


def peak(pid: int) -> int:
    """VmHWM in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
