"""Compressed bodies and configurations made of any bytes."""

from __future__ import annotations

import zlib
from contextlib import suppress

import zstandard

from k8strace._codec import GZIP, ZSTD
from k8strace.config import load
from k8strace.errors import ConfigError
from k8strace.grpc.compression import compress, decompress
from k8strace.grpc.status import Code, StatusError

LIMIT = 1 << 18  # bytes of what is decompressed


def inflated(encoding: int, body: bytes) -> bytes | Code:
    """What comes of a body, or the status that refuses it."""
    try:
        found = decompress(encoding, body, LIMIT, None)
    except StatusError as error:
        if error.code in (Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED):
            return error.code
        raise
    assert isinstance(found, bytes)
    assert len(found) <= LIMIT
    return found


def gzip_body(data: bytes) -> None:
    """zlib agrees on what it takes in, member by member."""
    found = inflated(GZIP, data)
    rest = data
    parts: list[bytes] = []
    try:
        while rest or not parts:
            member = zlib.decompressobj(31)
            parts.append(member.decompress(rest, LIMIT + 1))
            if len(parts[-1]) > LIMIT:
                return  # it is over, or wrong behind that: either may be said
            if not member.eof:
                raise zlib.error("it is cut off")  # noqa: TRY301
            rest = member.unused_data
    except zlib.error:
        assert isinstance(found, Code), "zlib refuses it"
        return
    whole = b"".join(parts)
    if len(whole) <= LIMIT:
        assert found == whole or isinstance(found, Code)
    round_trip(GZIP, data)


def zstd_body(data: bytes) -> None:
    """Where the oracle's libzstd, which is newer and stricter, takes it in, they agree."""
    found = inflated(ZSTD, data)
    if isinstance(found, bytes):
        oracle = zstandard.ZstdDecompressor(max_window_size=1 << 23)
        with oracle.stream_reader(data, read_across_frames=True) as reader:
            with suppress(zstandard.ZstdError):
                assert reader.read() == found
    round_trip(ZSTD, data)


def round_trip(encoding: int, data: bytes) -> None:
    packed = compress(encoding, (data[:7], b"", data[7:]))
    assert isinstance(packed, bytes)
    assert inflated(encoding, packed) == data


def config(data: bytes) -> None:
    """Any text is a configuration or has errors; what it names outside is not looked at."""
    if b"${" in data:
        return
    try:
        text = data.decode()
        load([f"yaml:{text}"])
    except (UnicodeDecodeError, ConfigError):
        pass
