"""Hashes of passwords by libxcrypt, and Apache's, for threads that never take the GIL."""

from typing import final

from k8strace._threads import Port

LONGEST: int
"""Bytes of a phrase, over which no hash is made."""

@final
class Hash:
    """The hash of `phrase` by the method, cost and salt that `setting` begins with.

    It is a job of `threads`. Its memory is wiped when it goes. Raises ValueError for zero
    bytes.
    """

    def __new__(cls, phrase: bytes, setting: bytes) -> Hash: ...
    def run(self) -> None:
        """Do it here: some methods take as long as they were told to."""

    def submit(self, port: Port, token: object) -> None:
        """Have a thread do it."""

    @property
    def value(self) -> bytes | None:
        """The hash once it is made; None where the method or the phrase is not possible."""
