"""gzip and zstd in steps: each works within the room that it was given, then asks for more.

A caller looks at `need` until `is_done`: it reserves so many bytes, and calls `run`, or has
a thread do it (`submit`, then `settle`) where `is_large` says so. Methods raise CodecError
for what is malformed, LimitError where the output is over its limit, MemoryError.
"""

from typing import final

from typing_extensions import disjoint_base

from k8strace._threads import Port
from k8strace.errors import K8sTraceError

IDENTITY: int
GZIP: int
ZSTD: int

INLINE: int
"""Bytes, in and out, up to which a step takes so little time that no thread is needed."""

MAX_MEMBERS: int
"""gzip members or zstd frames in a body: as many as 64 MiB in blocks of bgzip have."""

MAX_WINDOW: int
"""Bytes before what is decoded that a zstd frame may refer to, as RFC 8878 recommends."""

class CodecError(K8sTraceError, ValueError): ...
class LimitError(CodecError): ...

@disjoint_base
class Codec:
    """What compression and decompression have in common."""

    need: int
    """Bytes for output and for what decodes it, without which it can't go on."""

    size: int
    """Bytes of output."""

    is_done: bool
    is_large: bool

    def run(self) -> None:
        """Go on, within the room that it needs."""

    def submit(self, port: Port, token: object) -> None:
        """Have a thread do what `run` does; nothing else is called until it has."""

    def settle(self) -> None:
        """Raise what went wrong in the thread."""

    def take(self) -> bytes:
        """The output, once it is done."""

@final
class Inflation(Codec):
    """Decompress `data`: one or more gzip members, or zstd frames, to `limit` bytes."""

    def __new__(cls, encoding: int, data: bytes, limit: int) -> Inflation: ...

@final
class Deflation(Codec):
    """Compress `chunks`, one after the other, into one gzip member or zstd frame."""

    def __new__(cls, encoding: int, chunks: tuple[bytes, ...]) -> Deflation: ...
