"""Trace context on its way in and out, as Kubernetes' components read and write it.

W3C Trace Context and Baggage (component-base, tracing.Propagators). A server decides whom
it believes: the context of a caller that is not trusted becomes a link of a new trace, so
that nobody outside can force sampling or write into our traces; baggage passes in any case.
"""

from __future__ import annotations

from typing import NamedTuple

from k8strace.kube._extra import missing

try:
    from opentelemetry import trace
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.context import Context
    from opentelemetry.propagators.composite import CompositePropagator
    from opentelemetry.propagators.textmap import (
        CarrierT,
        Getter,
        Setter,
        TextMapPropagator,
        default_getter,
        default_setter,
    )
    from opentelemetry.trace import (
        INVALID_SPAN,
        Link,
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        TraceState,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise missing(error) from error

_TRACEPARENT = "traceparent"
_KNOWN_FLAGS = 2  # Go's propagator takes a version 00 with more for no trace context


class TraceContext(TraceContextTextMapPropagator):
    """W3C Trace Context as Go's propagator reads it, and so that Go's can read it.

    Flags that version 00 doesn't have make nothing of it. Only the sampled flag is kept and
    sent: a kube-apiserver takes no context that has the random flag, which the SDK sets.
    """

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        given = Context() if context is None else context
        found = super().extract(carrier, given, getter)
        caller = trace.get_current_span(found).get_span_context()
        if found is given or not caller.is_valid:
            return given
        version = (getter.get(carrier, _TRACEPARENT) or [""])[0].strip()[:2]
        if version == "00" and caller.trace_flags > _KNOWN_FLAGS:
            return given
        span = NonRecordingSpan(with_known_flags(caller, caller.trace_state))
        return trace.set_span_in_context(span, given)

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        ours = trace.get_current_span(context).get_span_context()
        if not ours.is_valid:
            return
        span = NonRecordingSpan(with_known_flags(ours, ours.trace_state))
        super().inject(carrier, trace.set_span_in_context(span, context), setter)


def with_known_flags(
    caller: SpanContext, trace_state: TraceState | None = None
) -> SpanContext:
    """`caller`, of whose flags the sampled one alone is kept."""
    return SpanContext(
        caller.trace_id,
        caller.span_id,
        is_remote=True,
        trace_flags=TraceFlags(caller.trace_flags & TraceFlags.SAMPLED),
        trace_state=trace_state,
    )


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
    link = Link(with_known_flags(caller))  # without the tracestate: that is a stranger's
    return Incoming(trace.set_span_in_context(INVALID_SPAN, context), (link,))
