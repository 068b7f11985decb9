"""Options of the collector's HTTP servers that those of our own pages do not have."""

from __future__ import annotations

from collections.abc import Mapping

_NO_ACCESS = "keep endpoint on localhost, or in a network that only those reach who may"
_LEAVE_OUT = "leave it out"

NOT_AVAILABLE: Mapping[str, str] = {
    "tls": _NO_ACCESS,
    "auth": _NO_ACCESS,
    **dict.fromkeys(
        (
            *("compression_algorithms", "cors", "idle_timeout", "include_metadata"),
            *("keep_alives_enabled", "max_request_body_size", "middlewares"),
            *("read_header_timeout", "read_timeout", "response_headers", "transport"),
            "write_timeout",
        ),
        _LEAVE_OUT,
    ),
}
"""Name → what to do instead."""
