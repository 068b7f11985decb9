"""What a backend's refusal means: try again, send less, or give up."""

from __future__ import annotations

import pytest

from k8strace.errors import RefusedError, RejectedError
from k8strace.exporters._delivery import TooLargeError
from k8strace.exporters._refusals import is_about_size, refusal_of
from k8strace.grpc.status import Code, StatusError

TARGET = "rate-limited-queue:4317"  # what a name has in it says nothing

SIZE = [
    "grpc: received message larger than max (15728641 vs. 15728640)",
    "grpc: received message after decompression larger than max (5 vs. 4)",
    "trying to send message larger than max (4194310 vs. 4194304)",
    "Received message larger than max (5308389 vs. 4194304)",
    "SERVER: Received message larger than max (5308389 vs. 4194304)",
    "Stream removed (CLIENT: Sent message larger than max (5308389 vs. 4194304))",
    "the batch is too large: do not retry",
    "CLIENT: Sent message larger than max (5308389 vs. 4194304)",
    "gRPC message exceeds maximum size 4194304: 5118829",
    "Decompressed gRPC message exceeds maximum size 4194304",
    "Compressed gRPC message exceeds maximum size 4194304: 5 bytes read",
    "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
    "Error decompressing: size limit, of 4 bytes, exceeded while decompressing message",
    "Received message exceeds the maximum configured message size.",
    "Received message that decompresses to a size larger than 4194304",
    "Message has exceeded the configured maximum payload size (max: 100, actual: 101)",
    "message size 9 is larger than configured max 4",
    "message is larger than 67108864 bytes",
    "message is larger than 67108864 bytes when decompressed",
    "HTTP status 413",
    "Received http2 header with status: 413",
    "unexpected HTTP status code received from server: 413 (Request Entity Too Large)",
    "error exporting items, request to http://b:4318 responded with HTTP Status Code 413",
    "Payload Too Large",
    "Request Entity Too Large",
    "Content Too Large",
    "http: request body too large",
    "Request payload size exceeds the limit: 10485760 bytes.",
    "payload size exceeds the limit",
    "max message size exceeded",
    "the batch is too big",
]

LIMITS = [
    "",
    "RATE_LIMITED: ingestion rate limit (local: 15000 bytes, global: 0 bytes) exceeded "
    "while adding 500 bytes for user single-tenant",
    "ingestion rate limit (25000 spans) exceeded while adding 295 spans",
    "ingestion limit (15000 bytes) exceeded while adding 500 bytes for user x",
    "Request rate is too large",
    "request rate too large: retry later",
    "Quota exceeded for quota metric 'Requests' and limit 'Requests per minute'",
    "payload of 500 bytes exceeds the size left of the daily quota",
    "Too many requests",
    "exceeded the maximum of 1000 messages per second",
    "message size exceeds the burst of 4096 bytes",
    "max live traces exceeded for tenant x",
    "TRACE_TOO_LARGE: max size of trace (5000000) exceeded while adding 5 bytes",
    "the request queue is too large",
    "request was throttled: body exceeds the length permitted now",
    "too many concurrent requests of this size exceed the limit",
    "bandwidth exhausted: message larger than max left",
    "data refused due to high memory usage",
    "the stream was reset with ENHANCE_YOUR_CALM",
    "Bandwidth exhausted",
    "request took too long",
    "Request exceeded daily limit of 10 GB",
    "Request exceeded the hourly allowance of 10 MB",
    "the batch is too large for this minute",
    "message of 500 bytes would exceed limit of 4194304 bytes in flight",
    "max in-flight bytes exceeded: message exceeds limit of 4194304 bytes",
    "request too large for remaining tokens, retry later",
    "the payload is too large now, try again",
    "memory limit exceeded: request of 100 bytes exceeds 4 GiB of memory",
    "The request size exceeds the remaining throughput capacity (5 MB)",
    "overloaded: request is too large",
]


def refusal(code: Code, text: str, delay: float | None = None) -> Exception:
    return refusal_of(StatusError(code, f"{TARGET}: {text}", delay), TARGET)


@pytest.mark.parametrize("text", SIZE)
def test_a_size_is_halved(text: str) -> None:
    assert is_about_size(text)
    for code in (
        Code.RESOURCE_EXHAUSTED,
        Code.OUT_OF_RANGE,
        Code.UNKNOWN,
        Code.INTERNAL,
        Code.INVALID_ARGUMENT,
    ):
        assert isinstance(refusal(code, text), TooLargeError), code


@pytest.mark.parametrize("text", LIMITS)
def test_a_rate_limit_passes(text: str) -> None:
    assert not is_about_size(text)
    for delay in (None, 3.0):
        error = refusal(Code.RESOURCE_EXHAUSTED, text, delay)
        assert isinstance(error, RefusedError)
        assert (error.reason, error.retry_after) == ("rate_limited", delay)


def test_who_says_when_to_come_again_means_no_size() -> None:
    error = refusal(Code.RESOURCE_EXHAUSTED, SIZE[0], 1.0)
    assert isinstance(error, RefusedError)


@pytest.mark.parametrize(
    "text",
    [
        "headers are larger than 16384 bytes",
        "received metadata size exceeds hard limit (20000 vs. 16384)",
        "an answer of 9000000 bytes",
        "the answer: RESOURCE_EXHAUSTED: message is larger than 4 bytes when decompressed",
        "CLIENT: Received message larger than max (5 vs. 4)",
        "Stream removed (CLIENT: Received message larger than max (5 vs. 4))",
        "header list size to send violates the maximum size (8192 bytes) set by server",
    ],
)
def test_headers_and_responses_that_are_too_large_are_neither(text: str) -> None:
    for code in (Code.RESOURCE_EXHAUSTED, Code.INTERNAL):
        error = refusal(code, text)
        assert isinstance(error, RejectedError)
        assert not isinstance(error, TooLargeError)
        assert not error.about_data


@pytest.mark.parametrize(
    "text", ["HTTP status 429", "Received http2 header with status: 429"]
)
def test_a_proxys_rate_limit_is_one_too(text: str) -> None:
    error = refusal(Code.UNAVAILABLE, text, 7.0)
    assert isinstance(error, RefusedError)
    assert (error.reason, error.retry_after) == ("rate_limited", 7.0)


def test_a_proxys_408_is_sent_again() -> None:
    error = refusal(Code.UNKNOWN, "Received http2 header with status: 408")
    assert isinstance(error, RefusedError)
    assert error.reason is None


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL, Code.RESOURCE_EXHAUSTED])
def test_what_a_backend_says_is_one_line(code: Code) -> None:
    text = str(refusal(code, "a\n2026-11-30 error\x1b[2J\u202e"))
    assert text.isprintable()
    assert "a\\n2026-11-30 error\\x1b[2J\\u202e" in text


def test_other_statuses() -> None:
    error = refusal(Code.UNAVAILABLE, "message larger than max", 2.0)
    assert isinstance(error, RefusedError)
    assert (error.reason, error.retry_after) == (None, 2.0)
    for code, about_data in ((Code.INVALID_ARGUMENT, True), (Code.UNIMPLEMENTED, False)):
        error = refusal(code, "no")
        assert isinstance(error, RejectedError)
        assert error.about_data == about_data
