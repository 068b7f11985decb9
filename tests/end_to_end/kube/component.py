"""A component of the control plane: a process, its log, and what its exporter counts."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# OpenTelemetry's SDK says the one before it sends a batch, the other where no try brought
# it over; there is never more than one on its way.
EXPORT = re.compile(
    r'"msg"="exporting spans" "count"=(\d+) "total_dropped"=(\d+)|(traces export: )'
)


class Exports(NamedTuple):
    """What a component's exporter had, in spans."""

    sent: int
    """Those of batches that were acknowledged."""
    failed: int
    """Those of batches that were given up: not acknowledged, whether or not they came."""
    dropped: int
    """Those that found no room in the exporter's queue."""


class Component:
    """A process whose stdout and stderr are kept in `log`."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._env = {**os.environ, **env}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=log, stderr=log, env=self._env
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def exports(self) -> Exports:
        sent = failed = dropped = last = 0
        for count, lost, gave_up in EXPORT.findall(self.log):
            if gave_up:
                sent, failed, last = sent - last, failed + last, 0
            else:
                last, dropped = int(count), int(lost)
                sent += last
        return Exports(sent, failed, dropped)

    def assert_running(self) -> None:
        assert self._process is not None
        if self._process.returncode is not None:
            tail = "\n".join(self.log.splitlines()[-20:])
            raise AssertionError(
                f"{self.name} ended with {self._process.returncode}:\n{tail}"
            )

    async def stop(self, timeout: float = 60.0) -> None:
        """SIGTERM, at which components send the spans that they still have."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(timeout):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"{self.name} did not end in {timeout} s") from None

    async def wait(self, timeout: float = 60.0) -> int:
        """Its exit status, when it has ended by itself."""
        assert self._process is not None
        async with asyncio.timeout(timeout):
            return await self._process.wait()

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
