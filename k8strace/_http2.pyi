"""What the sessions of gRPC over HTTP/2 have in common: no sockets, no clocks, no tasks."""

from typing import Any

from typing_extensions import disjoint_base

from k8strace.errors import K8sTraceError

__pyx_capi__: dict[str, Any]

class ProtocolError(K8sTraceError):
    """What a peer sent is no HTTP/2, or too much of it: its connection is over.

    `reason` is one of `grpc.REJECT_REASONS` where it is to be counted.
    """

    reason: str | None

class HeadersTooLargeError(ProtocolError):
    """A block of headers that is many times larger than it may be."""

@disjoint_base
class Session:
    """Bytes come in, events and bytes go out. Floods of empty frames end it.

    `is_up` says that the peer's SETTINGS came, `pongs` how many answers to pings did.
    """

    is_up: bool
    pongs: int

    @property
    def is_over(self) -> bool:
        """Nothing more can come or go: the connection is to be closed."""

    @property
    def has_output(self) -> bool: ...
    def ping(self) -> None: ...
    def goaway(self) -> None:
        """Refuse new streams; the session is over with the last that runs."""
