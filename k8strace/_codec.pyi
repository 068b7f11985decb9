"""Compression in steps: each works within the room that it was given, then asks for more.

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
ZLIB: int
DEFLATE: int
SNAPPY: int
SNAPPY_FRAMED: int
LZ4: int

INLINE: int
"""Bytes, in and out, up to which a step takes so little time that no thread is needed."""

MAX_MEMBERS: int
"""gzip members, zstd or lz4 frames in a body: as many as 64 MiB in blocks of bgzip have."""

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
    """Decompress `data` to at most `limit` bytes.

    GZIP is one or more members, ZSTD and LZ4 one or more frames. ZLIB is one stream (RFC
    1950), DEFLATE the same or the raw deflate in it (RFC 1951). SNAPPY_FRAMED is google's
    framing format, SNAPPY that or one block.
    """

    def __new__(cls, encoding: int, data: bytes, limit: int) -> Inflation: ...

@final
class Deflation(Codec):
    """Compress `chunks`, one after the other: GZIP into one member, ZSTD into one frame,
    SNAPPY into the framing format, since that is what gRPC's `snappy` means."""

    def __new__(cls, encoding: int, chunks: tuple[bytes, ...]) -> Deflation: ...
