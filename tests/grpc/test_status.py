"""The one table from errors to gRPC and HTTP statuses, and RetryInfo there and back."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8strace.errors import MalformedPayloadError, RefusedError, RejectedError
from k8strace.grpc.status import (
    ABOUT_CALLER,
    MAX_MESSAGE,
    RETRYABLE,
    Code,
    StatusError,
    retry_delay,
    status_of,
)

HTTP = {
    Code.CANCELLED: 503,
    Code.DEADLINE_EXCEEDED: 503,
    Code.ABORTED: 503,
    Code.OUT_OF_RANGE: 503,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 503,
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.UNIMPLEMENTED: 404,
}


@pytest.mark.parametrize("code", [code for code in Code if code])
def test_retryable_and_http_as_otlp_says(code: Code) -> None:
    plain, delayed = StatusError(code, "x"), StatusError(code, "x", 1.0)
    if code is Code.RESOURCE_EXHAUSTED:
        assert not plain.retryable
        assert delayed.retryable
        assert plain.http_status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert delayed.http_status == HTTPStatus.TOO_MANY_REQUESTS
        return
    assert plain.retryable == delayed.retryable == (code in RETRYABLE)
    assert plain.http_status == HTTP.get(code, 500)
    assert plain.retryable == (plain.http_status == HTTPStatus.SERVICE_UNAVAILABLE)


def test_what_is_about_the_caller_is_never_retryable() -> None:
    assert not ABOUT_CALLER & RETRYABLE


@pytest.mark.parametrize(
    ("error", "code", "message", "delay"),
    [
        (MalformedPayloadError("odd", 3), Code.INVALID_ARGUMENT, "odd at byte 3", None),
        (RejectedError("no"), Code.INVALID_ARGUMENT, "no", None),
        (RejectedError("bug", "internal_error"), Code.INTERNAL, "bug", None),
        (RefusedError("full", 0.5), Code.UNAVAILABLE, "full", 0.5),
        (RefusedError("full"), Code.UNAVAILABLE, "full", 1.0),
        (RefusedError("full", 0.0), Code.UNAVAILABLE, "full", 0.1),
        (RefusedError("full", 30.0), Code.UNAVAILABLE, "full", 2.0),
        (KeyError("secret"), Code.INTERNAL, "internal error", None),
    ],
)
def test_status_of(error: Exception, code: Code, message: str, delay: float | None) -> None:
    status = status_of(error)
    assert (status.code, status.message, status.retry_delay) == (code, message, delay)


def test_a_status_is_its_own() -> None:
    status = StatusError(Code.ABORTED, "x")
    assert status_of(status) is status


def test_long_messages_are_cut() -> None:
    status = StatusError(Code.ABORTED, "x" * 10_000)
    assert len(status.message) == MAX_MESSAGE
    assert len(status.proto().message) == MAX_MESSAGE


@given(st.floats(0, 1e6))
def test_the_delay_comes_back(delay: float) -> None:
    status = StatusError(Code.UNAVAILABLE, "later", delay)
    found = retry_delay(status.proto().SerializeToString())
    assert found == pytest.approx(delay, abs=1e-6)


def test_no_delay() -> None:
    assert (
        retry_delay(StatusError(Code.UNAVAILABLE, "x").proto().SerializeToString()) is None
    )
    assert retry_delay(b"") is None


@given(st.binary())
def test_details_of_a_peer_are_never_trusted(details: bytes) -> None:
    found = retry_delay(details)
    assert found is None or found >= 0
