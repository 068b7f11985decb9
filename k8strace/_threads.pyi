"""C threads that never take the GIL, and ports through which they report.

Compiled code submits jobs to a port, and a thread does them: one of THREADS at the most in
a process, or where it will wait for the disk one of DISK_THREADS, or where it may wait for
ever one of HANGING_THREADS. A job that finds none idle starts one. A forked child has none
of its parent's and starts its own.
"""

from typing import Any, Self, final

THREADS: int
DISK_THREADS: int
HANGING_THREADS: int
COMPUTING: int
DISK: int
HANGING: int

@final
class Port:
    """The way back from the threads, to one event loop. Raises OSError without one."""

    def __new__(cls, pool: int = 0) -> Self: ...
    running: int
    """Jobs that `finished` has not told of."""

    def fileno(self) -> int:
        """It is readable when a job has ended."""

    def finished(self) -> list[Any]:
        """The tokens of jobs that have ended since the last time."""

def close() -> None:
    """Wait for all jobs and end the threads; the next job starts new ones.

    Threads of HANGING are not waited for while one of them has something to do.
    """

def started() -> int:
    """The number of threads."""

def forget() -> None:
    """In a forked child: its parent's threads are not here, nor is their work."""
