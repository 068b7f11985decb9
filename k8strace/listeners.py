"""The sockets of the receivers, which outlive a graph and a worker.

They are bound before anything starts, and stay open in the supervisor, or in the only
process, whose receivers have duplicates: while a worker is started anew, or a graph is
replaced, connections wait in the socket's backlog. Where there are several workers, TCP
endpoints have a socket for each, among which the system spreads connections (SO_REUSEPORT).
A Unix socket is one, and all workers accept from it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from k8strace.addresses import listen_address
from k8strace.component import Endpoint
from k8strace.errors import ConfigError
from k8strace.grpc.endpoints import (
    cannot_listen,
    check_free,
    claim_unix,
    listen_tcp,
    listen_unix,
    unix_path,
)

Wanted = Mapping[str, Mapping[str, Endpoint]]
"""Endpoints by receiver, and by the receiver's own names."""


class _Key(NamedTuple):
    """An endpoint; with its `owner` where the system chooses the port."""

    endpoint: Endpoint
    owner: tuple[str, str] | None


class Listeners:
    """Open sockets, by endpoint; of each as many sets as there are workers.

    Several workers share the ports (`reuse_port`).
    """

    def __init__(self, *, reuse_port: bool = True) -> None:
        self._reuse_port = reuse_port
        self._open: dict[_Key, list[list[socket.socket]]] = {}

    async def open(self, wanted: Wanted, workers: int) -> None:
        """Bind what is not there yet.

        Raises ConfigError that names what is in use; what was open before still is then.
        """
        seen: set[_Key] = set()
        problems = []
        for receiver, endpoints in wanted.items():
            for name, endpoint in endpoints.items():
                key = _key(receiver, name, endpoint)
                try:
                    if key in seen:
                        raise cannot_listen(endpoint.endpoint, 98)
                    seen.add(key)
                    await self._bind(key, workers)
                except OSError as error:
                    problems.append(f"receivers::{receiver}: {error.strerror}")
        if problems:
            raise ConfigError(problems)

    async def _bind(self, key: _Key, workers: int) -> None:
        endpoint = key.endpoint.endpoint
        sets = self._open.setdefault(key, [])
        if key.endpoint.transport == "unix":
            if not sets:
                path = unix_path(endpoint)
                claim_unix(path)
                sets.append([listen_unix(path)])
            return
        host, port = listen_address(endpoint)
        if sets:
            port = sets[0][0].getsockname()[1]
        elif self._reuse_port and port and port not in self._ports():
            # Sockets that share a port would also share it with another gateway.
            await check_free(host, port)
        while len(sets) < workers:
            sets.append(await listen_tcp(host, port, reuse_port=self._reuse_port))
            port = sets[0][0].getsockname()[1]

    def _ports(self) -> set[int]:
        return {
            one.getsockname()[1]
            for sets in self._open.values()
            for sockets in sets
            for one in sockets
            if one.family != socket.AF_UNIX
        }

    def of(self, wanted: Wanted, slot: int) -> dict[str, dict[str, list[socket.socket]]]:
        """The sockets of the worker in `slot`."""
        found: dict[str, dict[str, list[socket.socket]]] = {}
        for receiver, endpoints in wanted.items():
            for name, endpoint in endpoints.items():
                sets = self._open[_key(receiver, name, endpoint)]
                own = sets[0] if endpoint.transport == "unix" else sets[slot]
                found.setdefault(receiver, {})[name] = own
        return found

    def keep(self, wanted: Wanted, workers: int) -> None:
        """Close all that `workers` workers of `wanted` don't need."""
        needed = {
            _key(receiver, name, endpoint)
            for receiver, endpoints in wanted.items()
            for name, endpoint in endpoints.items()
        }
        for key in tuple(self._open):
            if key not in needed:
                _close(self._open.pop(key))
            else:
                _close(self._open[key][workers:])
                del self._open[key][workers:]

    def close(self) -> None:
        self.keep({}, 0)


def _key(receiver: str, name: str, endpoint: Endpoint) -> _Key:
    chosen = endpoint.transport == "tcp" and not listen_address(endpoint.endpoint)[1]
    return _Key(endpoint, (receiver, name) if chosen else None)


def _close(sets: Iterable[Iterable[socket.socket]]) -> None:
    for sockets in sets:
        for one in sockets:
            one.close()
