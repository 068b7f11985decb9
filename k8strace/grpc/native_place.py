"""Where the native client sends calls to: a connection, and how it is got and kept.

It connects when a call needs it, and again when a call needs it after the connection was
lost; after a failure by itself, when its backoff is over. The second connection in a row
that was lost before it was of any use counts as a failure, too, and so does one that the
server ended with ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import uniform

from k8strace.grpc.native_channel import Channel
from k8strace.grpc.native_target import CONNECT_TIMEOUT, Address, Target, show

FIRST_BACKOFF = 0.2  # seconds; gRPC's own, 1 s to 2 min, would outlast a restart
MAX_BACKOFF = 5.0
BACKOFF_FACTOR = 1.6
USEFUL = 1.0  # seconds; a connection that was there for as long was of use
CALM = 60.0  # seconds; one that lasted for as long was not ended for what was done before
NEXT_AFTER = 5.0  # seconds for one of several addresses


def longer(backoff: float) -> float:
    """The backoff that follows `backoff`, which is 0 where there was none."""
    return min(backoff * BACKOFF_FACTOR, MAX_BACKOFF) if backoff else FIRST_BACKOFF


def jittered(backoff: float) -> float:
    return backoff * uniform(0.8, 1.2)


class Place:
    """A connection to the first of `addresses` that takes one.

    `error` is why the last try to connect failed, None while that isn't known. `is_idle`
    says that it neither has a channel nor seeks one.
    """

    def __init__(
        self, target: Target, addresses: Sequence[Address], on_change: Callable[[], None]
    ) -> None:
        self.addresses = tuple(addresses)
        self.is_idle = True
        self.error: str | None = None
        self.channel: Channel | None = None
        self._target = target
        self._on_change = on_change
        self._address: Address | None = None
        self._channels: set[Channel] = set()
        self._backoff = 0.0
        self._is_suspect = False
        self._is_left = False

    async def connect(self) -> None:
        """Return when there is a channel. `is_idle` is False meanwhile, and for a task
        that has yet to begin it is the caller who says so."""
        self.is_idle = False
        while not self._is_left:
            if self._backoff:
                await asyncio.sleep(jittered(self._backoff))
            timeout = NEXT_AFTER if len(self.addresses) > 1 else CONNECT_TIMEOUT
            for address in self.addresses:
                try:
                    channel = await self._target.connect(address, self._changed, timeout)
                except (OSError, ValueError) as error:
                    self.error = f"cannot connect to {show(address)}: {error}"
                else:
                    self._use(address, channel)
                    return
            self._backoff = longer(self._backoff)
            self._on_change()

    def move(self, addresses: Sequence[Address]) -> None:
        """These are the addresses from now on."""
        self.addresses = tuple(addresses)
        if self.channel is not None and self._address not in self.addresses:
            channel, self.channel = self.channel, None
            self.is_idle = True
            channel.leave()
            self._on_change()

    def leave(self) -> None:
        """Connect no more; channels are closed when their calls are over."""
        self._is_left = True
        self.channel = None
        for channel in tuple(self._channels):
            channel.leave()

    def close(self, why: str) -> None:
        self._is_left = True
        for channel in tuple(self._channels):
            channel.close(why)

    def _use(self, address: Address, channel: Channel) -> None:
        if channel.error is None:
            self._channels.add(channel)
        if self._is_left:
            channel.leave()
            return
        self.error = None
        self.channel, self._address = channel, address
        if channel.is_going:
            self._changed(channel)
        else:
            self._on_change()

    def _changed(self, channel: Channel) -> None:
        """It takes no more requests, or is lost."""
        if channel.error is not None:
            self._channels.discard(channel)
        if channel is not self.channel:
            return
        self.channel = None
        self.is_idle = True
        lived = asyncio.get_running_loop().time() - channel.since
        if channel.complaint is not None:
            self._target.heed(channel, self._address)
            self._backoff = longer(0.0 if lived >= CALM else self._backoff)
        elif channel.has_answered or lived >= USEFUL:
            self._is_suspect = False
            self._backoff = 0.0
        elif self._is_suspect:
            self._backoff = longer(self._backoff)
            self.error = None if channel.is_dismissed else channel.error
        else:
            self._is_suspect = True
        self._on_change()
