"""What is fuzzed, by name: functions of any bytes, which raise where a rule is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz.bodies import (
    config,
    deflate_body,
    gzip_body,
    lz4_body,
    snappy_body,
    zstd_body,
)
from tests.fuzz.connections import http_connection
from tests.fuzz.credentials import credential
from tests.fuzz.requests import otlp_json, trace_request
from tests.fuzz.segments import segment
from tests.fuzz.sessions import client_session, server_session

CORPUS = Path(__file__).parent / "corpus"
TARGETS: dict[str, Callable[[bytes], None]] = {
    "server_session": server_session,
    "client_session": client_session,
    "http_connection": http_connection,
    "trace_request": trace_request,
    "otlp_json": otlp_json,
    "segment": segment,
    "credential": credential,
    "gzip_body": gzip_body,
    "zstd_body": zstd_body,
    "deflate_body": deflate_body,
    "snappy_body": snappy_body,
    "lz4_body": lz4_body,
    "config": config,
}
"""Each has a folder of inputs in CORPUS."""


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
