"""gzip by ISA-L, in steps, within a limit and a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from isal import igzip_lib

from k8strace.budget import Lease
from k8strace.grpc.status import Code, StatusError

MAGIC = b"\x1f\x8b"
"""How gzip begins, and no protobuf message does: it would be a field of wire type 7."""

LEVEL = 1
STEP = 1024 * 1024  # output that is inflated at a time where the size isn't known
FEED = 64 * 1024  # input that is given at a time; what follows a member is copied each time
MAX_RATIO = 1032  # deflate cannot pack more densely
MAX_MEMBERS = 4096  # bounds the copying, and is enough for 64 MiB in blocks of bgzip

_IsalError = cast("type[Exception]", igzip_lib.IsalError)


def gzip(chunks: Sequence[bytes]) -> bytes:
    """`chunks`, one after the other, as one gzip member."""
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    packed: bytes = igzip_lib.compress(data, LEVEL, igzip_lib.COMP_GZIP)
    return packed


def gunzip(data: bytes, limit: int, lease: Lease | None) -> bytes:
    """Inflate one or more gzip members to at most `limit` bytes.

    `lease` holds `data` and grows with the output, which both exist until this returns;
    then it holds exactly the output. Raises StatusError: INVALID_ARGUMENT for corrupt or
    truncated data, RESOURCE_EXHAUSTED over the limit, UNAVAILABLE when there is no room.
    """
    parts: list[bytes] = []
    size = 0
    reserved = 0
    step = _likely_size(data, limit)
    for member in _Members(data):
        while not member.eof:
            want = min(step, limit - size) + 1  # one more, to see what is over the limit
            if lease is not None and size + want > reserved:
                _reserve(lease, size + want - reserved)
                reserved = size + want
            part = member.inflate(want)
            size += len(part)
            if size > limit:
                raise StatusError(
                    Code.RESOURCE_EXHAUSTED,
                    f"message is larger than {limit} bytes when decompressed",
                )
            if part:
                parts.append(part)
            step = STEP
    if lease is not None:
        lease.shrink_to(size)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _Members:
    """The members of `data`, one after the other, as an iterator over itself."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._fed = 0
        self._count = 0
        self._inflator = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    def __iter__(self) -> _Members:
        return self

    def __next__(self) -> _Members:
        if self._count:
            self._fed -= len(self._inflator.unused_data)
            if self._fed == len(self._data):
                raise StopIteration
            self._inflator = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise _corrupt(f"more than {MAX_MEMBERS} members")
        return self

    @property
    def eof(self) -> bool:
        ended: bool = self._inflator.eof
        return ended

    def inflate(self, size: int) -> bytes:
        """Up to `size` bytes more of the present member; empty only at its end."""
        while True:
            piece: bytes | memoryview = b""
            if self._inflator.needs_input:
                piece = self._data[self._fed : self._fed + FEED]
                if not piece:
                    raise _corrupt("truncated")
                self._fed += len(piece)
            try:
                part: bytes = self._inflator.decompress(piece, size)
            except _IsalError as error:
                raise _corrupt(str(error)) from None
            if part or self._inflator.eof:
                return part


def _likely_size(data: bytes, limit: int) -> int:
    """The size that the last member says it has, if it can be true."""
    size = int.from_bytes(data[-4:], "little")
    return size if size <= min(limit, MAX_RATIO * len(data)) else STEP


def _reserve(lease: Lease, amount: int) -> None:
    if not lease.try_grow(amount):
        refusal = lease.budget.refusal(amount, lease.peer)
        raise StatusError(Code.UNAVAILABLE, str(refusal), refusal.retry_after)


def _corrupt(what: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, f"gzip: {what}")
