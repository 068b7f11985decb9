"""Room for messages that were announced and have not come whole.

What is announced is leased from the budget, and while it comes from a part of it, too: so
what is silent after it was announced never holds more than that part.
"""

from __future__ import annotations

from k8strace.budget import Lease
from k8strace.grpc import Admission

Leases = Lease | tuple[Lease, Lease]


def reserve(admission: Admission, peer: str, size: int, missing: int) -> Leases | None:
    """Room for a message of which `missing` bytes are to come; None where there is none."""
    lease = admission.lease(size, peer)
    if lease is None or not missing:
        return lease
    announced = admission.budget.coming
    coming = announced.lease(announced.amount(size), peer)
    return None if coming is None else (lease, coming)


async def admit(admission: Admission, size: int, peer: str, until: float) -> Leases | None:
    """Room for a message, as soon as there is some; None where there is none by `until`."""
    announced = admission.budget.coming
    amount = announced.amount(size)
    while await announced.opens(amount, peer, until):
        # Nothing is held while it is waited for the other one.
        lease = await admission.admit(size, peer, until)
        if lease is None:
            return None
        coming = announced.lease(amount, peer)
        if coming is not None:
            return lease, coming
        del lease
    return None
