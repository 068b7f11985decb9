"""What can be asked of glibc's heap; without glibc nothing happens."""

from typing import final

from k8strace._threads import Port

IS_GLIBC: bool

@final
class Trim:
    """A job for a C thread: give what is free in the heap back to the system."""

    def submit(self, port: Port, token: object) -> None: ...

def keep(amount: int) -> bool:
    """Keep up to `amount` bytes that are freed, in one arena; False without glibc.

    Blocks of more than half of that are the system's own, and go back to it when freed.
    """
