"""HTTP/1 that comes in: heads of requests by llhttp (httptools), and bodies.

No I/O and no limits of time: who calls decides how much of a head or a body there may be.

What httptools cannot do decides the border. It cannot pause, so it is given a head and
nothing behind it, by a parser of its own that goes with it: no state of one request is
there for the next, and a head that is refused ends nothing else. It does not tell how long
a chunk is or where a chunked body ends, so that `Chunks` reads that framing (RFC 9112,
section 7.1). Where a request asks for an upgrade, httptools passes over its body: ours is
read as its head says, and the upgrade is ignored.
"""

import sys
from typing import Any, final

from typing_extensions import Buffer

MAX_HEADERS: int
"""Fields of a head."""
MAX_FRAMING: int
"""Bytes of extensions and trailers of a chunked body beyond what its data excuses."""

@final
class HeadError(ValueError):
    """A head that is refused with the HTTP status `status`.

    The text names the rule that is broken and quotes nothing: a head has credentials.
    """

    status: int
    def __init__(self, status: int, text: str) -> None: ...

@final
class Request:
    """A request: its head as `parse` read it. What else it has is of who uses it."""

    method: bytes
    target: bytes
    """As it was sent: a path, or an absolute URL."""
    headers: list[tuple[bytes, bytes]]
    """Names in lower case, in the order in which they came."""
    length: int
    """Bytes of the body; -1 where it is chunked."""
    is_old: bool
    """Whether it is HTTP/1.0."""
    keeps_alive: bool
    expects_continue: bool
    size: int
    """Bytes of the head."""
    lease: Any
    """What holds its body in the budget."""
    coming: Any
    """What holds that until it has come, too."""
    here: int
    """Bytes of its body, or behind it, that are here with its head."""
    body: bytes
    encoding: int
    wait_until: float
    caller: Any
    @property
    def cost(self) -> int:
        """Bytes of memory that it takes, without its body."""

    @property
    def path(self) -> str:
        """The path of the target, percent-decoded. What is not UTF-8 is replaced."""

    @property
    def query(self) -> str:
        """What stands behind the question mark, as it was sent."""

    def parse(self, data: bytes) -> None:
        """Read a head, `data` with its empty line; once. Raises HeadError."""

    def guess(self, data: bytes) -> None:
        """Set the headers that may be in a head that is refused, for the error's form."""

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header whose name, in lower case, is `name`."""

    def on_url(self, data: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...

@final
class Body:
    """Bytes that are filled in place; its buffer is what is not filled yet, to write to."""

    def __init__(self, capacity: int) -> None: ...
    if sys.version_info >= (3, 12):  # before it is there for C alone
        def __buffer__(self, flags: int, /) -> memoryview: ...

    @property
    def capacity(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes that are filled."""

    @property
    def is_full(self) -> bool: ...
    def advance(self, size: int) -> None:
        """`size` bytes were written to the buffer. Raises ValueError for too many."""

    def fill(self, data: Buffer, start: int, end: int) -> None:
        """Append a part of `data`. Raises ValueError where it has no place."""

    def grow(self, capacity: int) -> None:
        """Have place for more. Raises BufferError while somebody has the buffer."""

    def take(self) -> bytes:
        """What is filled, without a copy; once. Raises BufferError as `grow` where the
        body is not full."""

@final
class Chunks:
    """Reads the framing of one chunked body, in time linear in its bytes."""

    @property
    def is_complete(self) -> bool: ...
    def decode(self, data: Buffer, start: int, end: int, body: Body | None) -> int:
        """Take what belongs to the body from `data`, and its data to `body`.

        Returns where it stopped: behind the end of the body, at `end`, or where `body` has
        no more place. Without a `body` data are thrown away. Raises HeadError (400) for
        framing that is wrong; once.
        """
