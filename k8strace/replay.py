"""`python -m k8strace.replay`: sends recorded trace requests as an OTLP client does.

A recording is files `*.pb`, each an ExportTraceServiceRequest as it was sent; a folder of
them; or an archive (`.tar`, `.tar.gz`, …) of them. Files are sent in the order of names.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import lzma
import random
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)

from k8strace import _fastpath
from k8strace.arguments import non_negative, positive_int
from k8strace.errors import MalformedPayloadError
from k8strace.grpc.status import Code, StatusError, retry_delay

DEFAULT_ENDPOINT = "localhost:4317"
PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CONNECT_TIMEOUT = 5.0
# What OpenTelemetry's SDKs do: 10 s for an attempt, back-off from 1 s to 5 s, a minute.
TIMEOUT = 10.0
FIRST_BACKOFF, MAX_BACKOFF, BACKOFF_FACTOR = 1.0, 5.0, 1.5
GIVE_UP_AFTER = 60.0


_BROKEN_ARCHIVE = (
    *(tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
)
_Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


class Recorded(NamedTuple):
    """A recorded request."""

    name: str
    body: bytes
    spans: int


class RecordingError(Exception):
    """A path that is no recording; the text names it."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m k8strace.replay",
        description="Send recorded OTLP trace requests over gRPC, with retries.",
    )
    result.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a .pb file (one request), a folder of them, or a tar archive of them",
    )
    result.add_argument(
        "--endpoint",
        default=DEFAULT_ENDPOINT,
        metavar="HOST:PORT",
        help=f"where an OTLP/gRPC receiver listens (default: {DEFAULT_ENDPOINT})",
    )
    result.add_argument("--gzip", action="store_true", help="compress what is sent")
    result.add_argument(
        "--connections",
        type=positive_int,
        default=1,
        metavar="N",
        help="connections, with one request at a time on each (default: 1)",
    )
    result.add_argument(
        "--rate",
        type=non_negative,
        default=0.0,
        metavar="R",
        help="requests a second (default: as fast as possible)",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a recording is bad or requests were refused."""
    options = parser().parse_args(argv)
    sender = Sender(
        options.endpoint.removeprefix("http://").rstrip("/"),
        connections=options.connections,
        gzip=options.gzip,
        rate=options.rate,
    )
    try:
        for path in options.paths:
            path.stat()  # before anything is sent, or waited for
        asyncio.run(sender.send(recorded(options.paths)))
    except (OSError, RecordingError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if sender.requests:
            sys.stdout.write(sender.report())
    return 1 if sender.refused else 0


def recorded(paths: Sequence[Path]) -> Iterator[Recorded]:
    """The requests in `paths`; raises OSError or RecordingError where they are none."""
    for path in paths:
        found = False
        for name, body in _files(path):
            found = True
            try:
                count = _fastpath.count((body,))
            except MalformedPayloadError as error:
                raise RecordingError(f"{name} is no trace request: {error}") from error
            yield Recorded(name, body, sum(count))
        if not found:
            raise RecordingError(f"{path} has no .pb files in it")


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(path.glob("*.pb")):
            yield str(file), file.read_bytes()
    elif path.suffix == ".pb":
        yield str(path), path.read_bytes()
    else:
        try:
            with tarfile.open(path) as archive:
                members = [one for one in archive.getmembers() if one.name.endswith(".pb")]
                for member in sorted(members, key=lambda one: one.name):
                    if (content := archive.extractfile(member)) is not None:
                        yield f"{path}:{member.name}", content.read()
        except _BROKEN_ARCHIVE as error:
            raise RecordingError(f"{path} is no readable archive: {error}") from error


class Sender:
    """Sends requests over some connections and counts what became of them."""

    def __init__(
        self, endpoint: str, *, connections: int = 1, gzip: bool = False, rate: float = 0.0
    ) -> None:
        self._endpoint = endpoint
        self._connections = connections
        self._compression = grpc.Compression.Gzip if gzip else None
        self._interval = 1 / rate if rate else 0.0
        self._next = 0.0
        self._seconds = 0.0
        self.requests = 0
        self.spans = 0
        self.refused = 0
        self.refused_spans = 0
        self.retries = 0
        self.partial = 0
        self.rejected_spans = 0
        self._reasons: dict[str, int] = {}

    async def send(self, requests: Iterator[Recorded]) -> None:
        """Send all of them; raises OSError where nobody listens."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        channels = [
            grpc.aio.insecure_channel(self._endpoint, options)
            for _ in range(self._connections)
        ]
        try:
            await self._connect(channels)
            start = time.monotonic()
            self._next = start
            try:
                workers = [self._work(channel, requests) for channel in channels]
                outcomes = await asyncio.gather(*workers, return_exceptions=True)
            finally:
                self._seconds = time.monotonic() - start
            for failure in outcomes:
                if failure is not None:
                    raise failure
        finally:
            for channel in channels:
                await channel.close()

    def report(self) -> str:
        """What was sent and what became of it, in a few lines."""
        rate = self.spans / self._seconds if self._seconds else 0.0
        lines = [
            f"sent to {self._endpoint} in {self._seconds:.2f} s ({rate:.0f} spans/s):",
            f"  requests         {self.requests} ({self.retries} retries)",
            f"  spans            {self.spans}",
            f"  refused          {self.refused} requests, {self.refused_spans} spans",
            f"  partial success  {self.partial} requests, "
            f"{self.rejected_spans} spans rejected",
            *(f"  {count} times: {reason}" for reason, count in self._reasons.items()),
        ]
        return "".join(f"{line}\n" for line in lines)

    async def _connect(self, channels: Sequence[grpc.aio.Channel]) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                for channel in channels:
                    await channel.channel_ready()
        except TimeoutError as error:
            raise ConnectionError(f"nothing listens on {self._endpoint}") from error

    async def _work(self, channel: grpc.aio.Channel, requests: Iterator[Recorded]) -> None:
        method: _Method = channel.unary_unary(PATH)
        for request in requests:
            await self._pace()
            self.requests += 1
            self.spans += request.spans
            try:
                self._take(await self._deliver(method, request.body))
            except StatusError as error:
                self.refused += 1
                self.refused_spans += request.spans
                self._note(str(error))

    async def _pace(self) -> None:
        if self._interval:
            at = max(self._next, time.monotonic())
            self._next = at + self._interval
            await asyncio.sleep(at - time.monotonic())

    async def _deliver(self, method: _Method, body: bytes) -> bytes:
        """One request, tried again as OTLP says; raises StatusError at the end."""
        end = time.monotonic() + GIVE_UP_AFTER
        backoff = FIRST_BACKOFF
        while True:
            try:
                return await method(body, timeout=TIMEOUT, compression=self._compression)
            except grpc.aio.AioRpcError as answer:
                error = _status(answer)
            delay = error.retry_delay
            if delay is None:
                delay = backoff * random.uniform(0.8, 1.2)
                backoff = min(backoff * BACKOFF_FACTOR, MAX_BACKOFF)
            if not error.retryable or time.monotonic() + delay > end:
                raise error
            self.retries += 1
            await asyncio.sleep(delay)

    def _take(self, answer: bytes) -> None:
        try:
            partial = ExportTraceServiceResponse.FromString(answer).partial_success
        except DecodeError:
            self._note("an answer that is no ExportTraceServiceResponse")
            return
        if partial.rejected_spans:
            self.partial += 1
            self.rejected_spans += partial.rejected_spans
        if partial.error_message:
            self._note(partial.error_message)

    def _note(self, reason: str) -> None:
        self._reasons[reason] = self._reasons.get(reason, 0) + 1


def _status(answer: grpc.aio.AioRpcError) -> StatusError:
    code = Code(answer.code().value[0])
    delay = None
    for key, value in answer.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            delay = retry_delay(value)
    return StatusError(code, answer.details() or "", delay)


if __name__ == "__main__":
    sys.exit(main())
