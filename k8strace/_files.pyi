"""Files as jobs of threads that never take the GIL: a mount may never answer."""

from typing import final

from k8strace._threads import Port

@final
class Read:
    """What a regular file of at most `most` bytes holds, unless it is as it was `seen`.

    Raises ValueError for a path with a zero byte in it.
    """

    def __init__(
        self, path: bytes, most: int, seen: tuple[int, ...] | None = None
    ) -> None: ...
    def run(self) -> None:
        """Do it here."""

    def submit(self, port: Port, token: object) -> None:
        """Have a thread do it."""

    @property
    def error(self) -> int:
        """The system's error, 0 without one.

        EFBIG is a file that is larger than `most`, EINVAL one that is not regular.
        """

    @property
    def signature(self) -> tuple[int, int, int, int, int]:
        """Device, inode, size, seconds and nanoseconds of the last change, of what was
        found."""

    @property
    def content(self) -> bytes | None:
        """What is in it; None where it could not be read, or is as it was."""

@final
class Append:
    """Writes `parts` to the end of a regular file, all of them or nothing."""

    def __init__(self, file: int, parts: tuple[bytes, ...]) -> None: ...
    def submit(self, port: Port, token: object) -> None:
        """Have a thread do it."""

    @property
    def error(self) -> int:
        """The system's error, 0 without one."""

    @property
    def end(self) -> int:
        """Where the file ends: behind the parts, or on an error where they would begin."""

    @property
    def is_torn(self) -> bool:
        """Whether some of it is there and could not be taken back: cut it at `end`."""

@final
class Sync:
    """Brings a file to the disk, and closes the descriptor."""

    def __init__(self, file: int) -> None: ...
    def submit(self, port: Port, token: object) -> None:
        """Have a thread do it."""

    @property
    def error(self) -> int:
        """The system's error, 0 without one."""
