"""The one table from errors to gRPC and HTTP statuses, and RetryInfo there and back."""

from __future__ import annotations

import errno
import time
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import quote

import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from k8strace.errors import MalformedPayloadError, RefusedError, RejectedError
from k8strace.grpc.status import (
    ABOUT_CALLER,
    MAX_MESSAGE,
    MAX_REPEATED,
    RETRYABLE,
    Code,
    StatusError,
    retry_after,
    retry_delay,
    status_of,
)

UNESCAPED = "".join(chr(code) for code in range(0x20, 0x7F) if code != 0x25)
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


@pytest.mark.parametrize(
    "text", ["x", "ü", "花", "\U0001f600", "%", "\n", "\ud800", "a花%"]
)
def test_long_messages_are_cut_to_what_they_take_in_a_header(text: str) -> None:
    status = StatusError(Code.ABORTED, text * 10_000, 1.0)
    encoded = quote(status.message, safe=UNESCAPED)
    assert MAX_MESSAGE - 12 <= len(encoded) <= MAX_MESSAGE
    assert status.message.endswith("...")
    assert status.proto().message == status.message
    repeated = Status.FromString(status.details()).message
    assert len(quote(repeated, safe=UNESCAPED)) <= MAX_REPEATED
    assert retry_delay(status.details()) == 1.0
    assert len(str(status)) < MAX_MESSAGE + 20


def test_short_messages_stay_and_are_repeated() -> None:
    """grpc-go's clients show the text of the details."""
    text = "ünïcode: 花\n100 %"
    status = StatusError(Code.ABORTED, text, 1.0)
    assert status.message == Status.FromString(status.details()).message == text
    exact = "x" * MAX_MESSAGE
    assert StatusError(Code.ABORTED, exact).message == exact
    assert StatusError(Code.ABORTED, exact).details() == b""


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("can't start new thread"),
        TimeoutError(),
    ],
    ids=repr,
)
def test_faults_of_the_machine_pass(fault: Exception) -> None:
    status = status_of(fault)
    assert (status.code, status.retry_delay) == (Code.UNAVAILABLE, 1.0)
    assert status.http_status == HTTPStatus.SERVICE_UNAVAILABLE


@pytest.mark.parametrize(
    "bug", [RuntimeError("odd"), KeyError(1), RecursionError()], ids=repr
)
def test_defects_do_not(bug: Exception) -> None:
    assert status_of(bug).code is Code.INTERNAL


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"7", 7.0),
        (b" 120 ", 120.0),
        (b"9" * 50, 999_999_999.0),
        (b"Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        (b"", None),
        (b"-1", None),
        (b"soon", None),
        (b"\xb2", None),
        (b"Wed, 99 Oct 9999999 07:28:00 GMT", None),
        (b"Wed, 21 Oct 2015 07:28:00 +999999999999999999", None),
        (b"Wed, 21 Oct 2015 99999999999999999999:28:00 GMT", None),
        (None, None),
    ],
)
def test_retry_after(value: bytes | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_a_date() -> None:
    later = formatdate(time.time() + 90, usegmt=True).encode()
    assert 60 < (retry_after(later) or 0) <= 90


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
