"""Ports for what comes and goes: a server that is started again, or is not there."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000  # below are those that services are known by


def free_port() -> int:
    """One that the system gives to no connection while nobody listens on it."""
    first, last = map(int, EPHEMERAL.read_text().split())
    others = [*range(min(LOWEST, first), first), *range(last + 1, 65_536)]
    while True:
        port: int = random.choice(others or range(first, last + 1))
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
