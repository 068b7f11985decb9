"""A line in which hosts take turns, and the connections of each host."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from k8strace.addresses import host_of

T = TypeVar("T", bound=Hashable)


class _Host(Generic[T]):
    """What waits of one host, by connection; `size` is how much that is."""

    __slots__ = ("connections", "size")

    def __init__(self) -> None:
        self.connections: OrderedDict[str, dict[T, None]] = OrderedDict()
        self.size = 0


class FairLine(Generic[T]):
    """Items that wait, each of a peer (`Origin.peer`).

    Adding, removing and taking one costs the same however many there are.
    """

    def __init__(self) -> None:
        self._hosts: OrderedDict[str, _Host[T]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, peer: str, item: T) -> None:
        host = self._hosts.setdefault(host_of(peer), _Host())
        host.connections.setdefault(peer, {})[item] = None
        host.size += 1
        self._size += 1

    def remove(self, peer: str, item: T) -> None:
        """Do nothing where it is not there (any more)."""
        host = self._hosts.get(host_of(peer))
        items = None if host is None else host.connections.get(peer)
        if host is None or items is None or item not in items:
            return
        del items[item]
        host.size -= 1
        self._size -= 1
        if not items:
            del host.connections[peer]
        if not host.size:
            del self._hosts[host_of(peer)]

    def take(self) -> T:
        """Remove the one whose turn it is; not from an empty line."""
        name, host = next(iter(self._hosts.items()))
        peer, items = next(iter(host.connections.items()))
        item = next(iter(items))
        self._hosts.move_to_end(name)
        host.connections.move_to_end(peer)
        self.remove(peer, item)
        return item

    def one_too_many(self, peer: str) -> T | None:
        """The newest item of the peer that has more than `peer` would have with one more.

        None: nobody has. What one looks at are hosts, and the connections of one of them:
        it is for a line that is full.
        """
        ours = self._hosts.get(host_of(peer))
        most = max(self._hosts.values(), key=_size, default=None)
        if most is None:
            return None
        if most is not ours and most.size <= (0 if ours is None else ours.size) + 1:
            if ours is None:
                return None
            most = ours  # it is our own connections that have to share
        items = max(most.connections.values(), key=len)
        if most is ours and len(items) <= len(most.connections.get(peer, ())) + 1:
            return None
        return next(reversed(items))


def _size(host: _Host[T]) -> int:
    return host.size
