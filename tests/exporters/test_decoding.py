"""Requests are decoded in pieces, and what could not be held is not decoded."""

from __future__ import annotations

import pytest

from k8strace.budget import Budget
from k8strace.errors import RejectedError
from k8strace.exporters._decoding import MAX_BYTES, decoded
from k8strace.payload import Payload
from tests.support.pipeline import payload
from tests.support.wire import field, span
from tests.support.wire import request as written

MIB = 1024 * 1024


def test_what_is_decoded_is_the_request() -> None:
    assert len(decoded(payload(3), Budget(MIB)).resource_spans) == 1


def test_what_cannot_be_read_is_rejected() -> None:
    with pytest.raises(RejectedError, match="cannot be decoded") as caught:
        decoded(Payload((b"\x0a\x7f",), 1, 2), Budget(MIB))
    assert caught.value.reason == "decode_error"


def test_a_span_that_would_take_all_memory_is_not_decoded() -> None:
    body = written(span(more=field(9, b"") * MAX_BYTES))
    one = Payload((body,), 1, len(body))
    with pytest.raises(RejectedError, match="too large to be decoded") as caught:
        decoded(one, Budget(64 * len(body)))
    assert caught.value.reason == "msg_too_large"
    assert len(decoded(one, Budget(128 * len(body))).resource_spans) == 1
