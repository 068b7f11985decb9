"""Room for messages that were announced and have not come."""

from __future__ import annotations

from k8strace.budget import Budget, Lease
from k8strace.grpc import Admission

LARGE = 64 * 1024  # bytes; smaller messages don't count as announced

Leases = Lease | tuple[Lease, Lease]


class Announced(Budget):
    """The room for messages that are to come, of which no peer ever has more than half."""

    __slots__ = ()

    def share(self, peer: str) -> int:  # noqa: ARG002
        return self.limit // 2

    def amount(self, size: int) -> int:
        """What a message counts; the largest has to fit, too."""
        return min(size, self.limit // 2)

    def reserve(self, admission: Admission, size: int, peer: str) -> Leases | None:
        """Room for a message by `admission`, and where it is large, for its coming."""
        if size <= LARGE:
            return admission.lease(size, peer)
        coming = self.lease(self.amount(size), peer)
        if coming is None:
            return None
        lease = admission.lease(size, peer)
        return None if lease is None else (lease, coming)
