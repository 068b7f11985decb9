"""The fields of a request, counted without it being read."""

from __future__ import annotations

import pytest

from k8strace._complexity import fields_within
from k8strace.errors import MalformedPayloadError
from tests.support.wire import field, group, span
from tests.support.wire import request as written


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", 0),
        (field(1, b""), 1),
        (field(9, 1) + field(1, field(3, b"url")), 3),
        (written(), 2),
        (written(span()), 5),
        (written(b"", resource=field(1, field(1, field(1, b"k")))), 6),
        (written(b"", scope=field(1, field(1, b"name") + field(2, b"1"))), 6),
        (written(field(9, field(1, b"k") + field(2, field(5, field(1, b"") * 7)))), 14),
        (written(field(5, field(1, b"") * 7)), 4),  # a name is text, whatever is in it
        (written(group(3, field(1, b"") * 7)), 4),
    ],
)
def test_fields_of_all_messages(body: bytes, fields: int) -> None:
    assert fields_within((body,), fields) == fields
    assert fields_within((body, body), 2 * fields) == 2 * fields
    if fields:
        assert fields_within((body, body), 2 * fields - 1) is None


@pytest.mark.parametrize("body", [b"\x0a\x05", b"\x0b", written(b"\x4a\x05")])
def test_fields_of_what_is_no_request(body: bytes) -> None:
    with pytest.raises(MalformedPayloadError):
        fields_within((body,), 100)
