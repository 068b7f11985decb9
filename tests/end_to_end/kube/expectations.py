"""What a control plane's spans have to be: as Kubernetes' documentation and 1.36 have it.

Each function takes what arrived, live or recorded, at a sampling rate of 100 %, and asserts
one thing of all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from opentelemetry import trace

from k8strace.kube.propagation import Incoming, incoming
from tests.end_to_end.kube.client import ADMIN, MONITOR, STRANGER
from tests.end_to_end.kube.spans import CLIENT, SERVER, Span, Spans

FILTERS = ("audit", "constrainedimpersonation", "priorityandfairness", "authorization")
WEBHOOKS = ("Call mutating webhook", "Call validating webhook")

ETCD = "etcd"
WEBHOOK = "webhook"
AGGREGATED = "aggregated API"
LOOPBACK = "kube-apiserver itself"
CONVERSION = "conversion webhook"
DISCOVERY = "aggregated API, its discovery"
OUTGOING = (ETCD, WEBHOOK, AGGREGATED, LOOPBACK, CONVERSION, DISCOVERY)
"""The kinds of requests that a kube-apiserver makes."""


class Sent(msgspec.Struct, frozen=True):
    """A request that a test made of a kube-apiserver, and what it was answered."""

    user: str
    method: str
    path: str
    status: int
    audit_id: str
    headers: dict[str, str] = {}
    """Those of trace context."""

    @property
    def taken(self) -> Incoming:
        """What k8strace.kube makes of its headers: the apiserver does the same."""
        trusted = self.user in (ADMIN, MONITOR)
        return incoming(self.headers, is_trusted=trusted)

    @property
    def caller(self) -> trace.SpanContext:
        """The span that the request's is to be a child of; invalid where there is none."""
        return trace.get_current_span(self.taken.context).get_span_context()


class Evidence(NamedTuple):
    """What arrived and what had been asked; `own` is where the apiserver finds itself."""

    spans: Spans
    sent: tuple[Sent, ...]
    own: str

    def served(self) -> Iterator[Span]:
        """The spans of requests to the kube-apiserver."""
        return (s for s in self.spans if (s.service, s.kind) == ("apiserver", SERVER))

    def made(self) -> Iterator[tuple[str, Span]]:
        """The spans of requests that the kube-apiserver made, and of what kind they are."""
        for span in self.spans:
            if (span.service, span.kind) == ("apiserver", CLIENT):
                yield self._kind(span), span

    def outgoing(self) -> Counter[str]:
        return Counter(kind for kind, _ in self.made())

    def _kind(self, span: Span) -> str:
        if span.name.startswith("etcdserverpb."):
            return ETCD
        parent = self.spans.parent(span)
        if parent is not None:
            return AGGREGATED if parent.name == FILTERS[-1] else WEBHOOK
        assert not span.parent, span
        if urlsplit(span.text("url.full")).netloc == self.own:
            return LOOPBACK
        return CONVERSION if span.name == "HTTP POST" else DISCOVERY


def every_request_is_served_once(evidence: Evidence) -> None:
    """And its span says how; none of a caller that doesn't sample or nobody knows."""
    assert evidence.sent
    for one in evidence.sent:
        served = evidence.spans.served(one.audit_id)
        if one.user == STRANGER or (
            one.caller.is_valid and not one.caller.trace_flags.sampled
        ):
            assert served == [], one
            continue
        assert len(served) == 1, (one, served)
        attributes = served[0].attributes
        assert attributes["http.response.status_code"] == one.status, one
        assert attributes["http.request.method"] == one.method, one
        assert attributes["url.path"] == urlsplit(one.path).path, one
        assert served[0].is_error == (one.status >= 500), one


def callers_are_parents_if_privileged_and_links_if_not(evidence: Evidence) -> None:
    """A public endpoint: only the groups of administrators and monitoring are believed."""
    parents, links = 0, 0
    for one in evidence.sent:
        for span in evidence.spans.served(one.audit_id):
            caller = one.caller
            if caller.is_valid:
                parents += 1
                assert span.trace == trace.format_trace_id(caller.trace_id), one
                assert span.parent == trace.format_span_id(caller.span_id), one
                assert span.trace_state == caller.trace_state.to_header(), one
            else:
                above = evidence.spans.parent(span)
                assert above is None or above.name == "authentication", one
                assert bool(span.parent) == (one.user in (ADMIN, MONITOR)), one
                assert span.trace_state == "", one
            expected = tuple(
                (
                    trace.format_trace_id(link.context.trace_id),
                    trace.format_span_id(link.context.span_id),
                )
                for link in one.taken.links
            )
            links += len(expected)
            assert span.links == expected, one
    assert parents
    assert links


def requests_pass_the_filters(evidence: Evidence) -> None:
    """Each incoming request has the chain of handlers below it, whoever makes it."""
    seen = 0
    for span in evidence.served():
        below = span
        for name in FILTERS:
            found = [s for s in evidence.spans.children(below) if s.name == name]
            assert len(found) == 1, (span, name)
            (below,) = found
        seen += 1
    assert seen


