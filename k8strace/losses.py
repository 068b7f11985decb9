"""What is known of spans that did not get through: samples, and how many lately.

It outlives a reload, and belongs to one process. With several, the supervisor's has what
all of them noted: counts come from the memory that they share, samples are told.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import msgspec

TICK = 5.0  # seconds between two looks at the counters
LONGEST = 3600.0  # seconds that are remembered
SLOTS = int(LONGEST // TICK) + 1
MAX_LOSSES = 512  # each remembers 6 KiB of counts

What = Literal["dropped", "rejected", "refused", "requests"]


class Loss(NamedTuple):
    """A way in which spans don't get through.

    `dropped` spans are gone and nobody was told; the senders of `rejected` ones were told
    never to send them again, those of `refused` ones to try again; of `requests` nobody
    knows how many spans they had.
    """

    kind: str
    component: str
    what: What
    reason: str


class Sample(msgspec.Struct, frozen=True):
    """One of many: when (by the wall clock), whose, of what service, and what was said.

    `peer` and `service` are empty where they are not known.
    """

    time: float
    peer: str
    service: str
    text: str


class Losses:
    """Samples by loss, and what the counters were in each of the last `SLOTS` ticks.

    `on_sample` is told of each sample.
    """

    def __init__(self) -> None:
        self.samples: dict[Loss, Sample] = {}
        self.on_sample: Callable[[Loss, Sample], None] | None = None
        self._rings: dict[Loss, array[int]] = {}
        self._first = 0
        self._slot: int | None = None

    def note(self, loss: Loss, sample: Sample) -> None:
        """Keep the last sample of a loss."""
        if loss in self.samples or len(self.samples) < MAX_LOSSES:
            self.samples[loss] = sample
        if self.on_sample is not None:
            self.on_sample(loss, sample)

    def observe(self, now: float, totals: Mapping[Loss, int]) -> None:
        """Remember `totals`, as they are at the monotonic time `now`.

        What was counted before the first time counts as long ago.
        """
        slot, last = int(now // TICK), self._slot
        if slot == last:
            return
        if last is None:
            self._first = slot
        self._slot = slot
        for loss, total in totals.items():
            ring = self._rings.get(loss)
            if ring is None:
                if not total or len(self._rings) >= MAX_LOSSES:
                    continue
                before = total if last is None else 0
                ring = self._rings[loss] = array("q", [before]) * SLOTS
            elif last is not None:
                # Ticks that were missed: what came in them counts as later.
                for missed in range(max(last + 1, slot - SLOTS), slot):
                    ring[missed % SLOTS] = ring[last % SLOTS]
            ring[slot % SLOTS] = total

    def lately(self, loss: Loss, total: int, seconds: float) -> int:
        """How many of `total`, which is the count now, came in the last `seconds`."""
        if self._slot is None:
            return 0
        ring = self._rings.get(loss)
        if ring is None:
            return total if len(self._rings) < MAX_LOSSES else 0
        start = max(self._slot - int(min(seconds, LONGEST) // TICK), self._first)
        return total - ring[start % SLOTS]

    @property
    def remembered(self) -> float:
        """Seconds for which counts are known."""
        if self._slot is None:
            return 0.0
        return min((self._slot - self._first) * TICK, LONGEST)
