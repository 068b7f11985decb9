"""Addresses as the collector writes them (host:port, :port, [v6]:port); binding them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from typing import Any

BACKLOG = 1024  # a rollout of thousands of kubelets connects at once
# What binding an address says that this machine doesn't have, such as ::1 without IPv6.
Found = tuple[int, int, int, str, tuple[Any, ...]]
"""An address as getaddrinfo finds it: family, type, protocol, name, address."""

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen_address(endpoint: str) -> tuple[str, int]:
    """Host and port of `endpoint`; an empty host means all addresses.

    Raises ValueError that names the endpoint.
    """
    if "://" in endpoint:
        raise ValueError(
            f"endpoint {endpoint!r}: write host:port to listen, without a scheme"
        )
    host, colon, port = endpoint.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        why = "the port is not a number up to 65535"
        if not colon:
            is_port = port.isascii() and port.isdigit()
            why = f"write :{port} for all addresses" if is_port else "the port is missing"
        raise ValueError(f"endpoint {endpoint!r} is not host:port: {why}")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise ValueError(f"endpoint {endpoint!r}: write an IPv6 address as [address]:port")
    return (host[1:-1] if bracketed else host), int(port)


def check_host(host: str) -> None:
    """Raises ValueError for what a resolver cannot be asked for, such as an empty label."""
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"{host!r} is not a host name: {error}") from error


def join_address(host: str, port: int) -> str:
    """The inverse of `listen_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(peer: str) -> str:
    """Whose share of the budget `peer` uses: its host's. All on Unix sockets are one."""
    return peer.rpartition(":")[0]


async def resolved(host: str, port: int, flags: int = 0) -> Sequence[Found]:
    """What getaddrinfo finds for `host`. Raises OSError, also for what is not a name."""
    try:
        return await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=flags
        )
    except UnicodeError as error:  # a label that is empty or too long, say
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from error


async def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of `host`; an empty one means all there are.

    An address of a name that this machine doesn't have is left out where it has another:
    many a container's localhost names ::1, and has no IPv6. Raises OSError that says
    where, and why.
    """
    where = join_address(host, port)
    try:
        found = await resolved(host, port, socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(
            errno.EADDRNOTAVAIL, f"cannot listen on {where}: {error.strerror}"
        ) from error
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        for family, _, protocol, _, address in dict.fromkeys(found):
            try:
                one = _listening(family, protocol, (address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                failure = error
            else:
                sockets.append(one)
                port = one.getsockname()[1]  # port 0 becomes the same one everywhere
        if failure is not None and not sockets:
            raise failure
    except OSError as error:
        for one in sockets:
            one.close()
        number = error.errno or errno.EIO
        raise OSError(number, f"cannot listen on {where}: {os.strerror(number)}") from error
    return sockets


def _listening(family: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