def calls_to_etcd_are_served_by_etcd(evidence: Evidence) -> None:
    """One span at either end, the server's below the client's."""
    spans = evidence.spans
    for kind, span in evidence.made():
        if kind == ETCD:
            (served,) = spans.children(span)
            assert (served.service, served.kind, served.name) == ("etcd", SERVER, span.name)
            assert served.trace == span.trace
    seen = 0
    for span in spans:
        # An apiserver that ends doesn't end the client's side of its watches.
        if span.service == "etcd" and span.name != "etcdserverpb.Watch/Watch":
            caller = spans.parent(span)
            assert caller is not None, span
            assert (caller.service, caller.kind) == ("apiserver", CLIENT)
            seen += 1
    assert seen


def webhooks_are_called_inside_the_request(evidence: Evidence) -> None:
    """Of both kinds; each call is one request, in the trace of the one that it admits."""
    seen: Counter[str] = Counter()
    for span in evidence.spans:
        if span.name in WEBHOOKS:
            (call,) = evidence.spans.children(span)
            assert (call.kind, call.name, call.trace) == (CLIENT, "HTTP POST", span.trace)
            above = list(evidence.spans.ancestors(span))
            assert any(one.kind == SERVER for one in above), span
            assert span.attributes["operation"] in ("CREATE", "UPDATE")
            # Neither it nor the request fails: only the call's own span does.
            assert not span.is_error
            seen[span.name] += 1
    assert set(seen) == set(WEBHOOKS)


def failed_calls_say_why(evidence: Evidence) -> None:
    """Of webhooks: they answer with an error, too late, or there is nobody."""
    failed = {
        span.text("error.type")
        for kind, span in evidence.made()
        if kind == WEBHOOK and span.is_error
    }
    assert failed >= {"500", "context.deadlineExceededError", "*net.OpError"}


def aggregated_apis_are_asked_inside_the_request(evidence: Evidence) -> None:
    """What is passed on to an aggregated API is the request itself."""
    seen = 0
    for kind, span in evidence.made():
        if kind == AGGREGATED:
            request = next(s for s in evidence.spans.ancestors(span) if s.kind == SERVER)
            assert urlsplit(span.text("url.full")).path == request.text("url.path")
            assert span.name == f"HTTP {request.text('http.request.method')}"
            assert span.text("http.response.status_code") == request.text(
                "http.response.status_code"
            )
            seen += 1
    assert seen


def requests_to_itself_are_served_inside_their_own_trace(evidence: Evidence) -> None:
    """Such a request is the root of a trace; the span of its serving is below it."""
    seen = 0
    for kind, span in evidence.made():
        if kind == LOOPBACK:
            (served,) = evidence.spans.children(span)
            assert (served.service, served.kind) == ("apiserver", SERVER)
            assert urlsplit(span.text("url.full")).path == served.text("url.path")
            assert span.text("http.response.status_code") == served.text(
                "http.response.status_code"
            )
            seen += 1
    assert seen


def who_is_called_can_call_back_inside_the_trace(evidence: Evidence) -> None:
    """Re-entrant requests of webhooks and aggregated APIs that pass trace context on."""
    seen: Counter[str] = Counter()
    for kind, span in evidence.made():
        if kind in (WEBHOOK, AGGREGATED):
            for served in evidence.spans.children(span):
                assert (served.service, served.kind) == ("apiserver", SERVER)
                below = evidence.spans.below(served)
                assert all(one.trace == span.trace for one in below)
                seen[kind] += 1
    assert set(seen) == {WEBHOOK, AGGREGATED}


def every_kind_of_request_is_made(evidence: Evidence) -> None:
    assert set(evidence.outgoing()) == set(OUTGOING)


def only_known_parents_are_missing(evidence: Evidence) -> None:
    """A caller's own span, which it kept; and etcd's client, of watches until the end."""
    callers = {
        trace.format_span_id(one.caller.span_id)
        for one in evidence.sent
        if one.caller.is_valid
    }
    for span in evidence.spans:
        if span.parent and evidence.spans.parent(span) is None:
            watch = span.service == "etcd" and span.name == "etcdserverpb.Watch/Watch"
            assert watch or span.parent in callers, span


EXPECTATIONS = (
    every_request_is_served_once,
    callers_are_parents_if_privileged_and_links_if_not,
    requests_pass_the_filters,
    calls_to_etcd_are_served_by_etcd,
    webhooks_are_called_inside_the_request,
    failed_calls_say_why,
    aggregated_apis_are_asked_inside_the_request,
    requests_to_itself_are_served_inside_their_own_trace,
    who_is_called_can_call_back_inside_the_trace,
    every_kind_of_request_is_made,
    only_known_parents_are_missing,
)
