"""Ports for what comes and goes: a server that is started again, or is not there."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """One that the system gives to no connection while nobody listens on it."""
    first = int(EPHEMERAL.read_text().split()[0])
    while True:
        port = random.randrange(first // 2, first)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
