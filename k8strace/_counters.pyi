"""Counters in blocks of memory that another process may read.

A block has one writer at a time. Who binds the same key in it again, be it a later process,
finds the value and goes on from there. Readers need no lock and disturb nobody.
"""

from mmap import mmap
from typing import Self, final

# What an entry is, and its values.
COUNTER: int  # one integer
GAUGE: int  # one number, none while it is not set
READING: int  # one number that only grows
HISTOGRAM: int  # how many fell into each bucket, and the sum of what was observed
LEDGER: int  # what `Ledger` says, in the order of its attributes
DROPPED: int  # one integer; the key is the ledger's and a reason

@final
class Value:
    """A counter with its labels bound."""

    @property
    def value(self) -> int: ...
    def add(self, amount: int) -> None: ...

@final
class Gauge:
    """A gauge that is written down for another process; None while it is not set."""

    @property
    def value(self) -> float | None: ...
    def set(self, value: float) -> None: ...
    def clear(self) -> None: ...

@final
class Histogram:
    """A histogram with its labels bound; a value counts in the first bound not below it."""

    def __new__(cls, bounds: tuple[float, ...]) -> Self: ...
    @property
    def values(self) -> tuple[float, ...]:
        """How many fell into each bucket, the last without a bound, and their sum."""

    def observe(self, value: float) -> None: ...

@final
class Ledger:
    """The accounting of one component, in spans.

    `received + recovered` equals the sum of everything else and `in_flight`, which is
    what the component has not settled yet: never negative, zero at rest. `holds_answers`
    says that the senders of what is parked have no answer yet, `parks_on_disk` that what is
    parked outlives the process. `stored` was left on disk at an end, to be recovered.

    `receive`, `send` and `park` add, and are what the hot path uses.
    """

    received: int
    recovered: int
    sent: int
    filtered: int
    sampled_out: int
    rejected: int
    refused: int
    stored: int
    parked: int
    holds_answers: bool
    parks_on_disk: bool

    def receive(self, spans: int) -> None: ...
    def send(self, spans: int) -> None: ...
    def park(self, spans: int) -> None: ...
    def drop(self, spans: int, reason: str) -> None: ...
    @property
    def dropped(self) -> dict[str, int]:
        """The spans dropped so far, by reason."""

    @property
    def in_flight(self) -> int: ...

@final
class Block:
    """Counters in `memory`, which is zeros at first; its size is the bound.

    What finds no room is counted all the same, but no entry shows it; `refused` says how
    many those are. Raises ValueError where the memory holds something else.
    """

    def __new__(cls, memory: mmap | bytearray) -> Self: ...
    @property
    def used(self) -> int:
        """Bytes."""

    @property
    def refused(self) -> int: ...
    def counter(self, *key: str) -> Value: ...
    def gauge(self, *key: str) -> Gauge: ...
    def reading(self, *key: str) -> Gauge: ...
    def histogram(self, bounds: tuple[float, ...], *key: str) -> Histogram: ...
    def ledger(self, *key: str) -> Ledger: ...
    def entries(self) -> list[tuple[int, tuple[str, ...], tuple[float, ...]]]:
        """All entries as they are now: kind, key, values."""
