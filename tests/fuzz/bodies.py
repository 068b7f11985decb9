"""Compressed bodies and configurations made of any bytes."""

from __future__ import annotations

import zlib
from contextlib import suppress
from io import BytesIO

import lz4.frame
import zstandard

from k8strace._codec import DEFLATE, GZIP, LZ4, SNAPPY, SNAPPY_FRAMED, ZLIB, ZSTD
from k8strace.config import load
from k8strace.errors import ConfigError
from k8strace.grpc.compression import compress, decompress
from k8strace.grpc.status import Code, StatusError
from tests.support.snappy import IDENTIFIER, content_of_block, content_of_frames

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


def deflate_body(data: bytes) -> None:
    """zlib agrees on what it takes in, with its header or without."""
    for encoding, bits in ((ZLIB, 15), (DEFLATE, -15)):
        found = inflated(encoding, data)
        if isinstance(found, Code):
            continue
        with_header = encoding == DEFLATE and inflated(ZLIB, data) == found
        stream = zlib.decompressobj(15 if with_header else bits)
        assert stream.decompress(data) == found
        assert stream.eof
        assert not stream.unused_data
    packed = zlib.compress(data, 1)
    assert inflated(ZLIB, packed) == inflated(DEFLATE, packed) == data
    assert inflated(DEFLATE, packed[2:-4]) == data


def snappy_body(data: bytes) -> None:
    """As block and as frames it is what the specifications say."""
    is_framed = data.startswith(IDENTIFIER)
    for encoding, read in (
        (SNAPPY, content_of_frames if is_framed or not data else content_of_block),
        (SNAPPY_FRAMED, content_of_frames),
    ):
        found = inflated(encoding, data)
        if isinstance(found, bytes) and data:
            assert read(data) == found
    round_trip(SNAPPY, data)


def lz4_body(data: bytes) -> None:
    """Where another liblz4 takes it in, they agree."""
    found = inflated(LZ4, data)
    if isinstance(found, bytes):
        with suppress(RuntimeError, EOFError):
            assert lz4.frame.open(BytesIO(data)).read() == found
    for size in (True, False):
        assert inflated(LZ4, lz4.frame.compress(data, store_size=size)) == data


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
