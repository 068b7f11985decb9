"""probabilistic_sampler: keep a percentage of the traces, the same ones as the collector.

The decision is made for each span from its trace id, so that traces stay whole. What was
decided is written into the tracestate of the kept spans (`ot=th:…`, with `rv:…` where the
randomness isn't the trace id itself). A `sampling.priority` attribute of 0 drops a span,
one above 0 keeps it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from k8strace import _fastpath, component, passes
from k8strace._fastpath import Sampling
from k8strace.component import NO_EFFECT, Context, Outlet
from k8strace.drops import sender_of
from k8strace.metrics import SAMPLER_COUNT_TRACES_SAMPLED
from k8strace.passes import Spare
from k8strace.payload import Payload

SMALLEST_PERCENTAGE = 100 * 2.0**-56  # a threshold has 56 bits

_MODES = {
    "hash_seed": _fastpath.HASH_SEED,
    "proportional": _fastpath.PROPORTIONAL,
    "equalizing": _fastpath.EQUALIZING,
}

_WHY = {
    "no_trace_id": "their trace id is zeros or of a wrong length (fail_closed drops them)",
    "bad_tracestate": "their tracestate cannot be read (fail_closed drops them)",
    "sampled_before": "their tracestate has ot=th or ot=rv: another tier, or an SDK, "
    "sampled them before, and mode hash_seed cannot sample again (fail_closed drops them): "
    "set mode: proportional or equalizing here, or sample in one tier alone",
    "wrong_threshold": "by the threshold in their tracestate (ot=th) the sampler before "
    "this one should have dropped them: its threshold or randomness is wrong (fail_closed "
    "drops them)",
}
"""What the log says of spans about which nothing can be decided."""


class Config(component.Config, frozen=True, kw_only=True):
    sampling_percentage: float = 0.0
    mode: Literal["hash_seed", "proportional", "equalizing", ""] = "hash_seed"
    hash_seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    fail_closed: bool = True
    sampling_precision: Annotated[int, Meta(ge=1, le=14)] = 4
    # For logs only; the collector accepts them for traces, and ignores them too.
    attribute_source: Annotated[Literal["traceID", "record"], NO_EFFECT] = "traceID"
    from_attribute: Annotated[str, NO_EFFECT] = ""
    sampling_priority: Annotated[str, NO_EFFECT] = ""

    def __post_init__(self) -> None:
        percentage = self.sampling_percentage
        if not math.isfinite(percentage) or percentage < 0:
            raise ValueError(
                f"sampling_percentage must be a number of 0 or more, not {percentage}"
            )
        if 0 < percentage < SMALLEST_PERCENTAGE:
            raise ValueError(
                f"sampling_percentage is too small: {percentage}, at least "
                f"{SMALLEST_PERCENTAGE:.3g} (or 0 to keep nothing)"
            )


class ProbabilisticSampler(component.Processor[Config]):
    type_name = "probabilistic_sampler"
    config_type = Config

    def __init__(self, config: Config, context: Context, downstream: Outlet) -> None:
        super().__init__(config, context, downstream)
        self._arguments = (
            _MODES[config.mode or "hash_seed"],
            config.sampling_percentage,
            config.hash_seed,
            config.sampling_precision,
            config.fail_closed,
        )
        self._spare = Spare(context.budget, lasts=True)
        counter = context.metrics.counter
        self._kept_by, self._out_by = (
            [
                counter(SAMPLER_COUNT_TRACES_SAMPLED, policy, sampled)
                for policy in _fastpath.POLICIES
            ]
            for sampled in ("true", "false")
        )

    async def start(self) -> None:
        if self.config.mode in ("proportional", "equalizing"):
            self.log.warning(
                "mode %s keeps traces with large ids; Kubernetes components that sample "
                "(samplingRatePerMillion) keep those with small ids: of what they send "
                "it may keep nothing where their rate is below 4000; mode hash_seed is "
                "safe",
                self.config.mode,
            )

    async def consume(self, payload: Payload) -> None:
        sampling = Sampling(payload.chunks, *self._arguments)
        spare = self._spare if payload.is_taken else None
        lease = await passes.complete(
            sampling, payload.any_lease, payload.wait_until, spare
        )
        sampled = sampling.take()
        if sampled.kept:
            kept = payload
            if sampled.chunks is not payload.chunks:
                kept = payload.replaced(sampled.chunks, sampled.kept, lease)
            del lease
            await self.downstream(kept)
        self._count(sampled, payload)

    def _count(self, sampled: _fastpath.Sampled, payload: Payload) -> None:
        self.ledger.sampled_out += sampled.sampled_out
        for cause, spans in zip(_fastpath.CAUSES, sampled.rejected_by, strict=True):
            if spans:
                self.drops.spans(
                    spans,
                    "sampling_error",
                    _WHY[cause],
                    partial(sender_of, payload, spans),
                )
        for counter, spans in zip(self._kept_by, sampled.kept_by, strict=True):
            if spans:
                counter.add(spans)
        for counter, spans in zip(self._out_by, sampled.out_by, strict=True):
            if spans:
                counter.add(spans)
