"""What a backend's refusal of a request means: send it again, send less of it, or give up.

gRPC has one code, RESOURCE_EXHAUSTED, for a message that is too large and for a rate limit
or a quota. The first never passes, unless the message becomes smaller; the second does,
and sending the same spans in more requests makes it worse. Only the text tells them apart.
"""

from __future__ import annotations

import re

from k8strace.errors import RefusedError, RejectedError
from k8strace.exporters._delivery import TooLargeError
from k8strace.grpc.status import ABOUT_CALLER, Code, StatusError
from k8strace.lines import printable

MAX_TEXT = 2000  # characters of what a backend says, control characters escaped

_WHAT = r"\b(?:message|request|payload|body|entity|content|batch)"
_LIMIT = r"(?:size|length|\d[\d_,.]*\s*(?:bytes|[kmg]i?b))\b"
_SIZE = re.compile(
    "|".join(
        (
            # grpc-go, gRPC's core (C++, Python, Ruby, PHP), grpc-js, connect-go
            r"larger than (?:the )?(?:configured )?max",
            r"size larger than \d",
            # tonic, and what HTTP 413 is called
            rf"{_WHAT}\b[\w ]{{0,30}} too (?:large|big)\b",
            r"size limit\b[\w ,]{0,40}\bexceeded while decompressing",
            # grpc-java, grpc-dotnet, grpc-swift, and ours
            rf"{_WHAT}\b[\w ()/]{{0,30}}\b(?:exceed\w*|(?:larg|bigg|great)er than|over)"
            rf"\s+(?:\w+\s+){{0,4}}?{_LIMIT}",
            rf"{_WHAT}[ _-]?(?:size|length)\b[^;]{{0,40}}\b(?:exceed|(?:larg|great)er)",
            # What gRPC's libraries say of a proxy's HTTP status
            r"\bstatus\b[^\d;]{0,40}\b413\b",
        )
    ),
    re.IGNORECASE,
)
"""Texts that say that the message is too large. Sources: the libraries that are named, as
of 2026, and what proxies and backends make of HTTP 413."""

_NOT_SIZE = re.compile(
    "|".join(
        (
            r"\brate|quota|throttl|bandwidth|throughput|\bburst|concurren|too many",
            r"\b(?:second|minute|hour|day|week|month)s?\b|/s\b",
            r"\b(?:hour|dai|week|month)ly\b",
            r"\blater\b|try again|retry (?:after|in)\b|temporar|\bbusy\b|slow down",
            r"overload|queue|backlog|pending|outstanding|\bin[ -]?flight|remaining",
            r"allowance|\btokens?\b",
            r"\b(?:of|available) memory\b|\bmemory (?:limit|usage|pressure)",
        )
    ),
    re.IGNORECASE,
)
"""What a text about size does not have in it: it is about a limit that passes with time,
or with what others have sent."""

_HEADERS = re.compile(
    r"\b(?:header|metadata)s?\b[\w ]{0,20}\b(?:size|larger than|too large)", re.IGNORECASE
)
"""Texts that say that headers are too large, whatever the message."""

_TOO_MANY = re.compile(r"\bstatus\b[^\d;]{0,40}\b429\b", re.IGNORECASE)
"""What gRPC's libraries say of a proxy's HTTP 429, for which they have UNAVAILABLE."""

_ANSWER = re.compile(
    r"^(?:the answer: |an answer of \d|(?:Stream removed \()?CLIENT: Received )"
)
"""How our clients begin what they say of a response that is too large: the request was
taken, and sending it again would make it two. gRPC's core puts its text in brackets."""

_TOO_SLOW = re.compile(r"\bstatus\b[^\d;]{0,40}\b408\b", re.IGNORECASE)
"""What gRPC's libraries say of a proxy's HTTP 408, for which they have UNKNOWN."""


def is_about_size(text: str) -> bool:
    """Whether a backend's text says that the message is larger than it takes."""
    return _SIZE.search(text) is not None and _NOT_SIZE.search(text) is None


def refusal_of(error: StatusError, target: str) -> RefusedError | RejectedError:
    """What a status means for the request; its message begins with `target`, the backend.

    The OTLP specification takes RESOURCE_EXHAUSTED without a RetryInfo for permanent, and
    so does the Collector; rate limiters in front of backends send just that, so here it is
    retryable, with the exporter's own backoff.
    """
    text = printable(str(error), MAX_TEXT)
    said = error.message.removeprefix(f"{target}: ")
    if error.code is Code.RESOURCE_EXHAUSTED and error.retryable:
        return RefusedError(text, error.retry_delay, "rate_limited")
    if error.code not in ABOUT_CALLER and (
        not error.retryable or error.code is Code.OUT_OF_RANGE
    ):
        if _HEADERS.search(said) or _ANSWER.search(said):
            return RejectedError(text, about_data=False)
        if is_about_size(said):
            return TooLargeError(text)
    if error.code is Code.RESOURCE_EXHAUSTED:
        return RefusedError(text, None, "rate_limited")
    if error.retryable or (error.code is Code.UNKNOWN and _TOO_SLOW.search(said)):
        limited = _TOO_MANY.search(said) is not None
        return RefusedError(text, error.retry_delay, "rate_limited" if limited else None)
    return RejectedError(text, about_data=error.code not in ABOUT_CALLER)
