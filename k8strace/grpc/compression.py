"""Compression, in and out: within a limit and a budget, and never for long at a time.

Up to 1 MiB of a body is done at once, more of it by C threads: `compress` and `decompress`
return the result, or what to await for it. A decoder works within what is reserved for it
and comes back for more; where there is no more it fails, and never waits.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from k8strace import threads
from k8strace._codec import (
    DEFLATE,
    GZIP,
    IDENTITY,
    LZ4,
    SNAPPY,
    SNAPPY_FRAMED,
    ZLIB,
    ZSTD,
    CodecError,
    Deflation,
    Inflation,
    LimitError,
)
from k8strace.budget import Lease
from k8strace.errors import FAULT_RETRY_AFTER
from k8strace.grpc.status import Code, StatusError

MAGIC = b"\x1f\x8b"
"""How gzip begins, and no protobuf message does: it would be a field of wire type 7."""

ENCODINGS = {"none": IDENTITY, "gzip": GZIP, "zstd": ZSTD, "snappy": SNAPPY}
"""By the names that `grpc-encoding` and `compression` have, but for "none"."""

CONTENT_ENCODINGS = {
    "": IDENTITY,
    "identity": IDENTITY,
    "gzip": GZIP,
    "x-gzip": GZIP,  # RFC 9110, 8.4.1.3: the same
    "zstd": ZSTD,
    "deflate": DEFLATE,
    "zlib": ZLIB,
    "snappy": SNAPPY,
    "x-snappy-framed": SNAPPY_FRAMED,
    "lz4": LZ4,
}
"""By the names that Content-Encoding has, in lower case: the collector's (confighttp)."""

ACCEPT_ENCODING = ", ".join(name for name in CONTENT_ENCODINGS if name)
"""What an answer says of it: RFC 9110, 12.5.3, has it in those of 415."""

Later = Coroutine[Any, Any, bytes]


def compress(encoding: int, chunks: tuple[bytes, ...]) -> bytes | Later:
    """`chunks`, one after the other: a gzip member or zstd frame of level 1, or snappy.

    gzip up to 1 KiB is level 0: Huffman tables of its own would cost more than they save.
    """
    work = Deflation(encoding, chunks)
    if work.is_large:
        return _compress(work)
    while not work.is_done:
        work.run()
    return work.take()


async def _compress(work: Deflation) -> bytes:
    while not work.is_done:
        await threads.run(work)
        work.settle()
    return work.take()


def decompress(
    encoding: int, data: bytes, limit: int, lease: Lease | None
) -> bytes | Later:
    """Decompress `data` to at most `limit` bytes; `Inflation` says what it may be.

    `lease` holds `data` and grows with the output, which both exist until the end; then it
    holds exactly the output. Raises StatusError, at once or when awaited: INVALID_ARGUMENT
    for corrupt or truncated data, RESOURCE_EXHAUSTED over the limit, UNAVAILABLE when
    there is no room, or the system has no memory.
    """
    reserved = 0
    try:
        work = Inflation(encoding, data, limit)
        while not work.is_done:
            reserved = _reserve(lease, work.need, reserved)
            if work.is_large:
                return _decompress(work, lease, reserved)
            work.run()
    except (CodecError, MemoryError) as error:
        raise _status(error) from None
    return _take(work, lease)


async def _decompress(work: Inflation, lease: Lease | None, reserved: int) -> bytes:
    try:
        while True:
            await threads.run(work, lease)
            work.settle()
            if work.is_done:
                return _take(work, lease)
            reserved = _reserve(lease, work.need, reserved)
    except (CodecError, MemoryError) as error:
        raise _status(error) from None


def _take(work: Inflation, lease: Lease | None) -> bytes:
    if lease is not None:
        lease.shrink_to(work.size)
    return work.take()


def _reserve(lease: Lease | None, need: int, reserved: int) -> int:
    """Have `need` bytes reserved besides the data, of which `reserved` are."""
    amount = need - reserved
    if amount <= 0 or lease is None:
        return reserved
    if not lease.try_grow(amount):
        refusal = lease.budget.refusal(amount, lease.peer)
        raise StatusError(Code.UNAVAILABLE, str(refusal), refusal.retry_after)
    return need


def _status(error: CodecError | MemoryError) -> StatusError:
    if isinstance(error, MemoryError):
        text = "there is no memory to decompress the message"
        return StatusError(Code.UNAVAILABLE, text, FAULT_RETRY_AFTER)
    if isinstance(error, LimitError):
        return StatusError(Code.RESOURCE_EXHAUSTED, f"message is {error}")
    return StatusError(Code.INVALID_ARGUMENT, str(error))
