"""The gateway as its users run it: a process of its own, on free ports."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

# Both in a log of text and in one of JSON.
READY = re.compile(r"k8strace \S+ is ready(?: with (\d+) workers)?")
WORKER = re.compile(r"worker is ready: process (\d+)\W+worker\W+(\d+)\b")
METRICS_PORT = (
    "service.telemetry.metrics="
    "{readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: 0}}}}]}"
)


class GatewayProcess:
    """`python -m k8strace.gateway` with `arguments`; its output is kept in `log`, `out`.

    `env` is in addition to this process's environment.

    Used as an async context manager: entered when it is ready, killed at the end if it
    still runs.

    A line comes into `log` at any time after what it tells of, and lines of different
    processes come in any order: each process has a thread that writes. All are there when
    `wait` or `stop` returns; before that, wait for a line.
    """

    def __init__(
        self, *arguments: str, out: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._arguments = arguments
        self._env = None if env is None else {**os.environ, **env}
        self._out_path = out
        self._process: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.log: list[str] = []

    async def __aenter__(self) -> GatewayProcess:
        await self.start()
        try:
            await self.wait_until_ready()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start the process without waiting for anything."""
        with self._out_path.open("wb") as out:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "k8strace.gateway",
                *self._arguments,
                stdout=out,
                stderr=asyncio.subprocess.PIPE,
                env=self._env,
            )
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        stream = self.process.stderr
        assert stream is not None
        async for line in stream:
            self.log.append(line.decode().rstrip("\n"))
            self._changed.set()
        await self.process.wait()
        self._changed.set()

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def out(self) -> str:
        """What it has written to stdout."""
        return self._out_path.read_text()

    async def wait_for_log(
        self, pattern: str | re.Pattern[str], after: int = 0, timeout: float = 60.0
    ) -> re.Match[str]:
        """The first line from number `after` on that matches."""
        async with asyncio.timeout(timeout):
            while not (found := self.matches(pattern, after)):
                await self._wait_for_change()
            return found[0]

    async def wait_until_ready(self, after: int = 0, timeout: float = 60.0) -> None:
        """Wait for the line that it is ready, and for that of each worker.

        Lines before number `after` don't count: they are of a start before.
        """
        async with asyncio.timeout(timeout):
            ready = await self.wait_for_log(READY, after)
            workers = int(ready[1] or 0)
            while len({one[2] for one in self.matches(WORKER, after)}) < workers:
                await self._wait_for_change()

    def matches(
        self, pattern: str | re.Pattern[str], after: int = 0
    ) -> list[re.Match[str]]:
        """Of the lines that are here, from number `after` on, those that match."""
        found = (re.search(pattern, line) for line in self.log[after:])
        return [one for one in found if one]

    async def _wait_for_change(self) -> None:
        """Wait for more lines. Raises AssertionError where there can be none."""
        assert self._reader is not None
        if self._reader.done():  # it has ended, and all that it said is here
            raise AssertionError(
                f"ended with {self.process.returncode}:\n" + "\n".join(self.log)
            )
        self._changed.clear()
        await self._changed.wait()

    async def address(self, what: str) -> str:
        """The bound address from the log: "grpc", "http", "metrics" or "health"."""
        return (await self.wait_for_log(rf"\b{what} on (?:http://)?(\S+:\d+)"))[1]

    async def get(self, url: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()

    async def metrics(self) -> Samples:
        """All samples that /metrics shows now."""
        _, text = await self.get(f"http://{await self.address('metrics')}/metrics")
        return Samples(text)

    async def wait_for_metric(
        self, name: str, value: float, timeout: float = 30.0, **labels: str
    ) -> Samples:
        """Scrape until the sum of `name` with `labels` is `value`."""
        return await self.wait_for_samples(
            lambda samples: samples.sum(name, **labels) == value, timeout
        )

    async def wait_for_samples(
        self, condition: Callable[[Samples], bool], timeout: float = 30.0
    ) -> Samples:
        """Scrape until `condition` is true of what was scraped."""
        async with asyncio.timeout(timeout):
            # Another process counts: there is no event to wait for.
            while not condition(samples := await self.metrics()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            return samples

    async def at_rest(self, timeout: float = 30.0) -> Samples:
        """Scrape until nothing is under way, at most `timeout` s; the accounting holds.

        It has to hold twice in a row: workers count while their counters are read, one
        after the other.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    before, samples = await self.metrics(), await self.metrics()
                    if before.is_balanced() and samples.is_balanced():
                        return samples
                    await asyncio.sleep(0.05)
        samples = await self.metrics()
        samples.assert_balanced()
        return samples

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def stop(self, timeout: float = 40.0) -> int:
        """SIGTERM, and its exit status."""
        self.signal(signal.SIGTERM)
        return await self.wait(timeout)

    async def wait(self, timeout: float = 40.0) -> int:
        async with asyncio.timeout(timeout):
            assert self._reader is not None
            await self._reader
            return await self.process.wait()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.wait()


class Samples:
    """A scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all samples of `name` that have `labels`."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def late_beats(self) -> float:
        """How often the event loops were held up for more than 20 ms of their own time.

        That is the rule: nothing on a loop takes longer. What the machine takes from it,
        on which tests share two cores, is not in there.
        """
        name = "k8strace_loop_own_lag_seconds_bucket"
        return self.sum(name, le="+Inf") - self.sum(name, le="0.02")

    def is_balanced(self) -> bool:
        """Whether nothing is in flight and nothing parked anywhere."""
        try:
            self.assert_balanced()
        except AssertionError:
            return False
        return True

    def assert_balanced(self) -> None:
        """The accounting holds in every component: nothing in flight, nothing parked."""
        rows: dict[tuple[str, str, str], dict[str, float]] = {}
        for sample in self.samples:
            if sample.name != "k8strace_spans_total":
                continue
            labels = dict(sample.labels)
            outcome = labels.pop("outcome")
            where = (labels["kind"], labels["component"], labels["pipeline"])
            rows.setdefault(where, {})[outcome] = sample.value
        assert rows, "no accounting in the metrics"
        for component, row in rows.items():
            came = row.pop("in") + row.pop("recovered")
            assert came == sum(row.values()), (component, came, row)


async def run_gateway(*arguments: str) -> tuple[int, str, str]:
    """Run to the end; exit status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "k8strace.gateway",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def with_free_ports(config: Path, **sets: Any) -> Sequence[str]:
    """Arguments that run `config` as it stands, but on free ports."""
    return (
        "--config",
        str(config),
        "--set",
        "receivers.otlp.protocols.grpc.endpoint=127.0.0.1:0",
        "--set",
        METRICS_PORT,
        *(part for key, value in sets.items() for part in ("--set", f"{key}={value}")),
    )
