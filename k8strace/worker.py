"""One of several workers: a gateway that is handed configuration, sockets and counters.

Its supervisor hears over a socket that it is ready, that it drains or why it cannot start,
and tells it to drain or to end. When that socket is closed the supervisor is gone, and the
worker drains. What it counts is in memory that the supervisor reads, and over the socket it
says whose spans it lost.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import pickle
import signal
import socket
from collections import deque
from contextlib import suppress
from typing import NamedTuple

import msgspec
import uvloop

from k8strace._counters import Block
from k8strace.background import ended, keep_running
from k8strace.component import Worker
from k8strace.config import GatewayConfig, Loaded, Telemetry
from k8strace.errors import ConfigError
from k8strace.graph import Graph
from k8strace.losses import Loss, Sample
from k8strace.metrics import BLOCK_SIZE, Metrics
from k8strace.service import Gateway
from k8strace.signals import Signals

log = logging.getLogger("k8strace")

WRITE_DOWN_EVERY = 1.0  # seconds between two looks at the gauges
READY, DRAINING, FAILED, LOST = b"ready", b"draining", b"failed", b"lost"
DRAIN, END = b"drain", b"end"
MAX_TEXT = 100_000  # bytes of a message
MAX_WAITING = 1000  # messages that wait for a supervisor that is busy
LAST_WORDS = 2.0  # seconds for what waits when the worker ends


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor gives to a worker; files and sockets are descriptors."""

    slot: int
    is_first: bool
    config: GatewayConfig
    shutdown_timeout: float
    sockets: dict[str, dict[str, tuple[int, ...]]]
    block: int
    control: int

    def write(self) -> int:
        """Write it to memory; returns the descriptor."""
        descriptor = os.memfd_create("k8strace-handover")
        with open(descriptor, "wb", closefd=False) as file:
            pickle.dump(self, file)
        return descriptor

    @classmethod
    def read(cls, descriptor: int) -> Handover:
        """The inverse of `write`; closes `descriptor`."""
        with open(descriptor, "rb") as file:
            file.seek(0)
            handover = pickle.load(file)
        assert isinstance(handover, cls)
        return handover


def map_block(descriptor: int) -> Block:
    """The counters in `descriptor`, which stays open."""
    return Block(mmap.mmap(descriptor, BLOCK_SIZE))


def main(descriptor: int) -> int:
    """Run as the worker that `descriptor`'s hand-over says; returns the exit status."""
    handover = Handover.read(descriptor)
    signals = _Signals()
    signals.catch()
    block = map_block(handover.block)
    os.close(handover.block)
    return uvloop.run(_run(handover, signals, Metrics(block)))


async def _run(handover: Handover, signals: Signals, metrics: Metrics) -> int:
    control = Control(handover.control, signals)
    sockets = {
        receiver: {
            name: tuple(socket.socket(fileno=one) for one in descriptors)
            for name, descriptors in endpoints.items()
        }
        for receiver, endpoints in handover.sockets.items()
    }
    worker = Worker(
        slot=handover.slot,
        workers=handover.config.service.workers,
        is_first=handover.is_first,
        is_supervised=True,
        sockets=sockets,
    )
    metrics.losses.on_sample = lambda *told: control.say(Lost(*told).write())
    gateway = _Gateway(handover, signals, metrics, worker, control)
    try:
        return await gateway.run(Loaded(handover.config, ()))
    except ConfigError as error:
        text = "\n".join(error.problems)
        control.say(FAILED + b"\n" + text.encode("utf-8", "backslashreplace"))
        return 1
    finally:
        control.close()


class Lost(NamedTuple):
    """A sample of a loss, as a worker tells its supervisor of it."""

    loss: Loss
    sample: Sample

    def write(self) -> bytes:
        """The message; text that is not Unicode (lone surrogates) is escaped."""
        try:
            return LOST + msgspec.json.encode(self)
        except UnicodeEncodeError:
            when, *texts = msgspec.structs.astuple(self.sample)
            safe = [one.encode("utf-8", "backslashreplace").decode() for one in texts]
            return Lost(self.loss, Sample(when, *safe)).write()

    @classmethod
    def read(cls, message: bytes) -> Lost:
        """The inverse of `write`."""
        return msgspec.json.decode(message[len(LOST) :], type=cls)


class Control:
    """The worker's end of the socket between it and its supervisor."""

    def __init__(self, descriptor: int, signals: Signals) -> None:
        self._signals = signals
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._waiting: deque[bytes] = deque()
        asyncio.get_running_loop().add_reader(descriptor, self._hear)

    def say(self, message: bytes) -> None:
        """Send it when there is room; where too much waits, leave samples of losses out."""
        is_sample = message.startswith(LOST)
        if is_sample and (len(message) > MAX_TEXT or len(self._waiting) >= MAX_WAITING):
            return
        self._waiting.append(message[:MAX_TEXT])
        if len(self._waiting) == 1:
            self._send()

    def close(self) -> None:
        if self._socket.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._socket.settimeout(LAST_WORDS)
        with suppress(OSError):  # nobody listens any more
            while self._waiting:
                self._socket.send(self._waiting.popleft())
        self._socket.close()

    def _send(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                self._socket.send(self._waiting[0])
                self._waiting.popleft()
        except BlockingIOError:
            loop.add_writer(self._socket.fileno(), self._send)
            return
        except OSError:  # nobody is there any more
            self._waiting.clear()
        loop.remove_writer(self._socket.fileno())

    def _hear(self) -> None:
        try:
            message = self._socket.recv(MAX_TEXT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            log.error("the supervisor is gone: draining")
        self._signals.stop(at_once=message == END)


class _Signals(Signals):
    """To a worker a signal says to drain, however often it comes.

    Whoever sends them to all processes of a group sends them to the supervisor too, which
    says what they mean.
    """

    def note(self, number: int) -> None:
        if number != signal.SIGHUP:
            self.stop()


class _Gateway(Gateway):
    """A run that writes its metrics down, and tells its supervisor how far it is."""

    def __init__(
        self,
        handover: Handover,
        signals: Signals,
        metrics: Metrics,
        worker: Worker,
        control: Control,
    ) -> None:
        loaded = Loaded(handover.config, ())
        super().__init__(
            lambda: loaded, handover.shutdown_timeout, signals, metrics, worker
        )
        self._control = control

    def outside(self, telemetry: Telemetry) -> _Writer:  # noqa: ARG002
        return _Writer(self.metrics, self._control, self.signals)

    def announce(self, graph: Graph) -> None:  # noqa: ARG002
        log.info("worker is ready: process %d", os.getpid())
        self._control.say(READY)


class _Writer:
    """Writes the gauges down every second, and a last time at the end."""

    address = ""

    def __init__(self, metrics: Metrics, control: Control, signals: Signals) -> None:
        self._metrics = metrics
        self._control = control
        self._signals = signals
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = keep_running(self._write, "writing metrics down", log)

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await ended(task)
            self._metrics.write_down()

    async def _write(self) -> None:
        while not self._signals.stop_asked.is_set():
            self._metrics.write_down()
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_DOWN_EVERY):
                    await self._signals.stop_asked.wait()
        self._control.say(DRAINING)
        while True:
            self._metrics.write_down()
            await asyncio.sleep(WRITE_DOWN_EVERY)
