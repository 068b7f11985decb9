"""A worker as its supervisor sees it: a process, and the socket between the two."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Literal, NamedTuple

from k8strace._counters import Block
from k8strace.config import GatewayConfig
from k8strace.losses import Loss, Sample
from k8strace.metrics import BLOCK_SIZE
from k8strace.worker import (
    DRAIN,
    DRAINING,
    END,
    FAILED,
    LOST,
    MAX_TEXT,
    READY,
    Handover,
    Lost,
    map_block,
)

State = Literal["starting", "ready", "draining", "ended"]


class SharedBlock(NamedTuple):
    """Counters of a worker: as they are read here, and the memory to hand on."""

    block: Block
    descriptor: int

    @classmethod
    def make(cls) -> SharedBlock:
        descriptor = os.memfd_create("k8strace-counters")
        os.ftruncate(descriptor, BLOCK_SIZE)
        return cls(map_block(descriptor), descriptor)


class WorkerProcess:
    """A process that serves in `slot` and counts in `counters`, started when it is made.

    `up` is done when it serves, or has ended before; `ended` when the process is gone, with
    its exit status (negative: the signal). `problems` is why it could not start.
    `on_change` is told of each change of `state`, `on_lost` of samples of what it loses.
    Raises OSError where no process can be made.
    """

    def __init__(
        self,
        slot: int,
        config: GatewayConfig,
        sockets: Mapping[str, Mapping[str, list[socket.socket]]],
        counters: SharedBlock,
        *,
        is_first: bool,
        shutdown_timeout: float,
        on_change: Callable[[], None],
        on_lost: Callable[[Loss, Sample], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.slot = slot
        self.config = config
        self.counters = counters
        self.state: State = "starting"
        self.started = monotonic()
        self.up: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.problems: tuple[str, ...] = ()
        self._on_change = on_change
        self._on_lost = on_lost
        self._control, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        handed = {
            receiver: {
                name: tuple(one.fileno() for one in own) for name, own in endpoints.items()
            }
            for receiver, endpoints in sockets.items()
        }
        handover = Handover(
            slot=slot,
            is_first=is_first,
            config=config,
            shutdown_timeout=shutdown_timeout,
            sockets=handed,
            block=counters.descriptor,
            control=theirs.fileno(),
        ).write()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "k8strace.gateway", "--worker", str(handover)],
                    pass_fds=[
                        *(handover, counters.descriptor, theirs.fileno()),
                        *(
                            fd
                            for own in handed.values()
                            for fds in own.values()
                            for fd in fds
                        ),
                    ],
                    # A terminal's signals are the supervisor's to pass on.
                    process_group=0,
                )
            except OSError:
                self._control.close()
                raise
            finally:
                os.close(handover)
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._end)
        loop.add_reader(self._control.fileno(), self._hear)

    def drain(self) -> None:
        """Have it deliver what it holds, and end."""
        self._become("draining")
        self._say(DRAIN)

    def end(self) -> None:
        """Have it end without draining."""
        self._say(END)

    def kill(self) -> None:
        if not self.ended.done():
            self._process.send_signal(signal.SIGKILL)

    def _say(self, message: bytes) -> None:
        with suppress(OSError):  # it has ended, or does not read: it is killed in the end
            self._control.send(message)

    def _hear(self) -> None:
        while True:
            try:
                message = self._control.recv(MAX_TEXT)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                asyncio.get_running_loop().remove_reader(self._control.fileno())
                return
            if message == READY and self.state == "starting":
                self._become("ready")
            elif message == DRAINING:
                self._become("draining")
            elif message.startswith(LOST):
                self._on_lost(*Lost.read(message))
            elif message.startswith(FAILED):
                self.problems = tuple(message.decode(errors="replace").split("\n")[1:])

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._hear()  # what it said last may still be there
        loop.remove_reader(self._control.fileno())
        self._control.close()
        self.ended.set_result(self._process.wait())
        self._become("ended")

    def _become(self, state: State) -> None:
        if self.state in (state, "ended"):
            return
        self.state = state
        if state in ("ready", "ended") and not self.up.done():
            self.up.set_result(None)
        self._on_change()
