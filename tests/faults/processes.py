"""What faults do to processes: gateways that keep their port, and a backend that dies."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port

RETRY = {"initial_interval": "50ms", "max_interval": "200ms", "max_elapsed_time": "0s"}
BATCH = {"batch": {"timeout": "20ms"}}
WAIT: dict[str, Any] = {"sending_queue": {"wait_for_result": True}}
STORE: dict[str, Any] = {
    "sending_queue": {"storage": "file_storage", "sizer": "items", "queue_size": 1_000_000}
}
MODES: dict[str, dict[str, Any]] = {
    "in memory": {"processors": {}},
    "in memory, batch": {"processors": BATCH},
    "stored": {"processors": {}, **STORE},
    "stored, batch": {"processors": BATCH, **STORE},
    "delivered": {"processors": {}, **WAIT},
    "delivered, batch": {"processors": BATCH, **WAIT},
}
"""What a pipeline promises, and how it is configured."""


def modes(*promises: str, batch: bool = False) -> list[Any]:
    """Parameters: those of these promises; without a `batch` in the long form, or never.

    Where no promise is named the short form has the one that answers for most. A store's
    directory is an argument (`storage`), so that "stored" has to be named.
    """
    short = promises or ("delivered",)
    promises = promises or ("in memory", "delivered")
    return [
        pytest.param(
            mode,
            marks=()
            if mode.endswith("batch") and mode.startswith(short)
            else pytest.mark.long,
        )
        for mode in MODES
        if mode.startswith(promises) and (mode.endswith("batch") or not batch)
    ]


def storage(mode: str, directory: Path) -> tuple[str, ...]:
    """Arguments for the store of a mode that has one."""
    if not mode.startswith("stored"):
        return ()
    return (
        *("--set", f"extensions.file_storage.directory={directory}"),
        *("--set", "service.extensions=[health_check, file_storage]"),
    )


def options(mode: str, **exporter: object) -> dict[str, Any]:
    """The keywords of `start` that make a pipeline of this mode."""
    return {"retry_on_failure": RETRY, **MODES[mode], **exporter}


def at(port: int) -> tuple[str, ...]:
    """Arguments for a gateway that listens there."""
    endpoint = f"receivers.otlp.protocols.grpc.endpoint=127.0.0.1:{port}"
    return ("--set", endpoint)


def peak_memory(pid: int) -> int:
    """The most bytes of the process that were ever resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} is gone")


class BackendProcess:
    """`python -m tests.faults.backend`; what it took outlives it, in a file."""

    def __init__(self, ids: Path) -> None:
        self._file = ids
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()
        self._file.touch()

    async def __aenter__(self) -> BackendProcess:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ids(self) -> Counter[bytes]:
        """How often each span was taken. The last one may be half, where it was killed."""
        data = self._file.read_bytes()
        return Counter(data[at : at + 8] for at in range(0, len(data) // 8 * 8, 8))

    @property
    def spans(self) -> int:
        return self._file.stat().st_size // 8

    async def wait_for_spans(self, spans: int, timeout: float = 60.0) -> None:
        """Until at least `spans` spans were taken."""
        async with asyncio.timeout(timeout):
            while self.spans < spans:  # noqa: ASYNC110 -- another process counts
                await asyncio.sleep(0.02)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.backend"),
            *(self.endpoint, str(self._file)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n"

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()
