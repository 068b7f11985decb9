"""Incoming traceparents, as a real kube-apiserver took them (recorded from 1.36.3)."""

from __future__ import annotations

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

from k8strace.kube.propagation import Incoming, incoming, propagators

TRACE, SPAN = "5fb6492bc888b375ba25017109117d19", "917b9dcf74b1a57e"
VALID = f"00-{TRACE}-{SPAN}-01"
BAD = {
    "garbage": "garbage",
    "empty": "",
    "zero trace id": f"00-{'0' * 32}-{SPAN}-01",
    "zero span id": f"00-{TRACE}-{'0' * 16}-01",
    "upper case": f"00-{TRACE.upper()}-{SPAN.upper()}-01",
    "the W3C's random flag": f"00-{TRACE}-{SPAN}-03",
    "unknown flags": f"00-{TRACE}-{SPAN}-ff",
    "version ff": f"ff-{TRACE}-{SPAN}-01",
    "more behind version 00": f"00-{TRACE}-{SPAN}-01-extra",
    "no flags": f"00-{TRACE}-{SPAN}",
    "binary": "\x00\xff",
    "a short trace id": f"00-{TRACE[:-1]}-{SPAN}-01",
}


def take(traceparent: str, *, is_trusted: bool, **more: str) -> Incoming:
    return incoming({"traceparent": traceparent, **more}, is_trusted=is_trusted)


def parent(found: Incoming) -> trace.SpanContext:
    return trace.get_current_span(found.context).get_span_context()


@pytest.mark.parametrize("version", ["00", "cc"])
@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_trusted_caller_is_the_parent(version: str, flags: str) -> None:
    tail = "-extra" if version != "00" else ""
    found = take(f"{version}-{TRACE}-{SPAN}-{flags}{tail}", is_trusted=True)
    assert found.links == ()
    assert (parent(found).trace_id, parent(found).span_id) == (
        int(TRACE, 16),
        int(SPAN, 16),
    )
    assert parent(found).trace_flags.sampled == (flags == "01")


@pytest.mark.parametrize("flags", ["00", "01"])
def test_any_other_caller_is_linked(flags: str) -> None:
    found = take(
        f"00-{TRACE}-{SPAN}-{flags}",
        is_trusted=False,
        tracestate="vendor=abc",
        baggage="user=x,tier=gold",
    )
    assert not parent(found).is_valid
    (link,) = found.links
    assert (link.context.trace_id, link.context.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert baggage.get_all(found.context) == {"user": "x", "tier": "gold"}


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize("traceparent", BAD.values(), ids=BAD)
def test_what_is_none_is_absent(traceparent: str, is_trusted: bool) -> None:
    found = take(traceparent, is_trusted=is_trusted)
    assert not parent(found).is_valid
    assert found.links == ()


@pytest.mark.parametrize(("flags", "kept"), [("fe", False), ("ff", True)])
def test_what_goes_out_is_of_version_00_again(flags: str, kept: bool) -> None:
    found = take(f"cc-{TRACE}-{SPAN}-{flags}-extra", is_trusted=True)
    sent: dict[str, str] = {}
    propagators().inject(sent, found.context)
    assert sent == {"traceparent": f"00-{TRACE}-{SPAN}-0{int(kept)}"}
    assert parent(take(sent["traceparent"], is_trusted=True)).is_valid


def test_what_goes_out_is_what_a_kube_apiserver_takes() -> None:
    """The SDK sets the W3C's random flag, with which Go's propagator takes nothing."""
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("root")
    assert span.get_span_context().trace_flags == 3
    sent: dict[str, str] = {}
    propagators().inject(sent, trace.set_span_in_context(span))
    assert sent["traceparent"].endswith("-01")
    assert parent(take(sent["traceparent"], is_trusted=True)).is_valid


def test_the_first_of_two_counts() -> None:
    found = incoming({"traceparent": [VALID, f"00-{TRACE}-{SPAN}-ff"]}, is_trusted=True)
    assert parent(found).is_valid


def test_nothing_is_inherited_from_where_it_is_called() -> None:
    context = trace.set_span_in_context(
        trace.NonRecordingSpan(trace.SpanContext(7, 7, is_remote=False)), Context()
    )
    with trace.use_span(trace.get_current_span(context)):
        assert not parent(incoming({}, is_trusted=True)).is_valid
