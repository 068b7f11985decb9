"""Status codes, and the one table from errors to gRPC statuses and HTTP statuses."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import IntEnum
from http import HTTPStatus

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from k8strace.budget import MAX_RETRY_AFTER, MIN_RETRY_AFTER
from k8strace.errors import (
    K8sTraceError,
    MalformedPayloadError,
    RefusedError,
    RejectedError,
    UnauthenticatedError,
    is_passing,
    passing_refusal,
)

MAX_MESSAGE = 1024  # bytes of a status message, percent-encoded as in grpc-message
"""gRPC's core takes 8 KiB of trailers, and makes of more RESOURCE_EXHAUSTED, for which
clients drop what they sent."""
MAX_REPEATED = 256  # bytes of it in the details, which grpc-go shows instead
MAX_ENCODED = 12  # bytes of one character, percent-encoded
CUT = "..."  # stands for what doesn't fit
MAX_DIGITS = 9  # of a Retry-After: 30 years
UNKNOWN_RETRY_AFTER = 1.0  # seconds to wait when nobody knows how long


class Code(IntEnum):
    """gRPC status codes (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


RETRYABLE = frozenset(
    {
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.ABORTED,
        Code.OUT_OF_RANGE,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)
"""Codes after which a client tries again (OTLP specification, "Failures").

RESOURCE_EXHAUSTED is one only when it comes with a RetryInfo.
"""

ABOUT_CALLER = frozenset(
    {
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
        Code.UNIMPLEMENTED,
        Code.NOT_FOUND,
    }
)
"""Codes that are not about the data: sending less of it cannot help."""

REJECT_REASONS = {
    Code.INVALID_ARGUMENT: "decode_error",
    Code.RESOURCE_EXHAUSTED: "msg_too_large",
    Code.UNAVAILABLE: "memory",
    Code.DEADLINE_EXCEEDED: "slow",
}
"""Under which reason a request is counted that a server ends with such a code."""

_HTTP = {
    Code.CANCELLED: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.ABORTED: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.OUT_OF_RANGE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DATA_LOSS: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_FOUND,
}


def capped(text: str, most: int) -> str:
    """As much of `text` as has at most `most` bytes when it is percent-encoded (gRPC's
    `PROTOCOL-HTTP2.md`, Status-Message), three for each byte that is not printable ASCII.

    What UTF-8 cannot have is replaced.
    """
    text = text[: most + 1].encode("utf-8", "replace").decode()
    if len(text) * MAX_ENCODED <= most:
        return text
    size, fits = 0, 0
    for end, character in enumerate(text, 1):
        plain = " " <= character <= "~" and character != "%"
        size += 1 if plain else 3 * len(character.encode())
        if size <= most - len(CUT):
            fits = end
        elif size > most:
            return text[:fits] + CUT
    return text


class StatusError(K8sTraceError):
    """A gRPC status other than OK.

    `message` is what of it fits into `MAX_MESSAGE`. `retry_delay` is the RetryInfo's, in
    seconds; None where there is none.
    """

    def __init__(self, code: Code, message: str, retry_delay: float | None = None) -> None:
        message = capped(message, MAX_MESSAGE)
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.retry_delay = retry_delay

    @property
    def retryable(self) -> bool:
        if self.code is Code.RESOURCE_EXHAUSTED:
            return self.retry_delay is not None
        return self.code in RETRYABLE

    @property
    def http_status(self) -> HTTPStatus:
        """The HTTP status, as the collector's otlp receiver maps codes.

        RESOURCE_EXHAUSTED without a delay is a message over the size limit: 413.
        """
        if self.code is Code.RESOURCE_EXHAUSTED and self.retry_delay is None:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return _HTTP.get(self.code, HTTPStatus.INTERNAL_SERVER_ERROR)

    def proto(self) -> Status:
        """The google.rpc.Status, with a RetryInfo where there is a delay."""
        return self._proto(self.message)

    def details(self) -> bytes:
        """What `grpc-status-details-bin` has; empty where the code says all.

        It repeats only the beginning of a long message: both are in the same trailers.
        """
        if self.retry_delay is None:
            return b""
        status = self._proto(capped(self.message, MAX_REPEATED))
        return bytes(status.SerializeToString())

    def _proto(self, message: str) -> Status:
        status = Status(code=self.code, message=message)
        if self.retry_delay is not None:
            info = RetryInfo()
            info.retry_delay.FromNanoseconds(int(self.retry_delay * 1e9))
            status.details.add().Pack(info)
        return status


def status_of(error: BaseException) -> StatusError:
    """The status that tells a client of `error`.

    A refusal always says when to come again: clients whose tries are bounded in time lose
    their spans when left to guess, or when told to wait for long.
    """
    if isinstance(error, StatusError):
        return error
    if isinstance(error, MalformedPayloadError):
        return StatusError(Code.INVALID_ARGUMENT, str(error))
    if isinstance(error, UnauthenticatedError):
        return StatusError(Code.UNAUTHENTICATED, str(error))
    if isinstance(error, RejectedError):
        internal = error.reason == "internal_error"
        code = Code.INTERNAL if internal else Code.INVALID_ARGUMENT
        return StatusError(code, str(error))
    if isinstance(error, RefusedError):
        delay = UNKNOWN_RETRY_AFTER if error.retry_after is None else error.retry_after
        delay = min(max(delay, MIN_RETRY_AFTER), MAX_RETRY_AFTER)
        return StatusError(Code.UNAVAILABLE, str(error), delay)
    if is_passing(error):
        return status_of(passing_refusal("the gateway", error))
    return StatusError(Code.INTERNAL, "internal error")


def retry_after(value: bytes | None) -> float | None:
    """Seconds from now by a `Retry-After` (RFC 9110, 10.2.3), None where it has no time.

    It is a number of seconds, or a date.
    """
    text = (value or b"").decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(text[:MAX_DIGITS])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for numbers beyond all dates
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def retry_delay(details: bytes) -> float | None:
    """Seconds from the RetryInfo in a `grpc-status-details-bin`, None without one.

    Bytes that are no Status count as none: they come from a peer.
    """
    status, info = Status(), RetryInfo()
    try:
        status.ParseFromString(details)
        for detail in status.details:
            if detail.Unpack(info):
                return max(0.0, float(info.retry_delay.ToNanoseconds()) / 1e9)
    except (DecodeError, ValueError, OverflowError):
        return None
    return None
