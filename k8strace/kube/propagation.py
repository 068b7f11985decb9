"""Trace context on its way in and out, as Kubernetes' components read and write it.

W3C Trace Context and Baggage (component-base, tracing.Propagators). A server decides whom
it believes: the context of a caller that is not trusted becomes a link of a new trace, so
that nobody outside can force sampling or write into our traces; baggage passes in any case.
"""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    TextMapPropagator,
    default_getter,
)
from opentelemetry.trace import INVALID_SPAN, Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
_KNOWN_FLAGS = 2  # Go's propagator takes a version 00 with more for no trace context


class TraceContext(TraceContextTextMapPropagator):
    """W3C Trace Context, of which flags that version 00 doesn't have make nothing."""

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        for header in getter.get(carrier, TRACEPARENT) or ():
            version, _, rest = header.strip().partition("-")
            flags = rest.rpartition("-")[2]
            if version == "00" and len(flags) == 2 and _number(flags) > _KNOWN_FLAGS:
                return Context() if context is None else context
        return super().extract(carrier, context, getter)


def _number(flags: str) -> int:
    try:
        return int(flags, 16)
    except ValueError:
        return 0


def propagators() -> TextMapPropagator:
    """What Kubernetes' components propagate."""
    return CompositePropagator([TraceContext(), W3CBaggagePropagator()])


class Incoming(NamedTuple):
    """The context to start a server's span in, and the links to give it."""

    context: Context
    links: tuple[Link, ...]


def incoming(
    carrier: CarrierT, *, is_trusted: bool, getter: Getter[CarrierT] = default_getter
) -> Incoming:
    """What the headers of a request say, as far as its caller is to be believed."""
    context = propagators().extract(carrier, Context(), getter)
    caller = trace.get_current_span(context).get_span_context()
    if is_trusted or not caller.is_valid:
        return Incoming(context, ())
    return Incoming(trace.set_span_in_context(INVALID_SPAN, context), (Link(caller),))
