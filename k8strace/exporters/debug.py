"""debug: prints the spans, or how many came, in the collector's layout.

A terminal or pipe that is read slowly holds the senders up: nothing is left out for it.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from k8strace._fastpath import Counting
from k8strace.component import Context, Promise
from k8strace.errors import MalformedPayloadError, RefusedError, RejectedError
from k8strace.exporters._appender import Appender, Record, opened
from k8strace.exporters._debug_text import detailed, normal
from k8strace.exporters._decoding import MAX_BYTES, MAX_SPANS, printed
from k8strace.exporters._output import Output, open_to_append
from k8strace.exporters._sending import (
    QueueConfig,
    RetryConfig,
    SendingConfig,
    SendingExporter,
    Sent,
)
from k8strace.passes import Loan, Spare, step
from k8strace.payload import Payload
from k8strace.units import Duration

VERBOSITIES = ("basic", "normal", "detailed")
LEVELS = {
    "debug": "detailed",
    "info": "normal",
    "warn": "basic",
    "error": "basic",
    "dpanic": "basic",
    "panic": "basic",
    "fatal": "basic",
}
"""What `loglevel` of the collector's former logging exporter means."""

TICK = 1.0  # seconds over which payloads are counted for thinning
_STANDARD = {"stdout": 1, "stderr": 2}


class Config(SendingConfig, frozen=True, kw_only=True):
    """`verbosity` is basic where neither it nor `loglevel` is given.

    In each second the first `sampling_initial` payloads are printed, then every
    `sampling_thereafter`th (0: none).

    With `use_internal_logger` the output looks like the gateway's log, is printed where
    that logs at level info, and goes to stdout. Without, it is bare and goes to
    `output_paths`: "stdout", "stderr", files.
    """

    timeout: Duration = Duration(0.0)
    sending_queue: QueueConfig = QueueConfig(enabled=False)
    retry_on_failure: RetryConfig = RetryConfig(enabled=False)
    verbosity: str | UnsetType = UNSET
    loglevel: str | UnsetType = UNSET
    log_level: str | UnsetType = msgspec.field(default=UNSET, name="logLevel")
    sampling_initial: Annotated[int, Meta(ge=0)] = 2
    sampling_thereafter: Annotated[int, Meta(ge=0)] = 1
    use_internal_logger: bool = True
    output_paths: tuple[str, ...] | UnsetType = UNSET

    def __post_init__(self) -> None:
        given = {
            name: value.lower()
            for name, value in (
                ("verbosity", self.verbosity),
                ("loglevel", self.loglevel),
                ("logLevel", self.log_level),
            )
            if value is not UNSET
        }
        if len(given) > 1:
            names = " and ".join(f"{name}: {value}" for name, value in given.items())
            raise ValueError(f"only one of them may be given, use verbosity: {names}")
        for name, value in given.items():
            known = VERBOSITIES if name == "verbosity" else tuple(LEVELS)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        if self.output_paths is not UNSET:
            if self.use_internal_logger:
                raise ValueError(
                    "output_paths is not supported when use_internal_logger is true"
                )
            if not self.output_paths:
                raise ValueError(
                    "output_paths must not be empty when use_internal_logger is false"
                )

    @property
    def level(self) -> str:
        """The verbosity, by whichever option it was given."""
        if self.verbosity is not UNSET:
            return self.verbosity.lower()
        former = self.loglevel if self.loglevel is not UNSET else self.log_level
        return "basic" if former is UNSET else LEVELS[former.lower()]


class Debug(SendingExporter[Config]):
    """Prints payloads. What is thinned out by the sampling options counts as sent."""

    type_name = "debug"
    config_type = Config
    keeps = Promise.MEMORY

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self._outputs: dict[str, Output | Appender] = {}
        self._spare = Spare(context.budget)
        self._tick_end = 0.0
        self._seen = 0

    @property
    def max_request_spans(self) -> int:
        return 0 if self.config.level == "basic" else MAX_SPANS

    @property
    def max_request_bytes(self) -> int:
        return 0 if self.config.level == "basic" else MAX_BYTES

    async def open(self) -> None:
        paths = self.config.output_paths
        for path in ("stdout",) if paths is UNSET else paths:
            if (standard := _STANDARD.get(path)) is not None:
                self._outputs[path] = Output(os.dup(standard))
                continue
            where = Path(path)
            descriptor = await opened(open_to_append, where)
            is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            self._outputs[path] = (
                Appender(where, descriptor, None, self.log)
                if is_regular
                else Output(descriptor)
            )

    async def send(self, payload: Payload) -> Sent:
        if self._is_due() and self._is_wanted():
            text, loan = await self._text(payload)
            try:
                await self._write(text, payload)
            finally:
                loan.end()
        return Sent()

    async def close(self) -> None:
        while self._outputs:
            _, output = self._outputs.popitem()
            if isinstance(output, Appender):
                await output.close()
            else:
                output.close()

    def _is_wanted(self) -> bool:
        """Whether the gateway's log, where it is the output, shows level info."""
        return not self.config.use_internal_logger or self.log.isEnabledFor(logging.INFO)

    def _is_due(self) -> bool:
        """Count a payload, say whether it is one of those that are printed."""
        now = time.monotonic()
        if now >= self._tick_end:
            self._tick_end, self._seen = now + TICK, 0
        self._seen += 1
        beyond = self._seen - self.config.sampling_initial
        if beyond <= 0:
            return True
        every = self.config.sampling_thereafter
        return every > 0 and beyond % every == 0

    async def _write(self, text: Record, payload: Payload) -> None:
        async def made(_: float) -> tuple[Record, Loan]:
            return text, Loan(None, None)

        for path, output in self._outputs.items():
            try:
                if isinstance(output, Appender):
                    await output.write(made, payload)
                else:
                    await output.write(text)
            except OSError as error:
                raise RefusedError(f"cannot write to {path}: {error.strerror}") from error

    async def _text(self, payload: Payload) -> tuple[Record, Loan]:
        """The summary and, above basic, the spans, each as the collector logs it; and what
        holds that in the budget.
        """
        counts = {
            "resource spans": await _resource_spans(payload.chunks),
            "spans": payload.spans,
        }
        body: Record = ()
        loan = Loan(None, None)
        if self.config.level != "basic":
            verbose = normal if self.config.level == "normal" else detailed
            body, loan = await printed(payload, self._spare, verbose)
        if not self.config.use_internal_logger:
            return _entry(f"Traces\t{json.dumps(counts)}\n", body, "", "\n"), loan
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        start = f"{stamp}.{int(now % 1 * 1000):03d}Z\tinfo\t"
        where = {
            "otelcol.component.id": self.context.label,
            "otelcol.component.kind": "exporter",
            "otelcol.signal": "traces",
        }
        summary = f"{start}Traces\t{json.dumps(where | counts)}\n"
        return _entry(summary, body, start, f"\t{json.dumps(where)}\n"), loan


def _entry(summary: str, body: Record, start: str, end: str) -> Record:
    if not body:
        return (summary.encode(),)
    return (f"{summary}{start}".encode(), *body, end.encode())


async def _resource_spans(chunks: tuple[bytes, ...]) -> int:
    """How many there are, with spans or without. Raises RejectedError."""
    counting = Counting(chunks)
    try:
        while not counting.is_done:
            await step(counting)
    except MalformedPayloadError as error:
        text = f"spans that cannot be decoded: {error}"
        raise RejectedError(text, "decode_error") from error
    return counting.resources
